"""The rules of the house that a machine can check: README's tree is the order of imports."""

import ast
import re
from pathlib import Path

import pytest

from tests.conftest import ROOT, run

LIBRARY = ROOT / "src/reprogpt"
FILES = sorted(".".join(p.relative_to(LIBRARY).with_suffix("").parts)
               for p in LIBRARY.rglob("*.py") if p.stem != "__init__")
HEAVY = {"datasets", "dvc", "huggingface_hub", "pandas", "pyarrow", "ruamel", "transformers",
         "zstandard"}


def tree() -> list[str]:
    """The library's modules in the order of README's tree: `model`, or `corpus.raw` in a folder."""
    below = (ROOT / "README.md").read_text().split("    src/reprogpt/")[1].split("    ladder/")[0]
    found, folder = [], ""
    for deeper, name, kind in re.findall(r"(?m)^      (  )?(\w+)(\.py|/) +\S", below):
        folder = folder if deeper else ""
        if kind == "/":
            folder = f"{name}."
        else:
            found.append(folder + name)
    return found


def path_of(name: str) -> Path:
    return LIBRARY / f"{name.replace('.', '/')}.py"


def imported(name: str) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path_of(name).read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("reprogpt"):
            found |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {module.removeprefix("reprogpt.") for module in found} & set(FILES)


def test_the_readme_has_every_file_of_the_library_once() -> None:
    assert sorted(tree()) == FILES


@pytest.mark.parametrize("name", FILES)
def test_a_file_imports_only_what_stands_above_it(name: str) -> None:
    order = tree()
    above = set(order[: order.index(name)])
    assert imported(name) <= above, f"{sorted(imported(name) - above)} stand below {name}"


@pytest.mark.parametrize("script", sorted(p.name for p in (ROOT / "benchmarks").glob("*.py")))
def test_a_benchmark_measures_the_checkout_that_it_stands_in(script: str) -> None:
    text = (ROOT / "benchmarks" / script).read_text()
    if "__main__" in text and re.search(r"(?m)^from (reprogpt|pipeline)", text):
        assert re.search(r'sys\.path.*"src"', text)


def test_no_file_is_a_drawer() -> None:
    names = {part for file in FILES for part in file.split(".")}
    assert not {"utils", "util", "common", "helpers", "misc"} & names


@pytest.mark.parametrize("name", FILES)
def test_what_is_slow_to_import_stands_in_a_function(name: str) -> None:
    module = ast.parse(path_of(name).read_text())
    names = {alias.name for node in module.body if isinstance(node, ast.Import)
             for alias in node.names}
    names |= {str(node.module) for node in module.body if isinstance(node, ast.ImportFrom)}
    assert not {n.split(".")[0] for n in names} & HEAVY


def test_text_is_downloaded_and_tokenized_without_torch() -> None:
    script = ("import sys, reprogpt.corpora, reprogpt.tasks, reprogpt.tokenization\n"
              "import reprogpt.corpus.hub, reprogpt.launch\n"
              "sys.exit('torch' in sys.modules)")
    done = run("python", "-c", script, cwd=ROOT, PYTHONPATH="src")
    assert done.returncode == 0, done.stderr


def test_training_imports_with_few_packages() -> None:
    """A machine with GPUs needs no more than torch, numpy, tiktoken, pyyaml, pydantic, safetensors
    and tqdm."""
    script = f"""
import importlib.abc, sys
class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.split(".")[0] in {HEAVY!r}:
            raise ModuleNotFoundError(name, name=name)
sys.meta_path.insert(0, Absent())
import reprogpt.train, reprogpt.launch, reprogpt.report, reprogpt.samples
"""
    done = run("python", "-c", script, cwd=ROOT, PYTHONPATH="src")
    assert done.returncode == 0, done.stderr


