"""Transfers that break in every way, and what is tried again."""

import hashlib
import threading
import urllib.error
import urllib.request
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest

from reprogpt.errors import ConfigError
from reprogpt.storage import http
from reprogpt.storage.fetch import Mirrored, fetch, web
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


def test_another_range_than_asked_for_is_never_joined(server, tmp_path):
    server.faults["file"] = ["truncate", "shifted"]
    download_url(url(server), tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == DATA


class Odd(BaseHTTPRequestHandler):
    """Answers with the headers that its server was given, and records the ones it gets."""

    def log_message(self, *args) -> None:
        pass

    def do_GET(self) -> None:
        self.server.seen.append(self.headers)
        code, headers, body = self.server.answer
        self.send_response(code, "reason\x1b[31m")
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def odd():
    with ThreadingHTTPServer(("127.0.0.1", 0), Odd) as server:
        server.seen = []
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        server.url = f"http://127.0.0.1:{server.server_address[1]}/x"
        yield server
        server.shutdown()


@pytest.mark.parametrize("answer", [
    (302, {"Location": "http://[::1"}, b""), (302, {"Location": "ftp://x"}, b""),
    (302, {"Location": "file:///etc/hosts"}, b""), (429, {"Retry-After": "²"}, b""),
    (200, {"Content-Length": "99999999999999999999"}, b"x"),
    (206, {"Content-Range": "bytes ²-/x", "Content-Length": "-7"}, b"x"), (999, {}, b""),
])
def test_headers_that_no_parser_takes_are_that_servers_failure(odd, server, tmp_path, answer):
    code, headers, body = answer
    odd.answer = (code, {k: v.encode().decode("latin-1") for k, v in headers.items()}, body)
    file = Mirrored("x", hashlib.sha256(DATA).hexdigest(), (web(odd.url), web(url(server))))
    assert fetch(file).read_bytes() == DATA
    with pytest.raises(TransferError) as caught:
        fetch(Mirrored("y", "0" * 64, (web(odd.url),)))
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(("old", "new", "kept"), [
    ("https://hub.co/a", "https://hub.co/b", True), ("http://hub.co/a", "https://hub.co/a", True),
    ("https://hub.co/a", "http://hub.co/a", False), ("https://hub.co/a", "https://cdn.co/a", False),
    ("https://hub.co/a", "https://hub.co:8443/a", False),
])
def test_the_token_stays_with_its_host_and_behind_tls(old, new, kept):
    request = urllib.request.Request(old, headers={"Authorization": "Bearer x"})
    following = http._Redirects().redirect_request(request, None, 302, "Found", Message(), new)
    assert following.full_url == new
    assert following.has_header("Authorization") == kept


def test_a_redirect_to_another_host_gets_no_token(odd, server):
    other = odd.url.replace("127.0.0.1", "localhost")
    odd.answer = (302, {"Location": url(server)}, b"")
    with http.open_url(other, {"Authorization": "Bearer x"}, 5.0) as answer:
        assert answer.read() == DATA
    assert odd.seen[0]["Authorization"] == "Bearer x"
    assert server.authorized == [None]


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
    (status(429, "²"), 1.0), (status(429, "-3"), 1.0),
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
