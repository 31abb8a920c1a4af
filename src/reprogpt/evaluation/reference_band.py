"""Reference bands: where the losses and scores of an unedited preset are expected to lie.

presets/reference/NAME.yaml is the band of preset NAME. A curve that leaves it ends no run.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reprogpt.config import read_yaml

REASONS = "other data, code or precision than the preset's, or a bug, can be the reason"


def standard_error(share: float, questions: int) -> float:
    """Standard error of the share of questions that are answered correctly."""
    return math.sqrt(share * (1 - share) / questions)


@dataclass(frozen=True)
class Band:
    """A preset's expected values, each as (lowest, highest)."""

    name: str
    source: str
    val_loss: dict[int, tuple[float, float]]  # training's validation loss by step
    scores: dict[str, tuple[float, float]]  # of the finished model: val_loss, acc_norm
    val_tokens: int | None = None  # those of ``scores``' val_loss; one over others is not judged

    @classmethod
    def read(cls, file: str | Path) -> "Band":
        """The band in ``file``; an empty one where ``file`` is empty: no band applies."""
        values: dict[str, Any] = read_yaml(file) if file else {}
        return cls(Path(file).stem, values.get("source", ""), values.get("val_loss", {}),
                   values.get("scores", {}), values.get("val_tokens"))

    def at(self, step: int) -> tuple[float, float]:
        """Lowest and highest validation loss after ``step`` updates; nan where there is none."""
        return self.val_loss.get(step, (math.nan, math.nan))

    def warning(self, step: int, val_loss: float) -> str | None:
        """One line where ``val_loss`` is outside of the band at ``step``."""
        low, high = self.at(step)
        if not (val_loss < low or val_loss > high):  # nan is neither
            return None
        return (f"step {step}: the validation loss {val_loss:.3f} is outside of {low:g} to "
                f"{high:g}, the reference of preset {self.name} ({self.source}); {REASONS}")

    def verdicts(self, scores: Mapping[str, Any]) -> dict[str, str]:
        """"pass", "below" or "above" for each score of eval.json that has a band. An accuracy may
        miss it by two standard errors."""
        found = {}
        for name, (low, high) in self.scores.items():
            value, slack = scores.get(name), 0.0
            if name not in scores and (n := scores["hellaswag"]["examples"]):
                value = scores["hellaswag"][name]
                slack = 2 * standard_error(value, n)
            others = self.val_tokens not in (None, scores.get("val_tokens"))
            if value is not None and not (name == "val_loss" and others):
                found[name] = ("below" if value < low - slack else
                               "above" if value > high + slack else "pass")
        return found
