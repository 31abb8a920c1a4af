"""Stage sweep@NAME: trains every point of a sweep with every seed, and draws their losses.

    python -m ladder.sweeps.sweep lr      -> ladder/sweeps/lr.csv, lr.svg
"""

import itertools
import math
import statistics
import sys
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from ladder.rungs import TOKENS, pick
from ladder.series import few_threads, losses
from pipeline import stage
from reprogpt.config import Config, flatten, merge, read_yaml

FOLDER = Path("ladder/sweeps")
DVC_FILE, PARAMS_FILE = FOLDER / "dvc.yaml", FOLDER / "params.yaml"
Losses = dict[tuple[float, float], list[float]]
"""(x, line) -> the validation loss by each seed; nan where training diverged."""


def spec(name: str) -> tuple[dict[str, Any], dict[str, Any], list[int]]:
    """The params that all runs share, what sweep ``name`` varies, and the seeds. Raises
    ConfigError for a sweep that does not exist."""
    shared = read_yaml(PARAMS_FILE)
    sweeps, seeds = shared.pop("sweeps"), shared.pop("seeds")
    return shared, pick(PARAMS_FILE, "sweeps", sweeps, name), seeds


def points(name: str) -> Iterator[tuple[tuple[float, float], list[Config]]]:
    """(x, line) and its runs, one a seed. Raises ConfigError."""
    shared, varied, seeds = spec(name)
    for line, x in itertools.product(varied["lines"], varied["x"]):
        values = merge(merge(shared, x), line)
        last = {"eval_interval": values["train"]["max_steps"]}
        yield (shown(x)[1], shown(line)[1]), [
            Config.parse(merge(values, {"seed": seed, "train": last}), source=str(PARAMS_FILE))
            for seed in seeds]


def first_run(name: str) -> Config:
    """The first run of a sweep. Raises ConfigError for any of them."""
    return list(points(name))[0][1][0]  # noqa: RUF015 (all are validated)


def shown(overlay: Mapping[str, Any]) -> tuple[str, float]:
    """The first param of an overlay, and its value: what the picture shows."""
    return next(iter(flatten(overlay).items()))


def main(name: str) -> None:
    full = f"sweep@{name}"
    with stage(full, DVC_FILE, partial(first_run, name)) as cfg:
        few_threads(cfg)
        from reprogpt.storage.files import write_bytes

        _, varied, seeds = spec(name)
        runs = dict(points(name))
        found = iter(losses(full, DVC_FILE, TOKENS, itertools.chain(*runs.values())))
        by_point = {at: list(itertools.islice(found, len(seeds))) for at in runs}
        keys = [shown(varied[axis][0])[0] for axis in ("x", "lines")]
        write_bytes(FOLDER / f"{name}.csv", table(by_point, keys, seeds).encode())
        write_bytes(FOLDER / f"{name}.svg", drawing(by_point, keys))


def table(measured: Losses, keys: list[str], seeds: list[int]) -> str:
    """CSV: x, line, the loss by each seed, and their mean."""
    rows = [[*keys, *(f"seed {seed}" for seed in seeds), "mean"]]
    rows += [[f"{value:g}" for value in at]
             + [f"{loss:.4f}" for loss in (*found, statistics.mean(found))]
             for at, found in measured.items()]
    return "".join(",".join(row) + "\n" for row in rows)


def drawing(measured: Losses, keys: list[str]) -> bytes:
    """Loss over x on a logarithmic axis: a curve of means a line, a dot a run. A cross at the top
    is a point that diverged."""
    from reprogpt.evaluation.plots import new_figure, render

    figure = new_figure(7, 4)
    axes = figure.subplots()
    top = max(loss for found in measured.values() for loss in found if not math.isnan(loss))
    for number, line in enumerate(dict.fromkeys(line for _, line in measured)):
        own = {x: found for (x, of), found in measured.items() if of == line}
        axes.plot(list(own), list(map(statistics.mean, own.values())), color=f"C{number}",
                  label=f"{keys[1]} {line:g}")
        for x, found in own.items():
            for loss in found:
                bad = math.isnan(loss)
                axes.plot(x, top if bad else loss, "x" if bad else ".", color=f"C{number}")
    axes.set_xscale("log")
    axes.minorticks_off()
    xs = sorted({x for x, _ in measured})
    axes.set_xticks(xs, [f"{x:g}" for x in xs])
    axes.set(xlabel=keys[0], ylabel="validation loss, nats per character")
    axes.legend()
    return render(figure, "svg")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "")  # which spec() refuses
