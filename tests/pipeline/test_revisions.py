"""Files of commits and experiments, also while DVC's lock is held."""

import pytest

from pipeline import revisions
from reprogpt.errors import ConfigError
from tests.conftest import run


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A repository whose commit `first` has curve.csv = 1 in DVC and note.txt = a in git; the
    experiment `exp` has 2 and a; the working tree has 3 and b."""
    folder = tmp_path_factory.mktemp("project")
    git = ("git", "-c", "core.hooksPath=/dev/null")
    for command in (("git", "init", "-q"), ("dvc", "init", "-q")):
        assert run(*command, cwd=folder).returncode == 0
    (folder / "note.txt").write_text("a")
    for value in ("1", "2"):
        (folder / "curve.csv").write_text(value)
        for command in (("dvc", "add", "-q", "curve.csv"), (*git, "add", "."),
                        (*git, "commit", "-qm", f"run {value}")):
            assert run(*command, cwd=folder).returncode == 0
    for command in (("tag", "first", "HEAD~1"), ("update-ref", f"refs/exps/ab/{'c' * 38}/exp",
                                                 "HEAD"), ("reset", "-q", "--soft", "HEAD~1")):
        assert run(*git, *command, cwd=folder).returncode == 0
    (folder / "curve.csv").unlink()
    (folder / "curve.csv").write_text("3")
    (folder / "note.txt").write_text("b")
    return folder


def test_files_are_read_without_waiting_for_dvcs_lock(project, monkeypatch):
    from dvc.repo import Repo

    monkeypatch.setattr(revisions, "ROOT", project)
    with Repo(str(project)).lock:
        for revision, curve, note in (("first", b"1", b"a"), ("exp", b"2", b"a"),
                                      (revisions.HERE, b"3", b"b")):
            assert revisions.read(revision, "curve.csv") == curve
            assert revisions.read(revision, "note.txt") == note
            assert revisions.read(revision, "absent.txt") is None


def test_an_unknown_revision_is_an_error(project, monkeypatch):
    monkeypatch.setattr(revisions, "ROOT", project)
    with pytest.raises(ConfigError, match=r"--rev=nosuch .*dvc exp show"):
        revisions.about("nosuch")


def test_a_file_that_left_dvcs_cache_is_said_to_be_left_out(project, monkeypatch, capsys):
    monkeypatch.setattr(revisions, "ROOT", project)
    cached = next(p for p in (project / ".dvc/cache").rglob("*") if p.is_file()
                  and p.read_text() == "1")
    content = cached.read_bytes()
    cached.unlink()
    try:
        assert revisions.read("first", "curve.csv") is None
    finally:
        cached.write_bytes(content)
    assert "first: left out curve.csv" in capsys.readouterr().err


def test_a_commit_is_named(project, monkeypatch):
    monkeypatch.setattr(revisions, "ROOT", project)
    assert revisions.about("first")["commit"].endswith(": run 1")
    assert revisions.about("exp")["commit"].endswith(": run 2")
    here = revisions.about(revisions.HERE)
    assert here["commit"].endswith(": run 1")
    assert "torch" in here["software"]
    assert "cores" in here["this machine"]


def test_edited_sources_are_named(project, monkeypatch):
    monkeypatch.setattr(revisions, "ROOT", project)
    assert "edited since" not in revisions.about(revisions.HERE)  # note.txt is no source
    (project / "src").mkdir()
    for k in range(7):
        (project / f"src/{k}.py").write_text("")
        run("git", "add", "src", cwd=project)
    assert revisions.about(revisions.HERE)["edited since"].endswith("src/4.py and 2 more")
