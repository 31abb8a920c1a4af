"""The corpus of each training row of a mixture: a pure function of (seed, row).

Of every PERIOD consecutive rows each corpus has its share, rounded so that its count up to the end
of any period is less than one row from exact; within a period the order is a permutation drawn by
(seed, period). A corpus's own rows are numbered on, so its windows are used once each before any
repeats, whatever the number of processes.
"""

import json
from collections.abc import Iterator, Mapping
from fractions import Fraction
from functools import lru_cache
from itertools import accumulate
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from reprogpt.training.permutation import permute

PERIOD = 1000
"""Rows after which the counts are exact. config.sections.MIN_SHARE follows from it."""
WEIGHTS = "mix.json"
"""The weights' file in data/init, which stage train depends on and stage tokenize does not."""


class Mixture:
    """``mixture.rows(first, n)`` says which rows each corpus has of rows first to first + n - 1."""

    def __init__(self, weights: Mapping[str, float], seed: int) -> None:
        self.names, self.seed = list(weights), seed
        shares = [Fraction(weight) / sum(map(Fraction, weights.values()))
                  for weight in weights.values()]
        self.shares = dict(zip(self.names, map(float, shares), strict=True))
        self._edges = [Fraction(0), *accumulate(shares)]

    def rows(self, first: int, count: int) -> Iterator[tuple[str, NDArray[np.int64], int]]:
        """(corpus, positions (k,) in first..first + count - 1, counted from 0, and the number that
        the first of them has among all rows of that corpus), of each corpus that has any. A corpus
        comes up once a period."""
        done = 0
        while done < count:
            period, at = divmod(first + done, PERIOD)
            corpora = self._period(period)[at:at + count - done]
            for number, (name, before) in enumerate(self.counts(first + done).items()):
                mine = np.flatnonzero(corpora == number)
                if len(mine):
                    yield name, done + mine, before
            done += len(corpora)

    def counts(self, rows: int) -> dict[str, int]:
        """Rows of each corpus among the first ``rows`` rows."""
        period, at = divmod(rows, PERIOD)
        begun = np.bincount(self._period(period)[:at], minlength=len(self.names))
        return dict(zip(self.names, (self._whole(period) + begun).tolist(), strict=True))

    def _whole(self, periods: int) -> NDArray[np.int64]:
        """(corpora,) rows of each corpus in the first ``periods`` periods."""
        return np.diff([int(edge * periods * PERIOD + Fraction(1, 2)) for edge in self._edges])

    @lru_cache(maxsize=4)  # noqa: B019 (a loader lives as long as its process)
    def _period(self, period: int) -> NDArray[np.int64]:
        """(PERIOD,) the number of each row's corpus."""
        counts = self._whole(period + 1) - self._whole(period)
        places = permute(np.arange(PERIOD), PERIOD, self.seed, "mix", period)
        return np.repeat(np.arange(len(counts)), counts)[places]


def read_weights(folder: Path) -> dict[str, float] | None:
    """The weights of download.mix, which stage download left in ``folder``; None: no mixture."""
    path = folder / WEIGHTS
    return json.loads(path.read_bytes()) if path.is_file() else None
