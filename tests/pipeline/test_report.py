"""The command that writes report.html."""

import pytest

from tests.conftest import copy_checkout, run

pytestmark = pytest.mark.slow
CSV = """step,train_loss,val_loss,lr,grad_norm,tokens,seconds,tokens_per_second
10,9.0,nan,0.001,1.5,5120,1.0,5120
20,8.0,8.25,0.002,1.25,10240,2.0,5120
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A checkout in which a run trains: its curve grows, and it has no model yet."""
    folder = copy_checkout(tmp_path_factory.mktemp("report") / "project")
    (folder / "metrics/train.csv").write_text(CSV)
    return folder


def report(project, *options):
    return run("python", "-m", "pipeline.report", *options, cwd=project, OMP_NUM_THREADS="1")


def test_a_report_is_written_while_a_run_trains(project):
    done = report(project)
    assert done.returncode == 0, done.stderr
    text = (project / "report.html").read_text()
    assert "an unfinished run" in text
    assert ">validation, last 8.250</text>" in text
    assert "<b>20 of 1,000</b>" in text


def test_revisions_are_put_beside_this_run(project):
    for command in (("init", "-q"), ("add", "-f", "."), ("commit", "-qm", "before"),
                    ("tag", "before")):
        assert run("git", "-c", "core.hooksPath=/dev/null", *command, cwd=project).returncode == 0
    (project / "metrics/train.csv").write_text(CSV.replace("8.25", "7.75"))
    done = report(project, "--rev", "before", "--out", "both.html")
    assert done.returncode == 0, done.stderr
    text = (project / "both.html").read_text()
    for label in ("before: validation, last 8.250", "this run: validation, last 7.750"):
        assert f">{label}</text>" in text


@pytest.mark.parametrize(("options", "words"), [
    (("--prompt", "abc"), "models/gpt"), (("--rev", "nosuch"), "nosuch"),
    (("--rev", "HEAD", "--prompt", "abc"), "leave --rev out")])
def test_a_mistake_ends_in_one_line(project, options, words):
    done = report(project, *options)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert words in done.stderr


def test_make_report_hands_on_revisions_and_prompt(project):
    done = run("make", "-n", "report", "REV=a,b", "PROMPT=it's \"so\"", "HEAD=2", cwd=project)
    command = " ".join(done.stdout.replace("\\\n", "").split())
    assert '-m pipeline.report --rev "a,b" --prompt "$PROMPT" --head 2' in command
