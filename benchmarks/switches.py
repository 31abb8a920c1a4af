"""What a switch of the model is worth, and whether that is more than a seed is.

    python benchmarks/switches.py position=rope activation=relu2 tied_head=false
    python benchmarks/switches.py --seeds 5 --steps 500 qk_norm=true,position=rope train.lr=1e-3

Trains params.yaml's run on data/tokens as it is, then with each switch (several by commas are one),
with the same seeds for all, and compares the final validation losses. A key without a section is
one of `model`. Finished runs are kept in runs/ and cost nothing the second time.
"""

import argparse
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:1] = [str(ROOT), str(ROOT / "src")]

from benchmarks.machine import heading, write
from pipeline import PARAMS_FILE
from pipeline.cli import one_line, stop
from reprogpt.config import Config, merge, read_yaml
from reprogpt.launch.launcher import TrainingFailed, launch
from reprogpt.launch.run_dir import Paths, RunDir, runs_root
from reprogpt.storage.files import sha256_of


def changed(switches: str) -> dict[str, Any]:
    """``a=1,train.b=true`` as params, of section model without another; values are YAML."""
    found: dict[str, Any] = {}
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        file.write("\n".join(f"{k}: {v}" for k, _, v in
                             (switch.partition("=") for switch in switches.split(","))))
        file.flush()
        for key, value in read_yaml(file.name).items():
            section, _, name = key.rpartition(".")
            found.setdefault(section or "model", {})[name] = value
    return found


def loss_of(values: dict[str, Any], folder: Path) -> float:
    """The last validation loss of one run."""
    cfg = Config.parse(values, source=str(PARAMS_FILE))
    tokens = ROOT / "data/tokens"
    init = ROOT / "data/init"
    paths = Paths(str(tokens), str(init), str(folder / "gpt"), str(folder / "train.csv"),
                  str(folder / "train.json"))
    contents = [("tokens", sha256_of(tokens / "manifest.json"))]
    files = [*(ROOT / "src/reprogpt").rglob("*.py"), *init.glob("*")]
    contents += [(str(p.relative_to(ROOT)), sha256_of(p)) for p in sorted(files)]
    launch(RunDir.create(runs_root(ROOT), cfg.fingerprint(contents), cfg, paths))
    return float(read_yaml(folder / "train.json")["val_loss"])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("switches", nargs="+", metavar="KEY=VALUE[,KEY=VALUE]")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, help="instead of train.max_steps")
    parser.add_argument("--json", type=Path, help="validation losses, a seed each")
    options = parser.parse_args()
    if options.seeds < 2:
        parser.error("--seeds must be at least 2: one run has no spread")
    base = read_yaml(PARAMS_FILE)
    if options.steps:
        base = merge(base, {"train": {"max_steps": options.steps}})
    variants = {"as it is": base, **{name: merge(base, changed(name)) for name in options.switches}}
    for values in variants.values():  # a misspelt one is told before hours of training
        Config.parse(values, source=str(PARAMS_FILE))
    losses: dict[str, list[float]] = {}
    for name, values in variants.items():
        with tempfile.TemporaryDirectory() as folder:
            losses[name] = [loss_of(merge(values, {"seed": seed}), Path(folder))
                            for seed in range(1, options.seeds + 1)]
    print(heading(), table(losses), sep="\n")
    write(options.json, losses)


def table(losses: dict[str, list[float]]) -> str:
    """Mean and spread of each, and its difference from the first, run by run of the same seed.

    ``noise`` is the standard error of that difference: one within twice of it says nothing.
    """
    first = next(iter(losses.values()))
    rows = ["| model | validation loss | sd over seeds | difference | noise |",
            "|---|--:|--:|--:|--:|"]
    for name, found in losses.items():
        row = f"| {name} | {statistics.mean(found):.4f} | {statistics.stdev(found):.4f} |"
        if found is not first:
            apart = [b - a for a, b in zip(first, found, strict=True)]
            error = statistics.stdev(apart) / len(apart) ** 0.5
            row += f" {statistics.mean(apart):+.4f} | {error:.4f} |"
        else:
            row += " | |"
        rows.append(row)
    return "\n".join(rows)


if __name__ == "__main__":
    with one_line():
        try:
            main()
        except TrainingFailed as error:
            stop(str(error), 1)
