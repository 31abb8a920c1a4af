"""The rules of the house that a machine can check: packages on floors, imports that point down."""

import ast
import re
from pathlib import Path

import pytest

from tests.conftest import ROOT, run

LIBRARY = ROOT / "src/reprogpt"
FLOORS = (
    ("errors", "runtime"),
    ("config", "storage"),
    ("tokens", "model", "launch"),
    ("data", "formats"),
    ("encoding", "generation"),
    ("evaluation",),
    ("training",),
    ("planning",),
)
"""From the ground up: a package imports only packages of lower floors (and itself)."""
FLOOR = {package: floor for floor, packages in enumerate(FLOORS) for package in packages}
FILES = sorted(".".join(p.relative_to(LIBRARY).with_suffix("").parts)
               for p in LIBRARY.rglob("*.py") if p != LIBRARY / "__init__.py")
HEAVY = {"datasets", "dvc", "gigatoken", "huggingface_hub", "lm_eval", "matplotlib", "pandas",
         "pyarrow", "transformers", "zstandard"}


def path_of(name: str) -> Path:
    return LIBRARY / f"{name.replace('.', '/')}.py"


def imported(name: str) -> set[str]:
    """The packages of the library that a file imports anywhere, itself less."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path_of(name).read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "reprogpt":
            parts = str(node.module).split(".")
            found |= {parts[1]} if parts[1:] else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names
                      if alias.name.startswith("reprogpt.")}
    return found - {name.split(".")[0]}


def test_every_package_has_its_floor_and_a_line_in_the_readme() -> None:
    assert {name.split(".")[0] for name in FILES} == set(FLOOR)
    tree = (ROOT / "README.md").read_text()
    for package in FLOOR:
        assert re.search(rf"(?m)^ +{package}(/|\.py) +\S", tree), package


@pytest.mark.parametrize("name", FILES)
def test_imports_point_down(name: str) -> None:
    own = FLOOR[name.split(".")[0]]
    upward = {package for package in imported(name) if FLOOR[package] >= own}
    assert not upward, f"{name} imports {sorted(upward)}, which stand no lower"


@pytest.mark.parametrize("script", sorted(p.name for p in (ROOT / "benchmarks").glob("*.py")))
def test_a_benchmark_measures_the_checkout_that_it_stands_in(script: str) -> None:
    text = (ROOT / "benchmarks" / script).read_text()
    if "__main__" in text and re.search(r"(?m)^from (reprogpt|pipeline)", text):
        # benchmarks/__init__.py sets it for those that `python -m` starts.
        assert re.search(r'sys\.path.*"src"|(?m:^from benchmarks import ROOT)', text)


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
    script = ("import sys, reprogpt.data.corpora, reprogpt.encoding.tokenize_corpus\n"
              "import reprogpt.formats.hub_model, reprogpt.launch.launcher\n"
              "sys.exit('torch' in sys.modules)")
    done = run("python", "-c", script, cwd=ROOT, PYTHONPATH="src")
    assert done.returncode == 0, done.stderr


def test_training_imports_with_few_packages() -> None:
    """A machine with GPUs needs only torch, numpy, tiktoken, ruamel.yaml, pydantic, safetensors
    and tqdm."""
    script = f"""
import importlib.abc, sys
class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.split(".")[0] in {HEAVY | {'yaml'}!r}:
            raise ModuleNotFoundError(name, name=name)
sys.meta_path.insert(0, Absent())
import reprogpt.training.process, reprogpt.launch.launcher
import reprogpt.evaluation.report, reprogpt.generation.samples
"""
    done = run("python", "-c", script, cwd=ROOT, PYTHONPATH="src")
    assert done.returncode == 0, done.stderr


