"""A page about one run, or several side by side: one HTML file that needs no other.

report_page.html beside this file is its Jinja template. A panel without data is left out. The
numbers behind the figures are in the page as JSON.
"""

import datetime
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from reprogpt.errors import ConfigError
from reprogpt.evaluation import report_figures as figures
from reprogpt.evaluation.compare_runs import by_correctness
from reprogpt.evaluation.model_views import attention_weights, loss_by_position, passage, window_nll
from reprogpt.evaluation.plots import bars
from reprogpt.evaluation.published import CHANCE, METRICS, nearest
from reprogpt.evaluation.reference_band import standard_error
from reprogpt.evaluation.run_record import RunRecord, different_params
from reprogpt.formats.huggingface import load_model
from reprogpt.generation.samples import encode_prompt
from reprogpt.tokens.manifest import read_manifest
from reprogpt.tokens.shards import TokenStream
from reprogpt.tokens.tokenizers import load_tokenizer

ROWS = (("validation loss", "val_loss", "{:.4f}".format),
        ("bits per byte", "val_bits_per_byte", "{:.4f}".format),
        ("tokens", "tokens", figures.compact),
        ("epochs", "epochs", "{:.3g}".format),
        ("parameters", "parameters", figures.compact),
        ("tokens per second", "tokens_per_second", "{:,.0f}".format),
        ("MFU", "mfu", "{:.1%}".format),
        ("training time", "seconds", lambda s: datetime.timedelta(seconds=round(s))))
"""Label, name in eval.json or train.json, format."""
POSITION_TOKENS, PASSAGE_TOKENS = 32768, 400


def page(runs: Sequence[RunRecord], preset: Mapping[str, Any], about: Mapping[str, str],
         stages: Sequence[Sequence[str]], panels: Mapping[str, Any]) -> str:
    """The HTML. ``preset``: params of the preset of a single run; ``about``: commit and the like;
    ``stages``: :func:`stage_rows`; ``panels``: :func:`model_panels`."""
    from jinja2 import Environment, FileSystemLoader

    data = {"runs": [{"name": run.name, "train": run.train, "scores": run.scores, "curve":
                      {k: v.tolist() for k, v in run.curve.items()}} for run in runs],
            **panels.get("data", {})}
    text = re.sub(r"\bNaN\b|-?\bInfinity\b", "null", json.dumps(data)).replace("<", "\\u003c")
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True,
                              trim_blocks=True, lstrip_blocks=True)
    columns = [dict(preset), runs[0].params] if len(runs) == 1 else [run.params for run in runs]
    return environment.get_template("report_page.html").render(
        runs=runs, alone=len(runs) == 1, colors=figures.COLORS, written=datetime.datetime.now(),
        about=about, stages=stages, metrics=metrics_of(runs), params=different_params(columns),
        passage=panels.get("passage"),
        pairs=[(a.name, b.name, *row) for a, b in itertools.combinations(runs, 2)
               for row in by_correctness(a.questions, b.questions)],
        samples=re.findall(r"(?ms)^## `+(.*?)`+$|^(`{3,})text\n(.*?)\n\2$", runs[0].samples),
        figures=figures_of(runs) | panels.get("figures", {}), data=text)


def stage_rows(stages: Mapping[str, tuple[str, float | None]], training: float | None,
               rate: float | None) -> list[tuple[str, ...]]:
    """A row a stage: name, when it finished, how long it took, and with ``rate`` (dollars an hour)
    what that cost. ``training``: the seconds of all training steps, of which the stage's last start
    may have made only the rest."""
    rows, total = [("", "finished", "took", "cost")], 0.0
    for stage, (finished, seconds) in stages.items():
        seconds = max(seconds or 0.0, training or 0.0) if stage == "train" else seconds
        total += seconds or 0.0
        rows.append((stage, finished, *_price(seconds, rate)))
    rows.append(("together", "", *_price(total, rate)))
    return [row if rate else row[:3] for row in rows] if stages else []


def _price(seconds: float | None, rate: float | None) -> tuple[str, str]:
    if not seconds:
        return "unknown", ""
    took = str(datetime.timedelta(seconds=round(seconds))) if seconds >= 60 else f"{seconds:.1f} s"
    return took, f"{seconds / 3600 * (rate or 0):,.2f} $"


