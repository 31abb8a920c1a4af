"""What the commands say of a user's mistakes: one line on standard error, exit code 2."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.checks.code_deps import LADDER_STAGES, STAGES
from pipeline.cli import Parser, one_line, require
from tests.conftest import ROOT, run

SCRIPTS = [*(f"pipeline.{name}" for name in (*STAGES, "check")),
           *(f"ladder.{name}" for name in LADDER_STAGES)]


def refused(*command: str, cwd: Path = ROOT, **environment: str) -> str:
    """The one line of a command that must be refused, and must write nothing else."""
    done = run("python", "-m", *command, cwd=cwd, **environment)
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1, done.stderr
    return done.stderr.rstrip("\n")


@pytest.mark.parametrize("script", SCRIPTS)
def test_what_takes_no_argument_refuses_one_and_has_a_help(script: str) -> None:
    mistake = ["head", "/tmp/other.yaml"] if script == "ladder.climb" else ["/tmp/other.yaml"]
    said = refused(script, *mistake)
    assert said == (f"python -m {script}: unrecognized arguments: /tmp/other.yaml; "
                    "--help shows what it takes")
    done = run("python", "-m", script, "-h" if script.startswith("ladder") else "--help", cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")
    assert str(importlib.import_module(script).__doc__).strip() in done.stdout


def test_a_python_that_is_not_the_project_s_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    require("pydantic", "torch")
    with pytest.raises(SystemExit):
        require("torch", "no_such_package")
    said = capsys.readouterr().err
    assert "has no no_such_package: it is not the project's Python; make setup, then" in said


def test_a_climb_without_a_rung_names_the_rungs() -> None:
    said = refused("ladder.climb")
    assert said.startswith("ladder/params.yaml: rungs has no ''; choose one of bigram, ")


@pytest.mark.parametrize("script", ["chat", "checks.code_deps", "compare", "convert",
                                    "inspect_model"])
def test_an_unknown_option_is_one_line(script: str) -> None:
    said = refused(f"pipeline.{script}", "--nothing")
    assert said.startswith(f"python -m pipeline.{script}: ")
    assert said.endswith("; --help shows what it takes")
    done = run("python", "-m", f"pipeline.{script}", "--help", cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"usage: python -m pipeline.{script}" in done.stdout


@pytest.mark.parametrize(("error", "code", "said"), [
    (ValueError("file: wrong;\n  fix it"), 2, "file: wrong; fix it"),
    (PermissionError(13, "Permission denied", "/x"), 2,
     "/x: Permission denied; name another file or folder"),
    (KeyboardInterrupt(), 130, "stopped"),
])
def test_an_error_out_of_a_command_is_one_line(
    error: BaseException, code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end, one_line():
        raise error
    assert end.value.code == code
    err = capsys.readouterr().err
    assert err.rstrip("\n").endswith(said)
    assert err.count("\n") == 1


def test_what_is_wrong_with_the_program_itself_is_no_user_s_mistake() -> None:
    with pytest.raises(AssertionError), one_line():
        raise AssertionError("ours")


def test_a_reader_that_goes_away_is_no_error() -> None:
    script = "from pipeline.cli import one_line\nwith one_line():\n    print('x' * 100_000)\n"
    reader, writer = os.pipe()
    os.close(reader)
    code = f"import os, sys; os.dup2({writer}, 1); os.close({writer})\n" + script
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, pass_fds=[writer], text=True,
                          stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")


def test_a_parser_says_its_script_s_name(capsys: pytest.CaptureFixture[str]) -> None:
    parser = Parser("About.")
    parser.add_argument("--size", type=int)
    with pytest.raises(SystemExit) as end:
        parser.parse_args(["--size", "many"])
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert "argument --size: invalid int value: 'many'; --help" in said
    assert said.count("\n") == 1
