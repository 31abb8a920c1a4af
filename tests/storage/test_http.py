"""Transfers that break in every way, and what is tried again."""

import urllib.error
from email.message import Message
from types import SimpleNamespace

import pytest

from reprogpt.errors import ConfigError
from reprogpt.storage import http
from reprogpt.storage.http import TransferError, download_url, retried
from tests.storage.conftest import DATA, url


@pytest.mark.parametrize("faults", [["500", "429"], ["truncate"], ["stall"], ["truncate"] * 3])
def test_passing_faults_are_overcome(server, tmp_path, faults):
    server.faults["file"] = list(faults)
    download_url(url(server), tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == DATA
    assert list(tmp_path.glob("*.etag")) == []


def test_a_broken_transfer_is_continued(server, tmp_path):
    server.faults["file"] = ["truncate"]
    download_url(url(server), tmp_path / "x")
    assert server.gets == [("file", ""), ("file", f"bytes={len(DATA) // 2}-")]
    assert server.sent["file"] == len(DATA)


def test_the_next_run_continues_too(server, tmp_path, monkeypatch):
    monkeypatch.setattr(http, "ATTEMPTS", 1)
    server.faults["file"] = ["truncate"]
    with pytest.raises(TransferError, match="gave up after 1 attempts"):
        download_url(url(server), tmp_path / "x")
    download_url(url(server), tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == DATA
    assert server.sent["file"] == len(DATA)


def test_two_versions_are_never_joined(server, tmp_path):
    server.faults["file"] = ["truncate", "change"]
    download_url(url(server), tmp_path / "x")
    changed = bytes(len(DATA) // 2) + DATA[len(DATA) // 2:]
    assert (tmp_path / "x").read_bytes() == changed


def test_a_refusal_is_not_retried(server, tmp_path, monkeypatch):
    monkeypatch.setattr(http, "PAUSE", 60)
    with pytest.raises(TransferError, match="HTTP 404"):
        download_url(url(server, "missing"), tmp_path / "x")


def failing(*errors: Exception):
    """A function that raises each of the errors in turn, and then returns 7."""
    left = list(errors)

    def call() -> int:
        if left:
            raise left.pop(0)
        return 7

    return call


def status(code: int, retry_after: str = "") -> urllib.error.HTTPError:
    headers = Message()
    if retry_after:
        headers["Retry-After"] = retry_after
    return urllib.error.HTTPError("http://x", code, "reason", headers, None)


class HttpxLike(Exception):
    """An error with a response, as httpx's and requests' have it."""

    def __init__(self, code: int, retry_after: str) -> None:
        self.response = SimpleNamespace(status_code=code, headers={"Retry-After": retry_after})


@pytest.mark.parametrize(("error", "pause"), [
    (status(503), 1.0), (status(429, "7"), 7.0), (status(429, "100000"), 60.0),
    (status(429, "Wed, 21 Oct 2026 07:28:00 GMT"), 1.0), (HttpxLike(429, "7"), 7.0),
    (ConnectionResetError("reset"), 1.0), (TimeoutError(), 1.0),
])
def test_the_server_says_how_long_to_wait(monkeypatch, error, pause):
    slept = []
    monkeypatch.setattr(http.time, "sleep", slept.append)
    monkeypatch.setattr(http.random, "uniform", lambda low, high: 1.0)
    monkeypatch.setattr(http, "PAUSE", 1.0)
    assert retried(failing(error, OSError("again"))) == 7
    assert slept == [pause, 2.0]


@pytest.mark.parametrize("error", [status(404), HttpxLike(401, ""), FileNotFoundError("x"),
                                   KeyError("x")])
def test_what_a_retry_cannot_help_is_raised_at_once(error):
    with pytest.raises(TransferError, match="^the file: "):
        retried(failing(error), "the file")


def test_the_users_errors_pass_through():
    with pytest.raises(ConfigError, match="typo"):
        retried(failing(ConfigError("typo")))
    with pytest.raises(TransferError, match="^the file: gave up after 5 attempts: lost$"):
        retried(failing(*[OSError("lost")] * 5), "the file")
