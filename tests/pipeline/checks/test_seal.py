"""An edit of a stage's params or code while it runs makes the stage fail and is named."""

import hashlib
from pathlib import Path

from pipeline.checks.seal import Seal
from tests.conftest import run

EDITOR = """
import sys
from pathlib import Path
from pipeline import stage
with stage({stage!r}):
    path = Path({path!r})
    path.write_text(path.read_text().replace({old!r}, {new!r}))
"""


def sealed(project: Path, stage: str, path: str, old: str, new: str) -> tuple[int, str]:
    """A stage in whose body a file is edited: (exit code, standard error)."""
    assert old in (project / path).read_text()
    script = EDITOR.format(stage=stage, path=path, old=old, new=new)
    done = run("python", "-c", script, cwd=project)
    return done.returncode, done.stderr


def test_an_edit_of_its_params_while_a_stage_runs_is_named(checkout: Path) -> None:
    code, said = sealed(checkout, "sample", "params.yaml", "top_k: 50", "top_k: 7")
    assert code == 1
    assert said == ("params.yaml changed while sampling: sample.top_k 50 -> 7; "
                    "put it back and run dvc repro\n")


def test_an_edit_of_another_stage_s_params_breaks_no_seal(checkout: Path) -> None:
    assert sealed(checkout, "train", "params.yaml", "top_k: 50", "top_k: 7") == (0, "")


def test_a_switch_that_appears_while_a_stage_runs_is_named(checkout: Path) -> None:
    code, said = sealed(checkout, "train", "params.yaml", "  deterministic: true\n",
                        "  deterministic: true\n  max_loss_spike: 3.0\n")
    assert code == 1
    assert "train.max_loss_spike absent -> 3" in said


def test_a_params_file_that_no_longer_parses_breaks_the_seal(checkout: Path) -> None:
    code, said = sealed(checkout, "sample", "params.yaml", "sample:", "sample: [")
    assert code == 1
    assert "changed while sampling" in said


def test_an_edit_of_its_source_while_a_stage_runs_is_named(checkout: Path) -> None:
    code, said = sealed(checkout, "train", "src/reprogpt/model/gpt.py", "import torch\n",
                        "import torch  # edited\n")
    assert code == 1
    assert said == ("src/reprogpt/model/gpt.py changed while training; "
                    "put it back and run dvc repro\n")


def test_deps_may_name_a_param_and_the_value_of_a_matrix(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("train: {optimizer: muon}\nrungs: {head: {lr: 1}}\n")
    (tmp_path / "dvc.yaml").write_text(
        "stages:\n  climb:\n    deps: ['${train.optimizer}.py', data]\n"
        "    params: ['rungs.${item.rung}']\n")
    (tmp_path / "muon.py").write_text("x")
    seal = Seal.take("climb@head", tmp_path / "dvc.yaml")
    assert seal.sources == {str(tmp_path / "muon.py"): hashlib.sha256(b"x").hexdigest()}
    assert seal.values == {(str(tmp_path / "params.yaml"), "rungs.head.lr"): 1}
    assert seal.changed() is None
    (tmp_path / "params.yaml").write_text("train: {optimizer: adamw}\nrungs: {head: {lr: 1.0}}\n")
    assert "rungs.head.lr 1 -> 1.0" in str(seal.changed())
