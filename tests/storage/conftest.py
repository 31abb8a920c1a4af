"""A server of two files, and transfers that lose no time."""

import pytest

from reprogpt.storage import http
from tests.hub_server import HubServer

DATA = bytes(range(256)) * 2000


@pytest.fixture(autouse=True)
def quick(tmp_path, monkeypatch):
    monkeypatch.setenv("REPROGPT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(http, "STALL_SECONDS", 1.0)
    monkeypatch.setattr(http, "PAUSE", 0.01)


@pytest.fixture
def server():
    server = HubServer("a/b", {"file": DATA, "other": b"other bytes"})
    yield server
    server.close()


def url(server: HubServer, name: str = "file") -> str:
    return f"{server.url}/datasets/a/b/resolve/main/{name}"
