"""A file read in ranges is like a local one, whatever the server does."""

import io

import pytest

from reprogpt.storage import http, remote_file
from reprogpt.storage.http import TransferError
from reprogpt.storage.remote_file import open_remote
from tests.storage.conftest import DATA, url


@pytest.fixture(autouse=True)
def short_timeout(monkeypatch):
    monkeypatch.setattr(remote_file, "STALL_SECONDS", 1.0)


def remote(server):
    return open_remote(url(server), len(DATA), {})


def test_it_reads_like_a_local_file(server, monkeypatch):
    monkeypatch.setattr(remote_file, "LARGEST", 1000)
    file = remote(server)
    assert file.read(10) == DATA[:10]
    assert file.seek(-7, io.SEEK_END) == len(DATA) - 7
    assert file.read() == DATA[-7:]
    assert file.read() == b""
    file.seek(1000)
    assert file.read(3001) == DATA[1000:4001]
    assert file.tell() == 4001
    file.seek(len(DATA) - 5000)
    assert file.read() == DATA[-5000:]


def test_small_reads_share_a_request(server):
    file = remote(server)
    assert b"".join(file.read(100) for _ in range(50)) == DATA[:5000]
    assert server.gets == [("file", f"bytes=0-{len(DATA) - 1}")]


@pytest.mark.parametrize("fault", ["500", "429", "truncate", "stall"])
def test_passing_faults_are_overcome(server, fault):
    server.faults["file"] = [fault, fault]
    assert remote(server).read() == DATA


def test_a_server_without_ranges_serves_too(server):
    file = remote(server)
    server.faults["file"] = ["whole"]
    file.seek(1000)
    assert file.read() == DATA[1000:]


def test_a_file_that_changes_is_refused(server, monkeypatch):
    monkeypatch.setattr(remote_file, "LARGEST", 1000)
    file = remote(server)
    file.read(10)
    server.faults["file"] = ["change"]
    with pytest.raises(TransferError, match="changed while it was read"):
        file.read()
    with pytest.raises(TransferError, match="changed while it was read"):
        open_remote(url(server), len(DATA) + 1, {}).read()


def test_another_range_than_asked_for_is_refused(server):
    file = remote(server)
    file.seek(1000)
    server.faults["file"] = ["shifted"]
    assert file.read(50) == DATA[1000:1050]  # at the second attempt
    file.seek(1 << 18)
    file = remote(server)
    file.seek(1000)
    server.faults["file"] = ["shifted"] * 9
    with pytest.raises(TransferError, match="gave up .*another range than it was asked for"):
        file.read(50)


def test_a_server_that_stays_broken_is_an_error(server):
    server.faults["file"] = ["500"] * 5
    with pytest.raises(TransferError, match=rf"{url(server)}: gave up after {http.ATTEMPTS}"):
        remote(server).read()