def figures_of(runs: Sequence[RunRecord]) -> dict[str, str]:
    """SVG elements by name, of the runs that have the numbers."""
    found = {}
    curves = [run for run in runs if len(run.curve.get("step", ())) > 1]
    if curves:
        found["loss"] = figures.svg(figures.loss, curves)
        for name, title in (("lr", "learning rate"), ("grad_norm", "gradient norm"),
                            ("tokens_per_second", "tokens per second")):
            found[name] = figures.svg(figures.column, curves, name, title)
    scores = {run.name: (hellaswag["acc_norm"], hellaswag["examples"]) for run in runs
              if (hellaswag := run.scores.get("hellaswag", {})).get("examples")}
    if scores:
        size = max(run.train["parameters"] for run in runs if run.train)
        published = {model.name: (model.scores["acc_norm"], 10042)
                     for model in nearest(size).values()}
        rows = {name: (share, standard_error(share, n))
                for name, (share, n) in (scores | published).items()}
        found["hellaswag"] = figures.svg(figures.accuracies, rows, len(scores), CHANCE)
    solved = {run.name: run.scores["solved"] for run in runs if "task" in run.scores}
    if solved:
        found["solved"] = figures.svg(bars, {
            row["kind"] if len(runs) == 1 else f"{name}, {row['kind']}": row["solved"]
            for name, rows in solved.items() for row in rows}, {}, "share of problems solved")
    return found


def metrics_of(runs: Sequence[RunRecord]) -> dict[str, list[str]]:
    """Label -> the value of each run as text, for what at least one of them has. Of a run that
    still trains the last values of its curve."""
    # The val_loss of train.json is over other tokens than that of eval.json.
    values = [run.train | {"val_loss": None} | run.scores if run.train else _latest(run.curve)
              for run in runs]
    rows = {label: [str(form(found[name])) if found.get(name) is not None else ""
                    for found in values] for label, name, form in ROWS}
    rows["steps"] = [f"{run.train['steps']:,}" if run.train else
                     f"{found.get('step', 0):,.0f} of {run.params['train.max_steps']:,}"
                     for run, found in zip(runs, values, strict=True)]
    for name in METRICS:
        rows[f"HellaSwag {name}"] = [
            f"{scores[name]:.4f} ± {standard_error(scores[name], scores['examples']):.4f}"
            if (scores := run.scores.get("hellaswag", {})).get("examples") else "" for run in runs]
    return {label: row for label, row in rows.items() if any(row)}


def _latest(curve: Mapping[str, np.ndarray]) -> dict[str, float]:
    """The last measured value of each column."""
    known = {name: values[~np.isnan(values)] for name, values in curve.items()}
    return {name: float(values[-1]) for name, values in known.items() if len(values)}


def model_panels(root: Path, device: Any, prompt: str | None, layer: int | None, head: int
                 ) -> dict[str, Any]:
    """What root/models/gpt shows on held-out text and on ``prompt``; nothing without a model.

    Raises ConfigError for a prompt, layer or head that does not fit the model.
    """
    if not (root / "models/gpt/config.json").is_file():
        if prompt is not None:
            raise ConfigError("--prompt needs models/gpt, which is not there; run `dvc repro`")
        return {}
    model, cfg = load_model(root / "models/gpt", device)
    tokenizer, tokens = load_tokenizer(root / "models/gpt"), root / "data/tokens"
    drawn, data, found = {}, {}, None
    if ((tokens / "manifest.json").is_file()
            and read_manifest(tokens).tokenizer["fingerprint"] == tokenizer.fingerprint):
        stream, T = TokenStream(tokens, "val"), cfg.block_size
        starts = range(0, min(POSITION_TOKENS, stream.n_tokens - 1) - T + 1, T)
        if starts:
            data["positions"] = loss_by_position(window_nll(model, stream, starts, T))
            drawn["positions"] = figures.svg(figures.by_position, data["positions"])
            found = [(tokenizer.decode([i]), float(nll)) for i, nll in
                     zip(*passage(model, stream, T, PASSAGE_TOKENS), strict=True)]
    if prompt is not None:
        ids = encode_prompt(prompt, tokenizer, "--prompt")
        weights = attention_weights(model, ids)
        layer = cfg.n_layer - 1 if layer is None else layer
        for name, value, count in (("layer", layer, cfg.n_layer), ("head", head, cfg.n_head)):
            if not 0 <= value < count:
                raise ConfigError(f"--{name}={value} must be 0 to {count - 1}; correct it")
        labels = [tokenizer.decode([i]).replace(" ", "·").replace("\n", "↵") for i in ids]
        data["attention"] = weights[layer, head].tolist()
        drawn["heads"] = figures.svg(figures.attention_grid, weights, layer, head)
        drawn["head"] = figures.svg(figures.attention_head, weights[layer, head], labels,
                                    f"Layer {layer}, head {head}")
    return {"figures": drawn, "data": data, "passage": found}
