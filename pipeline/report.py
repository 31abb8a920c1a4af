"""Writes a report as one HTML file, also while a run trains.

    python -m pipeline.report                          this run: metrics/, models/gpt
    python -m pipeline.report --prompt "To be, or"     with the attention weights over that text
    python -m pipeline.report --rev A,B                commits or DVC experiments, side by side
    python -m pipeline.report --rate 2.50              with what the stages cost, in dollars an hour

One revision alone is put beside this run.
"""

from functools import partial
from pathlib import Path
from typing import Any

from pipeline import ROOT
from pipeline.cli import Parser, dollars, one_line
from pipeline.preset import values_of
from pipeline.revisions import HERE, about, read
from pipeline.stage_times import stage_times
from reprogpt.config import flatten
from reprogpt.errors import ConfigError


def main() -> None:
    from reprogpt.evaluation.report_page import model_panels, page, stage_rows
    from reprogpt.evaluation.run_record import read_run
    from reprogpt.runtime.device import pick_device
    from reprogpt.storage.files import write_bytes

    parser = Parser(__doc__)
    parser.add_argument("--rev", default="", help="revisions, separated by commas")
    parser.add_argument("--prompt", help="text over which attention weights are shown")
    parser.add_argument("--layer", type=int, help="layer of the large picture: 0 up (the last)")
    parser.add_argument("--head", type=int, default=0, help="head of the large picture (0)")
    parser.add_argument("--rate", type=dollars, help="dollars an hour of this machine")
    parser.add_argument("--out", type=Path, default=ROOT / "report.html")
    options = parser.parse_args()
    names = [name.strip() for name in options.rev.split(",") if name.strip()]
    names += [HERE] * (len(names) < 2)
    if len(names) > 1 and options.prompt is not None:
        raise ConfigError("--prompt shows this run's model, so leave --rev out")
    facts = {f"{name}: {label}" if len(names) > 1 else label: text
             for name in names for label, text in about(name).items()}
    runs = [read_run(name, partial(read, name)) for name in names]
    if not any(run.curve or run.scores for run in runs):
        raise ConfigError("metrics/: has no train.csv and no eval.json; run `dvc repro`")
    preset: dict[str, Any] = {}
    panels: dict[str, Any] = {}
    if len(runs) == 1:
        params = runs[0].params
        preset = flatten(values_of(params["preset"], ROOT / "presets"))
        if runs[0].train or options.prompt is not None:  # else models/gpt is of another run
            panels = model_panels(ROOT, pick_device(params["runtime.device"]), options.prompt,
                                  options.layer, options.head)
    stages = stage_rows(stage_times(ROOT), runs[0].train.get("seconds"), options.rate)
    write_bytes(options.out, page(runs, preset, facts, stages, panels).encode())
    print(f"{options.out}: open it in a browser")


if __name__ == "__main__":
    with one_line():
        main()
