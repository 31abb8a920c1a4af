"""A run as its files describe it, read from the working tree or from a commit."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from reprogpt.config import flatten
from reprogpt.evaluation.compare_runs import Records, parse_records


@dataclass(frozen=True)
class RunRecord:
    """One run. What it has not written (yet) is empty; without ``train`` it is still training."""

    name: str
    params: dict[str, Any]  # by dotted key; of params.yaml while it trains, else of dvc.lock
    curve: dict[str, np.ndarray]  # columns of metrics/train.csv, nan where nothing was measured
    train: dict[str, Any]  # metrics/train.json
    scores: dict[str, Any]  # metrics/eval.json
    questions: Records  # metrics/hellaswag.jsonl
    samples: str  # metrics/samples.md
    band: dict[str, np.ndarray] = field(default_factory=dict)  # columns of metrics/loss.csv


def read_run(name: str, read: Callable[[str], bytes | None]) -> RunRecord:
    """The run whose files ``read`` returns by their path in the project, None for an absent one.

    Results of evaluate and sample are left out when they are of another model: while a run trains,
    the last run's are still there.
    """
    from ruamel.yaml import YAML

    yaml, files = YAML(typ="safe"), ("train.json", "eval.json", "train.csv", "hellaswag.jsonl",
                                     "samples.md")
    params, lock = (yaml.load(read(path) or b"") or {} for path in ("params.yaml", "dvc.lock"))
    train, scores, curve, questions, samples = (
        (read(f"metrics/{file}") or b"").decode("utf-8", "replace") for file in files)
    finished, columns = json.loads(train or "{}"), read_csv(curve)
    if len(columns.get("step", ())) and columns["step"][-1] < finished.get("steps", 0):
        finished = {}  # the last run's: DVC deletes it, a stage started by hand does not
    stages = lock.get("stages", {})
    for stage in stages.values() if finished else ():
        params |= stage.get("params", {}).get("params.yaml", {})
    models = {stage: [entry["md5"] for entry in stages.get(stage, {}).get(kind, ())
                      if entry["path"] == "models/gpt"]
              for stage, kind in (("train", "outs"), ("evaluate", "deps"), ("sample", "deps"))}
    scored, sampled = (bool(finished) and models[stage] == models["train"]
                       for stage in ("evaluate", "sample"))
    band = read_csv((read("metrics/loss.csv") or b"").decode("utf-8", "replace"))
    return RunRecord(name, flatten(params), columns, finished,
                     json.loads(scores or "{}") if scored else {},
                     parse_records(questions) if scored else {}, samples if sampled else "", band)


def read_csv(text: str) -> dict[str, np.ndarray]:
    """The columns of a CSV file of numbers, without a last line that is still being written."""
    header, *lines = text[:text.rfind("\n") + 1].splitlines() or [""]
    rows = [line.split(",") for line in lines]
    return {name: np.array([float(row[k]) for row in rows])
            for k, name in enumerate(header.split(",")) if name}


def different_params(runs: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
    """Key -> its value in each run (None where absent), for the keys in which runs differ."""
    rows = {key: [run.get(key) for run in runs] for run in runs for key in run}
    return {key: row for key, row in rows.items() if any(value != row[0] for value in row)}


def smooth(values: np.ndarray, window: int) -> np.ndarray:
    """Moving mean (n,) over ``window`` values on each side, and near the start fewer: where a loss
    falls fast, a wide mean would lie above it."""
    half = [min(i // 4, window) for i in range(len(values))]
    return np.array([values[i - h:i + h + 1].mean() for i, h in enumerate(half)])
