"""Hands the rows of metrics/train.csv on to the experiment tracker that runtime.tracker names.

Its package is imported when it is asked for. The tracker's run has the fingerprint as its name, so
that a training which is resumed goes on there. An error of the tracker never ends the training.
"""

import math
import os
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

from tqdm import tqdm

from reprogpt.config import flatten
from reprogpt.launch.run_dir import RunDir

PROJECT = "reprogpt"
Backend = tuple[Callable[[dict[str, float], int], Any], Callable[[], Any]]
"""``log(values, step)`` and ``finish()``."""


class Tracker:
    """``tracker(row)`` hands on what was measured; after its first error it does nothing."""

    def __init__(self, run: RunDir, step: int) -> None:
        """``step``: updates done so far; later ones in the tracker are from before a kill."""
        self._name = run.config.runtime.tracker
        self._backend: Backend | None = None
        self._backend = self._try(lambda: BACKENDS[self._name](run, step))

    def __call__(self, row: dict[str, float]) -> None:
        values = {k: v for k, v in row.items() if k != "step" and not math.isnan(v)}
        if (backend := self._backend) is not None:
            self._try(lambda: backend[0](values, int(row["step"])))

    def close(self) -> None:
        if self._backend is not None:
            self._try(self._backend[1])

    def _try(self, action: Callable[[], Any]) -> Any:
        try:
            return action()
        except Exception as error:  # whatever a tracker raises
            self._backend = None
            what = str(error).partition("\n")[0] or type(error).__name__
            tqdm.write(f"runtime.tracker={self._name} failed, training goes on without it: {what}",
                       file=sys.stderr)
        return None


def _tensorboard(run: RunDir, step: int) -> Backend:
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(run.path / "tensorboard"), purge_step=step + 1)

    def log(values: dict[str, float], step: int) -> None:
        for name, value in values.items():
            writer.add_scalar(name, value, step)
        writer.flush()

    return log, writer.close


def _wandb(run: RunDir, step: int) -> Backend:
    """wandb, or trackio, which has the same functions."""
    name = run.config.runtime.tracker
    module = import_module(name)
    own = {"id": run.path.name, "dir": run.path} if name == "wandb" else {}
    module.init(project=PROJECT, name=run.path.name, resume="allow",
                config=run.config.model_dump(mode="json"), **own)
    return lambda values, step: module.log(values, step=step), module.finish


def _mlflow(run: RunDir, step: int) -> Backend:
    import mlflow

    mlflow.set_tracking_uri(os.environ.get("MLFLOW_TRACKING_URI")
                            or f"sqlite:///{run.path.parent / 'mlflow.db'}")
    mlflow.set_experiment(PROJECT)
    known = mlflow.search_runs(filter_string=f"attributes.run_name = '{run.path.name}'",
                               output_format="list")
    mlflow.start_run(known[0].info.run_id if known else None, run_name=run.path.name)
    if not known:
        mlflow.log_params(flatten(run.config.model_dump(mode="json")))
    return lambda values, step: mlflow.log_metrics(values, step=step), mlflow.end_run


BACKENDS: dict[str, Callable[[RunDir, int], Backend]] = {
    "tensorboard": _tensorboard, "wandb": _wandb, "mlflow": _mlflow, "trackio": _wandb}
