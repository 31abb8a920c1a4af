"""Which files of this project a stage's result depends on: the import closure of its script.

    python -m pipeline.checks.code_deps          where the code deps in dvc.yaml differ from it
    python -m pipeline.checks.code_deps --write  puts them right

dvc.yaml and ladder/dvc.yaml list them file by file: a folder would rerun a stage for files that
it never reads. Imports inside functions count, and so does a module started by name
("reprogpt.training.trainer" given to `python -m`). Imports under TYPE_CHECKING do not.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

from pipeline.cli import Parser, one_line

EXEMPT = {
    **{f"src/reprogpt/{name}.py": "values stand in params.yaml, what it may leave out in a test"
       for name in ("config/__init__", "config/params", "config/recipe", "config/sections")},
    "src/reprogpt/config/yaml_file.py": "how params.yaml is read and its errors are told",
    "src/reprogpt/config/messages.py": "how errors in params.yaml are told",
    "src/reprogpt/errors.py": "how errors are told",
    "src/reprogpt/storage/fetch.py": "every file that it fetches is checked by sha256",
    "src/reprogpt/storage/http.py": "how fetch.py moves bytes; checked likewise",
    "src/reprogpt/storage/paths.py": "where files are looked for, not what they hold",
    "src/reprogpt/launch/launcher.py": "how processes are started; results do not depend on it",
    "src/reprogpt/launch/torchrun.py": "how processes are watched; what they compute is training's",
    "src/reprogpt/launch/run_dir.py": "where a run is kept, not what is in it",
    "src/reprogpt/runtime/workers.py": "how jobs are spread over cores; each does the same",
    "src/reprogpt/runtime/signals.py": "how a run is stopped; a resumed run has the same weights",
    "pipeline/__init__.py": "the border that every stage passes: params in, seal, exit codes",
    "pipeline/cli.py": "how a command says what its user got wrong",
    "pipeline/preset.py": "writes params.yaml, whose values are tracked",
    "pipeline/checks/seal.py": "fails a stage whose inputs moved; never changes a result",
}
NOT_FOLLOWED = {
    "pipeline/checks/preflight.py": "refuses what this machine has not, and changes no result",
    "src/reprogpt/training/periodic_eval.py": "evaluates while a model trains and changes no "
                                              "weight: an edit of how samples are drawn must not "
                                              "cost a training",
}
EXEMPT |= NOT_FOLLOWED
STAGES = ("download", "tokenize", "train", "evaluate", "sample")
LADDER_STAGES = ("tokens", "climb", "page")


def closure(script: Path, root: Path) -> set[str]:
    """Every file under ``root`` that ``script`` imports, directly or not, itself included.

    What only a file of NOT_FOLLOWED imports is left out.
    """
    found: set[str] = set()
    todo = [script]
    while todo:
        path = todo.pop()
        name = path.relative_to(root).as_posix()
        if name not in found:
            found.add(name)
            if name in NOT_FOLLOWED:
                continue
            tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
            todo += [file for module in _modules(tree) for file in _files(module, root)]
    return found


def code_deps(stage: str, root: Path, scripts: str = "pipeline") -> list[str]:
    """What dvc.yaml lists for ``stage``: the closure of its script, less what is exempt."""
    files = {f for f in closure(root / scripts / f"{stage}.py", root) - EXEMPT.keys()
             if not f.endswith("/__init__.py")}  # docstrings, and names exported from elsewhere
    return sorted(files, key=lambda f: (f.startswith("src/"), f))


def _modules(tree: ast.AST) -> Iterator[str]:
    for node in _nodes(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def _nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """ast.walk without the branches that only a type checker enters."""
    todo = [tree]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            todo += node.orelse
            continue
        yield node
        todo += ast.iter_child_nodes(node)


def _files(module: str, root: Path) -> Iterator[Path]:
    """The files of a dotted module name (and of its packages) if it is one of ours."""
    parts = module.split(".")
    if not all(part.isidentifier() for part in parts):
        return
    for source in (root / "src", root):
        if not (source / parts[0] / "__init__.py").is_file():
            continue
        for depth in range(1, len(parts) + 1):
            path = source.joinpath(*parts[:depth])
            for file in (path / "__init__.py", path.with_suffix(".py")):
                if file.is_file():
                    yield file


def main() -> int:
    """0 if every dvc.yaml lists its stages' closures, else 1 and the difference."""
    parser = Parser(__doc__)
    parser.add_argument("--write", action="store_true")
    write = parser.parse_args().write
    wrong = [_compare(Path("dvc.yaml"), "pipeline", STAGES, write),
             _compare(Path("ladder/dvc.yaml"), "ladder", LADDER_STAGES, write)]
    return int(any(wrong) and not write)


def _compare(dvc_file: Path, scripts: str, stages: tuple[str, ...], write: bool) -> bool:
    """Whether a file's code deps were wrong; says how, and puts them right when asked to."""
    from ruamel.yaml import YAML

    yaml = YAML()
    yaml.width = 100
    yaml.indent(mapping=2, sequence=4, offset=2)
    pipeline = yaml.load(dvc_file.read_text(encoding="utf-8"))
    wrong = False
    for stage in stages:
        deps, wanted = pipeline["stages"][stage]["deps"], code_deps(stage, Path(), scripts)
        listed = [dep for dep in deps if dep.endswith(".py")]
        if listed != wanted:
            wrong = True
            for sign, files in (("-", set(listed) - set(wanted)), ("+", set(wanted) - set(listed))):
                print("".join(f"{stage}: {sign} {file}\n" for file in sorted(files)), end="")
            deps[:] = wanted + [dep for dep in deps if not dep.endswith(".py")]
    if wrong and write:
        with dvc_file.open("w", encoding="utf-8") as file:
            yaml.dump(pipeline, file)
    return wrong


if __name__ == "__main__":
    with one_line():
        sys.exit(main())
