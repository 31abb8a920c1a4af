"""A Hugging Face Hub of one repository on this machine, which fails as it is told to.

Speaks what `datasets` and `huggingface_hub` ask for: the API's revision, tree and paths-info, and
HEAD and GET of resolve with ETag, X-Repo-Commit, Content-Length, 206 with Content-Range, and 404
with X-Error-Code for files that may be missing.
"""

import hashlib
import json
import threading
import time
from collections import defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class HubServer:
    """``files``: path -> bytes. ``faults[path]``: what its next GETs meet, one each: "" for none,
    500, 429, truncate, stall, change (other bytes of the same size), whole (the Range is ignored),
    shifted (another range than was asked for)."""

    def __init__(self, repo: str, files: dict[str, bytes]):
        self.repo, self.files = repo, files
        self.faults: dict[str, list[str]] = defaultdict(list)
        self.gets: list[tuple[str, str]] = []
        """(path, Range header) of every GET of a file."""
        self.authorized: list[str | None] = []
        """The Authorization header of each of them."""
        self.sent: dict[str, int] = defaultdict(int)
        self.offline = False
        self.checksums: dict[str, str] = {}
        """sha256 that the API states for a path, where it is not that of the file."""
        owner = self

        class Handler(_Handler):
            hub = owner

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def etag(self, path: str) -> str:
        data = self.files[path]
        if path.endswith(".parquet"):
            return hashlib.sha256(data).hexdigest()
        return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()

    def entry(self, path: str) -> dict:
        data = self.files[path]
        blob = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
        entry = {"type": "file", "oid": blob, "size": len(data), "path": path}
        if path.endswith(".parquet"):
            oid = self.checksums.get(path) or hashlib.sha256(data).hexdigest()
            entry["lfs"] = {"oid": oid, "size": len(data), "pointerSize": 134}
        return entry


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: HubServer

    def log_message(self, *args) -> None:
        pass

    def do_HEAD(self) -> None:
        self._resolve(body=False)

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if self.hub.offline:
            self._error(503, "")
        elif path.startswith("/api/"):
            self._api(path)
        else:
            self._resolve(body=True)

    def do_POST(self) -> None:
        data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        asked = json.loads(data).get("paths", []) if data[:1] == b"{" else []
        self._json([self.hub.entry(p) for p in asked if p in self.hub.files])

    def _api(self, path: str) -> None:
        starts = [f"/api/{kind}/{self.hub.repo}" for kind in ("datasets", "models")]
        start = next((s for s in starts if path.startswith(s)), None)
        if start is None:
            self._error(404, "RepoNotFound")
            return
        rest = path.removeprefix(start).strip("/").split("/")
        if rest[0] in ("", "revision"):
            if len(rest) > 1 and rest[1] not in ("main", COMMIT):
                self._error(404, "RevisionNotFound")
                return
            self._json({"id": self.hub.repo, "sha": COMMIT, "private": False, "gated": False,
                        "disabled": False, "tags": [], "downloads": 0, "likes": 0,
                        "siblings": [{"rfilename": p} for p in sorted(self.hub.files)]})
        elif rest[0] == "tree":
            self._tree("/".join(rest[2:]))
        else:
            self._error(404, "EntryNotFound")

    def _tree(self, folder: str) -> None:
        recursive = "recursive=True" in self.path or "recursive=true" in self.path
        entries = {}
        for path in sorted(self.hub.files):
            parents = [str(p) for p in PurePosixPath(path).parents if str(p) != "."]
            if folder and folder not in parents:
                continue
            inner = [p for p in parents if not folder or p.startswith(folder + "/")]
            for parent in inner:
                if recursive or str(PurePosixPath(parent).parent) in (folder, "."):
                    entries[parent] = {"type": "directory", "oid": "0" * 40, "size": 0,
                                       "path": parent}
            if recursive or not inner:
                entries[path] = self.hub.entry(path)
        if folder and not entries:
            self._error(404, "EntryNotFound")
            return
        self._json(list(entries.values()))

    def _resolve(self, body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        starts = [f"{kind}/{self.hub.repo}/resolve/" for kind in ("/datasets", "")]
        start = next((s for s in starts if path.startswith(s)), None)
        if start is None:
            self._error(404, "RepoNotFound")
            return
        name = path.removeprefix(start).partition("/")[2]
        if name not in self.hub.files:
            self._error(404, "EntryNotFound")
            return
        data = self.hub.files[name]
        fault = ""
        if body:
            self.hub.gets.append((name, self.headers.get("Range", "")))
            self.hub.authorized.append(self.headers.get("Authorization"))
            if self.hub.faults[name]:
                fault = self.hub.faults[name].pop(0)
        if fault in ("500", "429"):
            self._error(int(fault), "")
            return
        if fault == "change":
            data = bytes(len(data) // 2) + data[len(data) // 2:]
        self._send(name, data, fault, body)

    def _send(self, name: str, data: bytes, fault: str, body: bool) -> None:
        first, last = 0, len(data) - 1
        tag = hashlib.sha256(data).hexdigest() if fault == "change" else self.hub.etag(name)
        ranged = self.headers.get("Range", "")
        if self.headers.get("If-Range") not in (None, f'"{tag}"') or fault == "whole":
            ranged = ""
        if ranged.startswith("bytes="):
            a, _, b = ranged.removeprefix("bytes=").partition("-")
            first, last = int(a), min(int(b), last) if b else last
            if fault == "shifted":
                first, last = first + 1, min(last + 1, len(data) - 1)
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
        else:
            self.send_response(200)
        part = data[first:last + 1]
        self.send_header("Content-Length", str(len(part)))
        self.send_header("ETag", f'"{tag}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Accept-Ranges", "bytes")
        self.end_headers()
        if not body:
            return
        if fault in ("truncate", "stall"):
            part = part[:len(part) // 2]
        self.hub.sent[name] += len(part)  # before the client has it and looks at the count
        self.wfile.write(part)
        self.wfile.flush()
        if fault == "stall":
            time.sleep(4)
        if fault in ("truncate", "stall"):
            self.close_connection = True

    def _json(self, value) -> None:
        data = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _error(self, code: int, name: str) -> None:
        self.send_response(code)
        if name:
            self.send_header("X-Error-Code", name)
        if code == 429:
            self.send_header("Retry-After", "0")
        self.send_header("Content-Length", "0")
        self.end_headers()
