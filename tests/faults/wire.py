"""A server that says any bytes, for what no HTTP library would send."""

import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable
from typing import Self


class Wire:
    """One request of a client: what it asked for, and how to answer it byte by byte."""

    def __init__(self, connection: socket.socket, request: str, number: int, data: bytes) -> None:
        self.connection, self.request, self.number, self.data = connection, request, number, data
        asked = [line.partition(":")[2].strip() for line in request.split("\r\n")
                 if line.lower().startswith("range:")]
        first, _, last = asked[0].removeprefix("bytes=").partition("-") if asked else ("0", "", "")
        self.ranged = bool(asked)
        self.first = int(first)
        self.last = min(int(last), len(data) - 1) if last else len(data) - 1

    def say(self, *parts: bytes | str) -> None:
        for part in parts:
            self.connection.sendall(part.encode("latin-1") if isinstance(part, str) else part)

    def head(self, status: str, **headers: object) -> None:
        lines = [f"HTTP/1.1 {status}", *(f"{k.replace('_', '-')}: {v}" for k, v in headers.items())]
        self.say("\r\n".join(lines) + "\r\n\r\n")

    def right_head(self, **headers: object) -> None:
        """The head of a right answer to what was asked, some headers of it changed."""
        size = self.last - self.first + 1
        known = {"Content_Length": size, "ETag": '"v1"', "Connection": "close"}
        if self.ranged:
            known["Content_Range"] = f"bytes {self.first}-{self.last}/{len(self.data)}"
        known |= headers
        self.head("206 Partial" if self.ranged else "200 OK",
                  **{k: v for k, v in known.items() if v is not None})

    @property
    def part(self) -> bytes:
        return self.data[self.first:self.last + 1]

    def right(self) -> None:
        self.right_head()
        self.say(self.part)

    def reset(self) -> None:
        """Closes by RST instead of FIN."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()


class WireServer:
    """Listens on loopback; ``answer(wire)`` answers each request, one a connection."""

    def __init__(self, answer: Callable[[Wire], None], data: bytes, host: str = "127.0.0.1",
                 tls: ssl.SSLContext | None = None) -> None:
        self.answer, self.data, self.requests, self.tls = answer, data, 0, tls
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.socket = socket.create_server((host, 0), family=family)
        port = self.socket.getsockname()[1]
        self.url = f"http{'s' if tls else ''}://{f'[{host}]' if ':' in host else host}:{port}/file"

    def __enter__(self) -> Self:
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.socket.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            threading.Thread(target=self._one, args=(connection,), daemon=True).start()

    def _one(self, connection: socket.socket) -> None:
        try:
            if self.tls:
                connection = self.tls.wrap_socket(connection, server_side=True)
            request = b""
            while b"\r\n\r\n" not in request:
                got = connection.recv(65536)
                if not got:
                    return
                request += got
            self.requests += 1
            self.answer(Wire(connection, request.decode("latin-1"), self.requests, self.data))
        except OSError:  # the client has had enough
            pass
        finally:
            connection.close()


def pause() -> None:
    """Longer than the tests' clients wait."""
    time.sleep(1.0)
