"""A file on a web server, read in ranges: any part of it, without the whole.

Used for the first part of a data set. Every range is retried with back-off and must come from the
same version of the file.
"""

import http.client
import io
import random
import time
import urllib.error
import urllib.request
from collections.abc import Mapping

from reprogpt.storage.http import ATTEMPTS, RETRIED, STALL_SECONDS, TransferError, retry_after

BLOCK = 1 << 20  # bytes asked for at least: parquet readers ask for many small ranges


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows to a content server without handing it the token of the first one."""

    def redirect_request(self, req, *arguments):  # type: ignore[no-untyped-def]
        following = super().redirect_request(req, *arguments)
        if following is not None and following.host != req.host:
            following.remove_header("Authorization")
        return following


_OPENER = urllib.request.build_opener(_Redirects)


class RemoteFile(io.RawIOBase):
    """A seekable, read-only file behind a URL whose ``size`` is known.

    Raises TransferError when the server fails for good, or gives another version midway.
    """

    def __init__(self, url: str, size: int, headers: Mapping[str, str] | None = None,
                 attempts: int = ATTEMPTS, pause: float = 1.0, timeout: float = STALL_SECONDS):
        super().__init__()
        self.url, self.size = url, size
        self._headers = {"User-Agent": "reprogpt", **(headers or {})}
        self._attempts, self._pause, self._timeout = attempts, pause, timeout
        self._position = 0
        self._etag: str | None = None
        self._block, self._block_start = b"", 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def read(self, size: int | None = -1) -> bytes:
        left = max(0, self.size - self._position)
        count = left if size is None or size < 0 else min(size, left)
        data = self._range(self._position, count) if count else b""
        self._position += len(data)
        return data

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        data = self.read(len(buffer))
        buffer[:len(data)] = data
        return len(data)

    def _range(self, start: int, count: int) -> bytes:
        inside = start - self._block_start
        if not 0 <= inside <= len(self._block) - count:
            stop = min(self.size, start + max(count, BLOCK))
            self._block, self._block_start = self._fetch(start, stop - start), start
            inside = 0
        return self._block[inside:inside + count]

    def _fetch(self, start: int, count: int) -> bytes:
        got = b""
        failure, wait = "", 0.0
        for attempt in range(self._attempts):
            if attempt:
                time.sleep(max(wait, self._pause * 2 ** (attempt - 1) * random.uniform(0.8, 1.2)))
            try:
                got += self._ask(start + len(got), count - len(got))
                if len(got) == count:
                    return got
                failure, wait = f"{count - len(got)} bytes are missing", 0.0
            except urllib.error.HTTPError as error:
                if error.code not in RETRIED:
                    raise TransferError(f"{self.url}: HTTP {error.code} {error.reason}") from None
                failure, wait = f"HTTP {error.code} {error.reason}", retry_after(error)
            except http.client.IncompleteRead as error:
                got += error.partial  # what came is kept
                failure, wait = "the answer was cut short", 0.0
            except TransferError:
                raise
            except (OSError, http.client.HTTPException) as error:
                failure, wait = f"{type(error).__name__}: {error}", 0.0
        raise TransferError(f"{self.url}: gave up after {self._attempts} attempts: {failure}")

    def _ask(self, start: int, count: int) -> bytes:
        request = urllib.request.Request(self.url, headers=self._headers)  # noqa: S310
        request.add_header("Range", f"bytes={start}-{start + count - 1}")
        with _OPENER.open(request, timeout=self._timeout) as answer:
            etag = answer.headers.get("ETag")
            self._etag = self._etag or etag
            if etag != self._etag or _total(answer) not in (None, self.size):
                raise TransferError(f"{self.url}: changed while it was read; pin download."
                                    "hub.revision to a commit and run the stage again")
            if answer.status == 200 and start:  # a server without ranges
                answer.read(start)
            return bytes(answer.read(count))


def _total(answer: http.client.HTTPResponse) -> int | None:
    """The size of the whole file, by Content-Range, or by Content-Length when that is whole."""
    text = answer.headers.get("Content-Range", "").rpartition("/")[2]
    if answer.status == 200:
        text = answer.headers.get("Content-Length", "")
    return int(text) if text.isdigit() else None
