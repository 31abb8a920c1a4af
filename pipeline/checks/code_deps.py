"""Which files of this project a stage's result depends on: the import closure of its script.

    python -m pipeline.checks.code_deps          where the code deps in dvc.yaml differ from it
    python -m pipeline.checks.code_deps --write  corrects them: FILES

Imports inside functions count, and so do modules started by name ("reprogpt.training.process"
given to `python -m`). Imports by a name that is put together at run time do not: so a GPT does not
depend on lecture 1's models (model/registry.py).
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

from ruamel.yaml import YAML

from pipeline.cli import Parser, one_line

EXEMPT = {
    "src/reprogpt/config/": "reads params.yaml, whose values are tracked, and words its errors",
    "src/reprogpt/errors.py": "only words error messages",
    "src/reprogpt/storage/fetch.py": "every file that it fetches is checked by sha256",
    "src/reprogpt/storage/http.py": "moves bytes for fetch.py, which checks them",
    "src/reprogpt/storage/paths.py": "says where files are looked for, not what they hold",
    "src/reprogpt/launch/": "starts and watches processes; results do not depend on it",
    "src/reprogpt/runtime/contention.py": "says that others use the processor",
    "src/reprogpt/runtime/workers.py": "spreads jobs over cores; each job does the same",
    "src/reprogpt/runtime/progress.py": "shows what is done, and changes no result",
    "src/reprogpt/evaluation/reference_band.py": "compares results with expected ones",
    "src/reprogpt/training/process.py": "starts a training, and words its errors",
    "src/reprogpt/training/train_bar.py": "shows what is done, and changes no result",
    "src/reprogpt/training/tracker.py": "hands rows of metrics/train.csv on",
    "src/reprogpt/runtime/signals.py": "stops a run; a resumed run has the same weights",
    "pipeline/__init__.py": "what every stage begins and ends with: params, seal, exit codes",
    "pipeline/cli.py": "words the errors of commands",
    "pipeline/queue_share.py": "which cores and GPUs a stage uses, not what it computes",
    "pipeline/preset.py": "writes params.yaml, whose values are tracked",
    "pipeline/checks/": "refuses or fails a stage, and changes no result",
    "pipeline/stage_times.py": "notes how long a stage took",
}
"""Files and folders that are no dep, each with the reason."""
NOT_FOLLOWED = {
    "pipeline/checks/preflight.py": "refuses what this machine lacks",
    "src/reprogpt/training/periodic_eval.py": "evaluates during training and changes no weight: "
                                              "an edit to sampling must not cost a training",
}
"""The same for these, and for what only they import."""
EXEMPT |= NOT_FOLLOWED
IMPORTED_BY_NAME = {
    "src/reprogpt/training/optimizer.py": "src/reprogpt/training/${train.optimizer}.py",
}
"""File -> what it imports by the value of a param: DVC fills in the dep from params.yaml, so a run
depends on its own choice alone."""
STAGES = ("download", "tokenize", "train", "evaluate", "sample")
LADDER_STAGES = ("tokens", "climb", "page")
FILES = {"dvc.yaml": "pipeline", "ladder/dvc.yaml": "ladder", "ladder/sweeps/dvc.yaml":
         "ladder/sweeps", "scaling/dvc.yaml": "scaling"}
"""Each dvc.yaml, and the folder of its stages' scripts."""


def closure(script: Path, root: Path) -> set[str]:
    """Every file under ``root`` that ``script`` imports, directly or not, itself included; less
    what is imported by a file of NOT_FOLLOWED alone."""
    found: set[str] = set()
    todo = [script]
    while todo:
        path = todo.pop()
        name = path.relative_to(root).as_posix()
        if name in found:
            continue
        found.add(name)
        if name not in NOT_FOLLOWED:
            tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
            todo += [file for module in _modules(tree) for file in _files(module, root)]
    return found


def code_deps(stage: str, root: Path, scripts: str = "pipeline") -> list[str]:
    """What dvc.yaml lists for ``stage``: its script's closure without EXEMPT, and without
    packages' `__init__`, which hold docstrings and names from elsewhere."""
    files = [file for file in closure(root / scripts / f"{stage}.py", root)
             if not file.startswith(tuple(EXEMPT)) and not file.endswith("/__init__.py")]
    files += [IMPORTED_BY_NAME[file] for file in files if file in IMPORTED_BY_NAME]
    return sorted(files, key=lambda file: (file.startswith("src/"), file))


def _modules(tree: ast.AST) -> Iterator[str]:
    """Dotted names that a file imports, and every string in it: it may name a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def _files(module: str, root: Path) -> Iterator[Path]:
    """The files of a module of this project and of the packages around it."""
    parts = module.split(".")
    if not all(part.isidentifier() for part in parts):
        return
    for source in (root / "src", root):
        if (source / parts[0] / "__init__.py").is_file():
            for depth in range(1, len(parts) + 1):
                path = source.joinpath(*parts[:depth])
                yield from filter(Path.is_file, (path / "__init__.py", path.with_suffix(".py")))


def differences(dvc_file: Path, scripts: str, write: bool) -> list[str]:
    """`stage: + file` for each code dep that ``dvc_file`` lacks, `-` for each that it has too many;
    with ``write`` the file is corrected."""
    yaml = YAML()
    yaml.width = 100
    yaml.indent(mapping=2, sequence=4, offset=2)
    pipeline = yaml.load(dvc_file.read_text(encoding="utf-8"))
    found = []
    for stage, entry in pipeline["stages"].items():
        wanted = code_deps(stage, Path(), scripts)
        listed = [dep for dep in entry["deps"] if dep.endswith(".py")]
        found += [f"{stage}: - {file}" for file in listed if file not in wanted]
        found += [f"{stage}: + {file}" for file in wanted if file not in listed]
        entry["deps"][:] = wanted + [dep for dep in entry["deps"] if not dep.endswith(".py")]
    if found and write:
        with dvc_file.open("w", encoding="utf-8") as file:
            yaml.dump(pipeline, file)
    return found


def main() -> int:
    """0 if the files list their stages' closures, or were corrected; else 1."""
    parser = Parser(__doc__)
    parser.add_argument("--write", action="store_true")
    write = parser.parse_args().write
    found = [line for file, scripts in FILES.items()
             for line in differences(Path(file), scripts, write)]
    print(*found, sep="\n", end="\n" if found else "")
    return int(bool(found) and not write)


if __name__ == "__main__":
    with one_line():
        sys.exit(main())
