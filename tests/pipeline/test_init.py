"""The frame of a stage: errors end in one line, the right exit code, and nothing touched."""

import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.checks.code_deps import STAGES
from tests.conftest import ROOT, clean_environment, edit, run


@pytest.mark.parametrize("stage", STAGES)
def test_bad_params_end_in_one_line_and_exit_code_2(stage: str, checkout: Path) -> None:
    edit(checkout, "train.lr", "-1")
    before = sorted(p for p in checkout.rglob("*") if "__pycache__" not in p.parts)
    done = run("python", "-m", f"pipeline.{stage}", cwd=checkout)
    assert done.returncode == 2
    assert done.stderr.startswith("params.yaml: train.lr=-1 must be greater than 0; ")
    assert len(done.stderr.splitlines()) == 1
    assert sorted(p for p in checkout.rglob("*") if "__pycache__" not in p.parts) == before


def test_outs_behind_a_link_are_refused_before_the_download(checkout: Path, tmp_path: Path) -> None:
    """DVC would say so too, once all is downloaded."""
    (tmp_path / "disk").mkdir()
    (checkout / "data").symlink_to(tmp_path / "disk")
    done = run("python", "-m", "pipeline.download", cwd=checkout)
    assert done.returncode == 2
    assert done.stderr.startswith(f"data: is a link to {tmp_path / 'disk'}, outside of this check")
    assert "dvc cache dir" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not any((tmp_path / "disk").iterdir())


def test_a_config_error_inside_a_stage_is_one_line_and_exit_code_2(checkout: Path) -> None:
    script = ("from pipeline import stage\nfrom reprogpt.errors import ConfigError\n"
              "with stage('sample'):\n    raise ConfigError('said plainly')\n")
    done = run("python", "-c", script, cwd=checkout)
    assert (done.returncode, done.stderr) == (2, "said plainly\n")


@pytest.mark.parametrize(("raised", "code", "said"), [
    ("OSError(28, 'No space left on device', 'metrics/x')", 1,
     "sample: metrics/x: No space left on device; free some space, then the same command continues "
     "from what is finished\n"),
    ("OSError('x: a damaged piece was removed; run the stage again')", 1,
     "sample: x: a damaged piece was removed; run the stage again\n"),
    ("RuntimeError('[enforce fail] DefaultCPUAllocator: can\\'t allocate memory: 8 bytes')", 1,
     "sample: memory is full; close other programs, or ask for less at a time ([enforce fail] "
     "DefaultCPUAllocator: can't allocate memory: 8 bytes)\n"),
    ("ValueError('a server said \\x1b[31mred')", 1, "a server said \\x1b[31mred\n"),
    ("KeyboardInterrupt", 130,
     "sample: interrupted; the same command continues from what is finished\n"),
])
def test_a_disk_and_ctrl_c_are_one_line_too(checkout: Path, raised: str, code: int, said: str
                                            ) -> None:
    script = f"from pipeline import stage\nwith stage('sample'):\n    raise {raised}\n"
    done = run("python", "-c", script, cwd=checkout)
    assert (done.returncode, done.stderr) == (code, said)


def test_a_stage_imports_this_checkout_whatever_is_installed(checkout: Path) -> None:
    script = ("import os, pipeline, reprogpt, subprocess, sys\n"
              "print(reprogpt.__file__)\n"
              "subprocess.run([sys.executable, '-c', 'import reprogpt; print(reprogpt.__file__)'])")
    done = run("python", "-c", script, cwd=checkout)
    assert done.stderr == ""
    assert set(done.stdout.split()) == {str(checkout / "src/reprogpt/__init__.py")}


def test_a_stage_whose_dvc_is_gone_already_does_not_begin() -> None:
    """A process takes the session of the one that started it; its next parent has another."""
    done = subprocess.run([sys.executable, "-c", "import pipeline; print('at work')"], cwd=ROOT,
                          env=clean_environment() | {"DVC_STAGE": "train"}, text=True,
                          start_new_session=True, capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "DVC has ended, so this stage does; run dvc repro again\n"


def test_windows_is_told_of_wsl() -> None:
    done = run("python", "-c", "import sys; sys.platform = 'win32'; import pipeline", cwd=ROOT)
    assert done.returncode == 1
    assert "WSL" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_python_without_the_packages_is_told_so_in_one_line(checkout: Path) -> None:
    """-S: no site-packages, as in a shell in which the environment is not on the PATH."""
    done = run("python", "-S", "-m", "pipeline.plan", cwd=checkout)
    assert done.returncode == 2
    assert "it is not the project's Python; make setup" in done.stderr
    assert len(done.stderr.splitlines()) == 1
