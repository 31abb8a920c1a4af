"""Other programs on the same cores: threads that do not spin, and the time that they wait."""

import sys
import time
from collections.abc import MutableMapping
from pathlib import Path

from tqdm import tqdm

NOTABLE = 0.2
"""Share of the time waited from which a run says so: an idle machine shows below 0.02."""
SECONDS_BETWEEN = 60.0
SPIN_COUNT = "2000"
"""How often a waiting thread of libgomp looks before it sleeps. By default 300,000 times, during
which it takes the core that another program, or the thread that it waits for, needs
(benchmarks/README.md, "Threads that wait")."""


def bound_spinning(env: MutableMapping[str, str]) -> None:
    """Sets the spin count in ``env``, where torch's threads find it when torch is first imported.
    What the user has set stays."""
    if "OMP_WAIT_POLICY" not in env:
        env.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)


class ProcessorWait:
    """Reports when this process waits for the processor, from the kernel's own figures. On systems
    without /proc/PID/schedstat it never does."""

    def __init__(self) -> None:
        self.share = 0.0
        self._best = 0.0  # tokens a second
        self._said = -SECONDS_BETWEEN
        self._time, self._waited = time.monotonic(), _waited()

    def waiting_share(self) -> float:
        """The share of time since the last call in which a thread was ready to run and had no
        core: that of the thread that waited longest, for which the others wait in turn."""
        before, past = self._time, self._waited
        self._time, self._waited = time.monotonic(), _waited()
        longest = max((now - past.get(t, 0.0) for t, now in self._waited.items()), default=0.0)
        return min(1.0, longest / max(self._time - before, 1e-9))

    def tell(self, tokens_per_second: float) -> None:
        """Measures, and at most once a minute says on standard error that the run waits."""
        self.share = self.waiting_share()
        if tokens_per_second > self._best:  # not for nan
            self._best = tokens_per_second
        if self.share >= NOTABLE and time.monotonic() - self._said >= SECONDS_BETWEEN:
            self._said = time.monotonic()
            tqdm.write(f"waits for the processor {self.share:.0%} of the time, other programs use "
                       f"it: {tokens_per_second:,.0f} tokens/s now, {self._best:,.0f} at best",
                       file=sys.stderr)

    def shown(self) -> str:
        """What the progress bar shows of it; nothing where it hardly waits."""
        return f"waits for the processor {self.share:.0%}" if self.share >= NOTABLE else ""


def _waited() -> dict[str, float]:
    """Thread id -> seconds spent on a run queue: the second field of its schedstat, in ns."""
    found = {}
    for path in Path("/proc/self/task").glob("*/schedstat"):
        try:
            found[path.parent.name] = int(path.read_text().split()[1]) / 1e9
        except (OSError, IndexError):  # the thread has ended
            continue
    return found
