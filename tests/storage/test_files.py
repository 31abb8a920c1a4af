"""Files that are written whole or not at all."""

import errno
import hashlib
import os
import stat
import subprocess
import sys
import time

import pytest
import torch

from reprogpt.config.sections import SampleConfig
from reprogpt.evaluation.text_files import score_files
from reprogpt.generation.samples import read_prompts
from reprogpt.runtime.distributed import Process
from reprogpt.storage import files
from reprogpt.storage.files import (
    link_or_copy,
    make_empty,
    replacing,
    sha256_of,
    sweep,
    temporary_folder,
    write_bytes,
    write_json,
)
from reprogpt.tokens.tokenizers import CharTokenizer
from tests.conftest import ROOT
from tests.small_models import random_model


def test_a_file_is_replaced_and_a_hard_link_of_it_is_not(tmp_path):
    path, cached = tmp_path / "deep/file", tmp_path / "cached"
    write_bytes(path, b"old")
    os.link(path, cached)
    write_bytes(path, b"new")
    assert (path.read_bytes(), cached.read_bytes()) == (b"new", b"old")
    assert sha256_of(path) == hashlib.sha256(b"new").hexdigest()
    write_json(path, {"ü": 1})
    assert path.read_bytes() == '{\n "ü": 1\n}\n'.encode()
    assert [p.name for p in path.parent.iterdir()] == ["file"]


def test_an_error_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "file"
    write_bytes(path, b"old")

    def fails():
        with replacing(path) as temporary:
            temporary.write_bytes(b"half")
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        fails()
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_the_users_umask_decides_who_may_read(tmp_path, umask):
    before = os.umask(umask)
    try:
        write_bytes(tmp_path / "file", b"x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o666 & ~umask


def test_a_link_or_else_a_copy(tmp_path, monkeypatch):
    source = tmp_path / "source"
    source.write_bytes(b"x")
    link_or_copy(source, tmp_path / "a/link")
    assert (tmp_path / "a/link").samefile(source)

    def refuse(*paths):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    link_or_copy(source, tmp_path / "a/link")
    assert not (tmp_path / "a/link").samefile(source)
    assert (tmp_path / "a/link").read_bytes() == b"x"
    make_empty(tmp_path / "a")
    assert list((tmp_path / "a").iterdir()) == []


def test_a_byte_order_mark_is_no_text_of_prompts_and_suites(tmp_path):
    cfg = SampleConfig(prompts=["first"], prompts_file=str(tmp_path / "b.txt"), num_samples=1,
                       max_new_tokens=1, temperature=1.0, top_k=None, top_p=None)
    (tmp_path / "a.txt").write_bytes(b"abba\nbaab")
    (tmp_path / "b.txt").write_bytes(b"\xef\xbb\xbfabba\nbaab")
    assert read_prompts(cfg) == ["first", "abba", "baab"]
    alone = Process(0, 1, torch.device("cpu"))
    scores = score_files(random_model(3), ["*.txt"], CharTokenizer("ab\n"), alone, tmp_path, 8)
    assert scores["a.txt"]["loss"] == scores["b.txt"]["loss"]


def test_only_what_killed_processes_left_is_swept(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "FRESH_SECONDS", 0.0)
    script = ("import os, sys, pathlib\n"
              "from reprogpt.storage.files import replacing, temporary_folder\n"
              "p = pathlib.Path(sys.argv[1])\n"
              "with replacing(p / 'model') as a, temporary_folder(p / 'gpt') as b:\n"
              "    (b / 'new').mkdir(); print(flush=True); sys.stdin.read()\n")
    other = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdin=subprocess.PIPE,
                             stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": f"{ROOT}/src"})
    other.stdout.readline()
    (tmp_path / ".users.tmp.txt").touch()
    before = sorted(tmp_path.iterdir())
    assert len(before) == 3
    sweep(tmp_path)
    assert sorted(tmp_path.iterdir()) == before, "a living process's are left alone"
    other.kill()
    other.wait()
    sweep(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == [".users.tmp.txt"]


def test_what_may_not_be_locked_yet_is_not_swept(tmp_path):
    (tmp_path / ".file.0.tmp").touch()
    sweep(tmp_path)
    assert (tmp_path / ".file.0.tmp").exists()
    os.utime(tmp_path / ".file.0.tmp", (time.time() - 60,) * 2)
    sweep(tmp_path)
    assert not (tmp_path / ".file.0.tmp").exists()


def test_a_temporary_folder_goes_with_its_block(tmp_path):
    with temporary_folder(tmp_path / "gpt") as folder:
        (folder / "new").mkdir()
    assert not list(tmp_path.iterdir())


def test_a_write_that_fails_names_the_file_that_was_to_be_written(tmp_path):
    """A write to a full disk names none, and opening names the temporary one."""
    for filename in (None, tmp_path / ".out.0123abcd"):
        with pytest.raises(OSError) as caught:
            with replacing(tmp_path / "out"):
                raise OSError(errno.ENOSPC, "No space left on device", filename)
        assert caught.value.filename == str(tmp_path / "out")
    with pytest.raises(OSError) as caught:
        with replacing(tmp_path / "out"):
            raise OSError(errno.EACCES, "Permission denied", "another file")
    assert caught.value.filename == "another file"
    assert list(tmp_path.iterdir()) == []
