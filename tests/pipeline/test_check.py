"""`python -m pipeline.check`: what `make repro` asks before DVC deletes anything."""

from pathlib import Path

from tests.conftest import ROOT, edit, run


def test_check_looks_at_every_section_before_dvc_deletes_anything(checkout: Path) -> None:
    run("git", "init", "-q", cwd=checkout)
    assert run("python", "-m", "pipeline.check", cwd=checkout).returncode == 0
    edit(checkout, "runtime.nproc", "none")
    done = run("python", "-m", "pipeline.check", cwd=checkout)
    assert done.returncode == 2
    assert "runtime.nproc=none must be a whole number or 'auto'; " in done.stderr


def test_make_repro_checks_before_it_starts_dvc() -> None:
    recipe = (ROOT / "Makefile").read_text().split("\nrepro:")[1].split("\n\n")[0]
    assert recipe.index("pipeline.check") < recipe.index("dvc repro")


def test_an_unpacked_archive_is_told_to_become_a_repository(checkout: Path) -> None:
    done = run("python", "-m", "pipeline.check", cwd=checkout)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert str(checkout) in done.stderr
    assert "git init" in done.stderr
    (checkout / ".dvc/config.local").write_text("[core]\n    no_scm = true\n")
    assert run("python", "-m", "pipeline.check", cwd=checkout).returncode == 0
