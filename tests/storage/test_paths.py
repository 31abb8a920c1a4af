"""Paths and globs of the user's files: where they are looked for, what they may not name."""

from pathlib import Path

import pytest

from reprogpt.errors import ConfigError
from reprogpt.storage.paths import local_path, main_checkout, matching


def project(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    return folder


def test_a_temporary_copy_falls_back_to_the_main_checkout(tmp_path: Path) -> None:
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


def test_globs_are_relative_absolute_or_from_home(tmp_path: Path,
                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    root = project(tmp_path / "root", "my/b.txt", "my/deep/a.txt", "my/c.md")
    home = project(tmp_path / "home", "books/h.txt")
    monkeypatch.setenv("HOME", str(home))
    assert list(matching("k", ["my/*.txt"], root)) == ["my/b.txt"]
    assert list(matching("k", ["my"], root)) == ["my/b.txt", "my/c.md", "my/deep/a.txt"]
    assert list(matching("k", ["my/**x*.txt", "my/*.md"], project(root, "my/xx.txt"))) == [
        "my/c.md", "my/xx.txt"]
    found = matching("k", [f"{root}/my/*.md", "~/books/*"], root)
    assert found == {str(p): p for p in (home / "books/h.txt", root / "my/c.md")}
    monkeypatch.chdir(root)
    assert matching("k", ["my/*.md"]) == {"my/c.md": Path("my/c.md")}


def test_hidden_files_below_a_folder_are_no_texts(tmp_path: Path) -> None:
    root = project(tmp_path, "my/a.txt", "my/._a.txt", "my/.ipynb_checkpoints/a.txt",
                   "my/deep/.git/x", "my/deep/b.txt", ".own/c.txt")
    for pattern in ("my", "my/", "my/**"):
        assert list(matching("k", [pattern], root)) == ["my/a.txt", "my/deep/b.txt"]
    assert list(matching("k", [".own", "my/._a.txt"], root)) == [".own/c.txt", "my/._a.txt"]
    assert list(matching("k", [str(root / "my")], root)) == [
        f"{root}/my/a.txt", f"{root}/my/deep/b.txt"]


def test_a_path_that_exists_is_no_glob(tmp_path: Path) -> None:
    root = project(tmp_path, "my/notes [2023].txt", "my/notes 2.txt", "my [1]/a.txt", "my 1/b.txt")
    assert list(matching("k", ["my/notes [2023].txt"], root)) == ["my/notes [2023].txt"]
    assert list(matching("k", ["my/notes [23].txt"], root)) == ["my/notes 2.txt"]
    assert list(matching("k", ["my [1]"], root)) == ["my [1]/a.txt"]


def test_a_temporary_copy_sees_what_git_left_behind(tmp_path: Path) -> None:
    main = project(tmp_path, "my/a.txt", "my/b.txt")
    copy = project(tmp_path / ".dvc/tmp/exps/tmp1", "my/b.txt")  # the one that git tracks
    assert matching("k", ["my/*"], copy) == {"my/a.txt": main / "my/a.txt",
                                             "my/b.txt": copy / "my/b.txt"}


@pytest.mark.parametrize("pattern", ["", "no/*.txt", "a\0b/*", "\ud800", "[", "empty"])
def test_a_glob_that_matches_no_file_is_named_with_its_key(tmp_path: Path, pattern: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError) as caught:
        matching("evaluate.suites.held_out", [pattern], tmp_path)
    assert str(caught.value) == (f"params.yaml: evaluate.suites.held_out: {pattern!r} matches no "
                                 f"file below {tmp_path}; correct the glob")


@pytest.mark.parametrize("pattern", ["data/raw/*", "data/*", "data", "**/*.txt", "link/*",
                                     "data/gone/*.txt"])
def test_what_the_pipeline_writes_is_no_input(tmp_path: Path, pattern: str) -> None:
    root = project(tmp_path, "data/raw/part.txt", "my/a.txt")
    (root / "link").symlink_to(root / "data/raw")
    with pytest.raises(ConfigError, match="files of data/(raw|gone), which the pipeline its"):
        matching("download.files", [pattern], root, outs=("data/raw", "data/gone"))
    assert matching("download.files", ["my/*"], root, outs=("data/raw",))
