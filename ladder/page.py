"""Stage page: all rungs' metrics and samples as a page, a bar chart, and tables to plot.

    python -m ladder.page     -> ladder/page.md, ladder.svg, ladder.csv, curves.csv
"""

import json
import math
from typing import Any

from ladder.rungs import DVC_FILE, METRICS, SAMPLES, names, params
from pipeline import ROOT, stage
from reprogpt.evaluation.plots import bars, render
from reprogpt.storage.files import write_bytes

PUBLISHED = {
    "bigram": 2.491, "head": 2.423, "multihead": 2.317, "feedforward": 2.280, "blocks": 2.328,
    "residual": 2.134, "layernorm": 2.106, "scaled": 1.88,
}
"""Validation losses of Tiny Shakespeare at the same settings, means over random batches:
frogstar-world-b/Nano-GPT's logs, and for `scaled` the figure in nanoGPT's README for a CPU."""

IDEAS = {
    "bigram": "a table of pairs", "average": "+ the mean of the past",
    "head": "+ one head of self-attention", "multihead": "+ four heads",
    "feedforward": "+ a feed-forward layer", "blocks": "both, three times",
    "residual": "+ residual stream", "layernorm": "+ LayerNorm",
    "scaled": "+ dropout, and larger",
}
HEAD = """# The ladder's results

Written by `dvc repro ladder/dvc.yaml`; do not edit. {corpus}, one token per character, the last
tenth held out. Validation loss is in nats per character over all of the held-out tenth; seconds are
those of training. [README.md](README.md) says what a rung is and where the published figures come
from.

`average` is worse than `bigram`, and is meant to be: it predicts from the plain mean of up to eight
characters, in which the last one, which says most about the next, counts no more than the others.
`head` learns how much each of them counts.
{other}
| rung | parameters | FLOPs a token | validation loss | published | bits per byte | seconds |
|---|--:|--:|--:|--:|--:|--:|
"""
OTHER_TEXT = """
Below, {rungs} learned from other text than `bigram` ({corpora}), because it was trained when that
text was not within reach: compare losses of one text only. `dvc repro -f ladder/dvc.yaml:tokens`,
then `dvc repro ladder/dvc.yaml`, trains all on one.
"""
CORPORA = {"tinyshakespeare": "Tiny Shakespeare", "shakespeare": "the plays"}


def main() -> None:
    with stage("page", DVC_FILE, params):
        rungs = {name: json.loads((METRICS / f"{name}.json").read_text()) for name in names()}
        curves = {name: _curve(name) for name in names()}
        out = ROOT / "ladder"
        write_bytes(out / "ladder.csv", _figures(rungs).encode())
        write_bytes(out / "curves.csv", _columns(curves).encode())
        write_bytes(out / "ladder.svg", drawing(rungs))
        write_bytes(out / "page.md", page(rungs).encode())


def page(rungs: dict[str, dict[str, Any]]) -> str:
    """The Markdown page: the table, the chart, and each rung's sample."""
    texts = {name: CORPORA.get(r["corpus"], r["corpus"]) for name, r in rungs.items()}
    first, *others = dict.fromkeys(texts.values())
    strays = [f"`{name}`" for name, text in texts.items() if text != first]
    text = HEAD.format(corpus=first, other=OTHER_TEXT.format(
        rungs=", ".join(strays), corpora=", ".join(others)) if strays else "")
    marks = published(rungs)
    for name, r in rungs.items():
        mark = f"{marks[name]:.3f}" if name in marks else ""
        stray = f" ({texts[name]})" if texts[name] != first else ""
        text += (f"| {name}: {IDEAS.get(name, '')}{stray} | {r['parameters']:,} | "
                 f"{r['flops_per_token']:,} | {r['val_loss']:.3f} | {mark} | "
                 f"{r['val_bits_per_byte']:.3f} | {r['seconds']:.0f} |\n")
    text += "\n![Validation loss by rung, ours and published](ladder.svg)\n\n# Samples\n"
    temperature = params().sample.temperature
    text += f"\nPrompt: a line break. Temperature {temperature:g}, the same seed for all.\n"
    for name in rungs:
        sample = (SAMPLES / f"{name}.txt").read_text(encoding="utf-8").strip("\n")
        text += f"\n## {name}\n\n```text\n{sample}\n```\n"
    return text


def published(rungs: dict[str, dict[str, Any]]) -> dict[str, float]:
    """The published losses of the rungs that learned from the same text."""
    return {name: loss for name, loss in PUBLISHED.items()
            if name in rungs and rungs[name]["corpus"] == "tinyshakespeare"}


def comparable(rungs: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The rungs that learned from the text of the first."""
    corpus = next(iter(rungs.values()))["corpus"]
    return {name: r for name, r in rungs.items() if r["corpus"] == corpus}


def drawing(rungs: dict[str, dict[str, Any]]) -> bytes:
    """A bar chart of validation losses on the first rung's text, with a line at each published
    one, as SVG."""
    return render(bars({name: r["val_loss"] for name, r in comparable(rungs).items()},
                       published(rungs), "validation loss, nats per character; red: published"),
                  "svg")


def _figures(rungs: dict[str, dict[str, Any]]) -> str:
    marks = published(rungs)
    rows = [f"{name},{r['val_loss']},{marks.get(name, math.nan)}"
            for name, r in comparable(rungs).items()]
    return "\n".join(["rung,val_loss,published", *rows]) + "\n"


def _curve(name: str) -> dict[int, float]:
    """A rung's validation loss by step."""
    header, *rows = (METRICS / f"{name}.csv").read_text().splitlines()
    step, loss = (header.split(",").index(column) for column in ("step", "val_loss"))
    cells = [row.split(",") for row in rows]
    return {int(c[step]): float(c[loss]) for c in cells if not math.isnan(float(c[loss]))}


def _columns(curves: dict[str, dict[int, float]]) -> str:
    """CSV with a column per rung; nan at a step without a value (DVC draws an empty field as 0)."""
    steps = sorted(set().union(*curves.values()))
    rows = [",".join([str(s), *(str(c.get(s, math.nan)) for c in curves.values())]) for s in steps]
    return "\n".join([",".join(["step", *curves]), *rows]) + "\n"


if __name__ == "__main__":
    main()
