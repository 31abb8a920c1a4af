"""A TCP proxy that passes on what clients send at a limited speed, or only so much of it."""

import socket
import threading
import time

PIECE = 16 << 10


class SlowProxy:
    """Listens on ``port`` of the loopback interface. ``rate``: bytes a second upwards; beyond
    ``limit`` bytes nothing is passed on."""

    def __init__(self, target: int, rate: float) -> None:
        self.target, self.rate, self.passed = target, rate, 0
        self.limit = float("inf")
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return  # closed
            server = socket.create_connection(("127.0.0.1", self.target))
            for source, sink, slow in ((client, server, True), (server, client, False)):
                threading.Thread(target=self._pass, args=(source, sink, slow), daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket, slow: bool) -> None:
        try:
            while piece := source.recv(PIECE):
                while slow and self.passed >= self.limit:
                    time.sleep(0.05)
                sink.sendall(piece)
                if slow:
                    self.passed += len(piece)
                    time.sleep(len(piece) / self.rate)
        except OSError:
            pass
        for end in (source, sink):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def close(self) -> None:
        self._server.close()
