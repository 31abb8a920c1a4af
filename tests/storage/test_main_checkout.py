"""A user's own files are found in a temporary copy of the project, too."""

from pathlib import Path

from reprogpt.storage.paths import local_path, main_checkout


def test_a_copy_of_dvcs_looks_into_the_main_checkout(tmp_path: Path) -> None:
    copy = tmp_path / ".dvc/tmp/exps/tmpabc"
    (copy / "models").mkdir(parents=True)
    (tmp_path / "models/books").mkdir(parents=True)
    assert main_checkout(copy) == tmp_path
    assert main_checkout(tmp_path) == tmp_path
    assert local_path("models/books", copy) == tmp_path / "models/books"
    assert local_path("models/nope", copy) == copy / "models/nope"
    (copy / "models/books").mkdir()
    assert local_path("models/books", copy) == copy / "models/books"
    assert local_path(str(tmp_path / "x"), copy) == tmp_path / "x"
    assert local_path("~", copy) == Path.home()
    for odd in ("a\0b", "\ud800", "~nobody-has-this-name/x", "x" * 5000):
        assert local_path(odd, copy) == copy / odd
