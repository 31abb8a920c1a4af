"""A run as its files describe it: what a report shows of it.

The files are read one by one through a function, so that they may come from the working tree, a
commit or a cache. A file that the run has not written (yet) leaves its field empty.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from reprogpt.config import flatten, merge
from reprogpt.evaluation.compare_runs import Records

Columns = dict[str, np.ndarray]
"""Columns of a CSV file by name: (rows,) float64, nan where nothing was measured."""
SIZES = ("download", "tokenize", "train", "evaluate", "sample")


@dataclass(frozen=True)
class RunRecord:
    """One run. Without ``train`` it is still training."""

    name: str
    about: dict[str, str]
    """Lines for the table "what was run", such as the commit: label -> text."""
    params: dict[str, Any]
    """By dotted key: those that the finished run had, or those of params.yaml while it trains."""
    curve: Columns
    """metrics/train.csv"""
    train: dict[str, Any]
    """metrics/train.json"""
    scores: dict[str, Any]
    """metrics/eval.json"""
    questions: Records
    """metrics/hellaswag.jsonl"""
    samples: str
    """metrics/samples.md"""
    hellaswag_curve: Columns
    """metrics/train_hellaswag.csv"""
    stages: dict[str, int]
    """Bytes that each stage left, from dvc.lock."""


def read_run(name: str, read: Callable[[str], bytes | None], about: dict[str, str]) -> RunRecord:
    """The run whose files ``read`` returns by their path in the project, None for an absent one.

    What evaluate and sample left is taken only if it is about this run's model: while a run
    trains, the files of those stages are still the last run's.
    """
    from ruamel.yaml import YAML

    def text(path: str) -> str:
        return (read(path) or b"").decode("utf-8", "replace")

    def table(path: str) -> dict[str, Any]:
        return json.loads(text(path) or "{}")

    yaml = YAML(typ="safe")
    params = yaml.load(text("params.yaml")) or {}
    lock = (yaml.load(text("dvc.lock")) or {}).get("stages", {})
    train, curve = table("metrics/train.json"), read_csv(text("metrics/train.csv"))
    if len(curve.get("step", ())) and curve["step"][-1] < train.get("steps", 0):
        train = {}  # the last run's: DVC deletes it, a stage started by hand does not
    if train:
        for stage in lock.values():
            params = merge(params, stage.get("params", {}).get("params.yaml", {}))

    def scored(stage: str) -> bool:
        model = _md5(lock, stage, "deps", "models/gpt")
        return bool(train) and (not lock or model == _md5(lock, "train", "outs", "models/gpt"))

    answers = text("metrics/hellaswag.jsonl") if scored("evaluate") else ""
    return RunRecord(
        name, about, flatten(params), curve, train,
        table("metrics/eval.json") if scored("evaluate") else {},
        {record["index"]: record for record in map(json.loads, answers.splitlines())},
        text("metrics/samples.md") if scored("sample") else "",
        read_csv(text("metrics/train_hellaswag.csv")),
        {stage: sum(out.get("size", 0) for out in lock[stage].get("outs", ()))
         for stage in SIZES if stage in lock} if train else {})


def read_csv(text: str) -> Columns:
    """The columns of a CSV file of numbers; a last line that is still being written is left out."""
    header, *lines = text[:text.rfind("\n") + 1].splitlines() or [""]
    rows = [line.split(",") for line in lines]
    return {name: np.array([float(row[k]) for row in rows])
            for k, name in enumerate(header.split(",")) if header}


def different_params(runs: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """Key -> its value in each run (None where absent), for the keys in which runs differ."""
    keys = dict.fromkeys(key for run in runs for key in run)
    values = {key: [run.get(key) for run in runs] for key in keys}
    return {key: row for key, row in values.items() if any(value != row[0] for value in row)}


def smooth(values: np.ndarray, window: int) -> np.ndarray:
    """Centred moving mean (n,) over at most ``window`` values on each side, nan ignored.

    Narrower towards the ends, the same on both sides: no lag where the loss falls fast.
    """
    sums = np.concatenate([[0.0], np.cumsum(np.nan_to_num(values))])
    counts = np.concatenate([[0], np.cumsum(~np.isnan(values))])
    at = np.arange(len(values))
    half = np.minimum(np.minimum(at, len(values) - 1 - at), window)
    with np.errstate(invalid="ignore"):
        mean: np.ndarray = ((sums[at + half + 1] - sums[at - half])
                            / (counts[at + half + 1] - counts[at - half]))
    return mean


def _md5(lock: dict[str, Any], stage: str, kind: str, path: str) -> str | None:
    entries = lock.get(stage, {}).get(kind, ())
    return next((entry.get("md5") for entry in entries if entry["path"] == path), None)
