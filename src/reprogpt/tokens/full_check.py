"""Verification of every token in the background, while training or evaluation is under way."""

from threading import Thread

from reprogpt.runtime.distributed import Process
from reprogpt.tokens.shards import TokenStream


class FullCheck:
    """A thread that verifies what the opening of streams has not; on one process of a machine."""

    def __init__(self, process: Process, *streams: TokenStream) -> None:
        self.problem: str | None = None
        """The message about the first damaged file, once it has been found."""
        self._process, self._streams = process, streams
        self._thread = Thread(target=self._run, name="full check", daemon=True)
        if process.first_here:
            self._thread.start()

    def require_good(self) -> None:
        """Waits until all is verified. A collective. Raises ValueError on every process where one
        has found damage."""
        if self._thread.ident:
            self._thread.join()
        if problem := self._process.first_of(self.problem):
            raise ValueError(problem)

    def _run(self) -> None:
        try:
            for stream in self._streams:
                stream.verify_rest()
        except Exception as error:  # what ends the thread must not pass for a good result
            self.problem = str(error)
