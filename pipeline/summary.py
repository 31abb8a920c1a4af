"""Prints the finished run: losses, HellaSwag, a sample, the time, and where to look next.

    python -m pipeline.summary      what `make repro` ends with
"""

import json
import re
from collections.abc import Iterator
from typing import Any

from pipeline import PARAMS_FILE, ROOT
from pipeline.cli import Parser, one_line
from reprogpt.config import read_yaml
from reprogpt.errors import printable
from reprogpt.evaluation.reference_band import standard_error

NEXT = """\
metrics/samples.md                  more samples
python -m pipeline.chat             give the model a prompt of your own
make plots                          the curves: dvc_plots/index.html
dvc exp run -S train.lr=1e-3        another run, then: dvc exp show --only-changed
docs/experiments.md                 sweeps, seeds, comparing, sharing"""


def main() -> None:
    with one_line():
        Parser(__doc__).parse_args()
        train, scores, samples = map(_read, ("train.json", "eval.json", "samples.md"))
        preset = str(read_yaml(ROOT / PARAMS_FILE).get("preset"))
        print("", *figures(preset, train, scores, first_sample(samples)), "", NEXT, sep="\n")


def _read(name: str) -> str:
    file = ROOT / "metrics" / name
    if not file.is_file():
        raise ValueError(f"metrics/{name} is missing: no finished run is here; make repro, or dvc "
                         "checkout")
    return file.read_text(encoding="utf-8", errors="replace")


def figures(preset: str, train: str, scores: str, sample: str) -> list[str]:
    """:func:`lines` of the two files' text. Raises ValueError where one is damaged."""
    try:
        return list(lines(preset, json.loads(train), json.loads(scores), sample))
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError("metrics/train.json or metrics/eval.json is damaged "
                         f"({type(error).__name__}: {error}); remove both, and dvc repro makes "
                         "them anew") from None


def lines(preset: str, train: dict[str, Any], scores: dict[str, Any], sample: str
          ) -> Iterator[str]:
    """The run's figures, one line each. ``train``, ``scores``: train.json and eval.json."""
    speed, mfu = train["tokens_per_second"], train["mfu"]
    yield (f"{preset}: {train['steps']:,} steps, {train['tokens']:,} tokens "
           f"({train['epochs']:.2f} epochs), {train['parameters']:,} parameters")
    yield (f"  validation loss   {scores['val_loss']:.3f} nats a token, "
           f"{scores['val_bits_per_byte']:.3f} bits per byte ({scores['val_tokens']:,} tokens)")
    if train["train_loss"] is not None:
        yield f"  training loss     {train['train_loss']:.3f} at the end"
    if "acc_norm" in scores["hellaswag"]:
        yield f"  HellaSwag         {hellaswag(scores)}"
    if "band" in scores:
        band = ", ".join(f"{k} {v}" for k, v in scores["band"].items() if k != "name")
        yield f"  reference band    of {scores['band']['name']}: {band}"
    if "task" in scores:
        yield (f"  problems solved   {scores['task']['accuracy']:.1%} "
               f"of {scores['task']['problems']:,} held out")
    minutes, seconds = divmod(round(train["seconds"]), 60)
    yield (f"  training time     {minutes} min {seconds} s"
           + (f", {speed:,.0f} tokens a second" if speed else "")
           + (f", MFU {mfu:.1%}" if mfu else ""))
    yield f"  a sample          {printable(' '.join(sample.split()))}"[:100]


def hellaswag(scores: dict[str, Any]) -> str:
    """acc_norm with its standard error, beside chance and GPT-2's."""
    p, n = scores["hellaswag"]["acc_norm"], scores["hellaswag"]["examples"]
    others = ", ".join(f"{row['model']} {row['acc_norm']:.3f}" for row in scores["compared"]
                       if row["model"] != "this model")
    return f"acc_norm {p:.3f} ± {standard_error(p, n):.3f} of {n:,} ({others})"


def first_sample(page: str) -> str:
    """The first fenced block of metrics/samples.md: a prompt and what the model wrote."""
    found = re.search(r"(?ms)^(`{3,})text\n(.*?)\n\1$", page)
    return found[2] if found else ""


if __name__ == "__main__":
    main()
