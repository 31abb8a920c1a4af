"""The notebooks: commands and displays only, without outputs, and executed with tiny runs."""

import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from tests.conftest import ROOT, clean_environment, run
from tests.small_project import trained_project

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
DISPLAY = re.compile(r'(Code|HTML|Image|Markdown|SVG)\(filename="[\w./]+"\)')
THIN = re.compile(rf"|(\w+ = )?[!%].+|from IPython\.display import [\w, ]+|{DISPLAY.pattern}")


def cells(notebook: Path) -> list[Any]:
    read = nbformat.read(notebook, as_version=4)
    nbformat.validate(read)
    return read.cells


def code(notebook: Path) -> list[Any]:
    return [cell for cell in cells(notebook) if cell.cell_type == "code"]


def is_thin(source: str) -> bool:
    """Whether a cell holds shell commands, magics and displays of a file, and nothing else."""
    commands = source.startswith("%%bash -e\n")
    return commands or all(THIN.fullmatch(line) for line in source.splitlines())


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_thin_and_has_no_outputs(notebook: Path) -> None:
    assert len(code(notebook)) > 10
    for cell in code(notebook):
        assert is_thin(cell.source), cell.source
        assert cell.outputs == []
        assert cell.execution_count is None
    assert sum("parameters" in cell.metadata.get("tags", []) for cell in code(notebook)) == 1


def test_logic_is_found() -> None:
    assert is_thin('SVG(filename="ladder/ladder.svg")')
    assert is_thin("folder = !pwd\n%cd {folder.s}")
    for logic in ("x = 1", "import os", "for i in range(3):\n    !dvc repro", "%cd ..\nprint(1)"):
        assert not is_thin(logic), logic


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_what_a_notebook_names_exists(notebook: Path) -> None:
    text = "\n".join(cell.source for cell in cells(notebook))
    for module in re.findall(r"-m ((?:pipeline|exercises)[\w.]*)", text):
        assert (ROOT / f"{module.replace('.', '/')}.py").is_file(), module
    for name in re.findall(r"exercises\.check (\w+)", text):
        assert (ROOT / f"exercises/{name}.py").is_file(), name
    for link in re.findall(r"\]\((\.\.[^)]+)\)", text):
        assert (notebook.parent / link).exists(), link
    presets = re.findall(r"(?:PRESET|PRETRAINED)=([\w-]+)|pipeline\.preset ([\w-]+)", text)
    for name in filter(None, (a or b for a, b in presets)):
        assert (ROOT / f"presets/{name}.yaml").is_file(), name


def execute(project: Path, name: str, parameters: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Runs a notebook in ``project`` with other parameters; returns all that it printed."""
    for key, value in clean_environment().items():
        monkeypatch.setenv(key, value)
    notebook = nbformat.read(project / f"notebooks/{name}.ipynb", as_version=4)
    for cell in notebook.cells:
        if "parameters" in cell.metadata.get("tags", []):
            cell.source = parameters
    assert run("git", "init", "-q", cwd=project).returncode == 0
    NotebookClient(notebook, timeout=600, kernel_name="python3",
                   resources={"metadata": {"path": str(project / "notebooks")}}).execute()
    outputs = [out for cell in notebook.cells if cell.cell_type == "code" for out in cell.outputs]
    shown = sum(out.output_type == "execute_result" for out in outputs)
    displays = sum(bool(DISPLAY.search(cell.source)) for cell in notebook.cells)
    assert shown == displays
    assert not (project / ".venv").exists()
    return "".join(out.text for out in outputs if out.output_type == "stream")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_lecture_1_runs(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (checkout / "text.txt").write_text("the quick brown fox jumps over the lazy dog.\n" * 200)
    params = checkout / "ladder/params.yaml"
    text = params.read_text().replace("corpus: tinyshakespeare", "corpus: files")
    text = text.replace("files: null", "files: [text.txt]")
    text = re.sub(r"warmup_steps: \d+", "warmup_steps: 0", text)
    params.write_text(re.sub(r"max_steps: \d+", "max_steps: 2", text))
    printed = execute(checkout, "lecture1", "%env PRESET=tiny", monkeypatch)
    assert "preset tiny; dvc repro runs it" in printed
    assert len(list((checkout / "ladder/models").iterdir())) == 9
    assert (checkout / "metrics/samples.md").is_file()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_lecture_2_runs(checkout: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    model = trained_project(tmp_path / "small") / "models/gpt"
    tiny = "--layers 1 --width 64 --rows 1 --block 16 --repeats 1 --no-compile"
    printed = execute(checkout, "lecture2", f"%env PRESET=tiny\n%env GPT2={model}\n"
                      f"%env PRETRAINED=tiny\n%env SPEED_LADDER={tiny}", monkeypatch)
    assert "wpe.weight" in printed
    last = printed.index("preset overfit-one-batch")
    assert re.search(r"(?m)^200,0\.00\d", printed[last:])
    assert "fused AdamW" in printed
    assert "val_loss" in printed
