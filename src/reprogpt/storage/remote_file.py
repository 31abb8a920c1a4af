"""A file on a web server, read by HTTP range requests: any part of it, without the whole.

Used to read the beginning of a data set. huggingface_hub's HfFileSystem does the same, but was
found to return wrong bytes without an error when the file changes between two requests, when the
server ignores the range, and when it answers with another range. Here those raise TransferError.
"""

import io
from collections.abc import Mapping
from typing import BinaryIO, cast

from reprogpt.storage.http import STALL_SECONDS, TransferError, open_url, retried

BLOCK = 1 << 20
"""Bytes asked for at least: parquet readers ask for many small ranges."""
LARGEST = 16 << 20
"""Bytes asked for at most: what a broken connection makes us ask for again."""


def open_remote(url: str, size: int, headers: Mapping[str, str]) -> BinaryIO:
    """The file of ``size`` bytes at ``url``, seekable and buffered."""
    return cast(BinaryIO, io.BufferedReader(RemoteFile(url, size, headers), BLOCK))


class RemoteFile(io.RawIOBase):
    """The unbuffered file. Every range is retried, and checked against ``size`` and the ETag."""

    def __init__(self, url: str, size: int, headers: Mapping[str, str]):
        super().__init__()
        self.url, self.size, self._headers = url, size, headers
        self._position = 0
        self._etag: str | None = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        start = self._position
        stop = min(self.size, start + min(len(buffer), LARGEST))
        if stop <= start:
            return 0
        data = retried(lambda: self._range(start, stop), self.url)
        buffer[:len(data)] = data
        self._position += len(data)
        return len(data)

    def readall(self) -> bytes:  # RawIOBase's own reads 8 kB at a time
        return b"".join(iter(lambda: self.read(LARGEST), b""))

    def _range(self, start: int, stop: int) -> bytes:
        """Bytes [start, stop) by one request."""
        headers = {**self._headers, "Range": f"bytes={start}-{stop - 1}"}
        with open_url(self.url, headers, STALL_SECONDS, start) as answer:
            etag = answer.headers.get("ETag")
            self._etag = self._etag or etag
            total = answer.headers.get("Content-Length", "")
            if answer.status == 206:
                total = answer.headers.get("Content-Range", "").rpartition("/")[2]
            if etag != self._etag or (total.isdigit() and int(total) != self.size):
                raise TransferError(f"{self.url}: changed while it was read; pin download."
                                    "hub.revision to a commit and run the stage again")
            if answer.status == 200:  # a server without ranges
                answer.read(start)
            data = answer.read(stop - start)
        if len(data) != stop - start:
            raise OSError(f"{stop - start - len(data)} bytes are missing")
        return data
