"""Prints the mean and standard deviation of each metric over runs that differ in their seed alone.

    python -m pipeline.seeds        the last commit and its experiments, as `dvc exp show` has them
"""

import json
import subprocess
from collections.abc import Iterator
from statistics import mean, stdev
from typing import Any

from pipeline.cli import Parser, one_line
from reprogpt.config import flatten


def main() -> None:
    with one_line():
        Parser(__doc__).parse_args()
        done = subprocess.run(["dvc", "exp", "show", "--json"], stdout=subprocess.PIPE, check=False)
        if done.returncode:
            raise ValueError("dvc exp show failed, for the reason above; mend that first")
        print(*table(json.loads(done.stdout)), sep="\n")


def table(shown: list[dict[str, Any]]) -> Iterator[str]:
    """One line for each set of runs. ``shown``: the output of `dvc exp show --json`."""
    groups: dict[str, dict[int, dict[str, float]]] = {}
    for commit in shown[1:]:  # the first is the workspace
        for run in (commit, *(exp["revs"][0] for exp in commit["experiments"] or ())):
            params = flatten(run["data"]["params"]["params.yaml"]["data"])
            metrics = run["data"]["metrics"].get("metrics/summary.json", {}).get("data") or {}
            same = {key: value for key, value in params.items()  # runtime changes no result
                    if key not in ("preset", "seed") and not key.startswith("runtime.")}
            groups.setdefault(json.dumps(same, sort_keys=True), {})[params["seed"]] = metrics
    others = [json.loads(group) for group in groups]
    for group, seeds in groups.items():
        if len(seeds) < 2:
            continue
        differing = ", ".join(f"{name}={value}" for name, value in json.loads(group).items()
                              if any(other.get(name) != value for other in others))
        names = set.intersection(*(set(metrics) for metrics in seeds.values()))
        figures = {name: [metrics[name] for metrics in seeds.values()] for name in sorted(names)}
        yield f"seeds {', '.join(map(str, sorted(seeds)))}; {differing or 'the commit'}"
        yield from (f"  {name:<10} {mean(values):12.5g} ± {stdev(values):.2g}"
                    for name, values in figures.items())


if __name__ == "__main__":
    main()
