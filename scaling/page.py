"""Stage page: the runs, the laws, the prediction and what came of it.

    python -m scaling.page    -> scaling/page.md, scaling/scaling.svg
"""

import json
from typing import Any

from pipeline import ROOT, stage
from reprogpt.evaluation.plots import new_figure, render
from reprogpt.storage.files import write_bytes
from scaling.runs import DVC_FILE, FOLDER, HELD_OUT, METRICS, PREDICTION, shared, sizes

HEAD = """# What the laws predicted, and what came

Written by `dvc repro scaling/dvc.yaml`; do not edit. Losses are nats per token over the same
held-out text. [README.md](README.md) says how the laws are fitted.

![Loss over tokens by size; the prediction with its interval, and the held-out run](scaling.svg)

The held-out run has {kaplan:,.0f} parameters without embeddings ({chinchilla:,.0f} with them) and
{tokens:,} tokens. Its loss, {came:.4f}, was predicted from {runs} smaller runs before it was
trained:

| law | predicted | 95% of the bootstrap | came | error |
|---|--:|--:|--:|--:|
"""


def main() -> None:
    with stage("page", DVC_FILE, shared):
        runs = {name: json.loads((METRICS / f"{name}.json").read_text()) for name in sizes()}
        prediction = json.loads(PREDICTION.read_text())
        came = json.loads(HELD_OUT.read_text())[0]["loss"]
        write_bytes(ROOT / FOLDER / "page.md", page(runs, prediction, came).encode())
        write_bytes(ROOT / FOLDER / "scaling.svg", drawing(runs, prediction, came))


def page(runs: dict[str, list[dict[str, float]]], prediction: dict[str, Any], came: float) -> str:
    """The page as Markdown."""
    text = HEAD.format(came=came, **{k: v for k, v in prediction.items() if k != "laws"})
    for name, law in prediction["laws"].items():
        text += (f"| {name.capitalize()} | {law['loss']:.4f} | {law['low']:.4f} to "
                 f"{law['high']:.4f} | {came:.4f} | {law['loss'] / came - 1:+.2%} |\n")
    text += "\n| coefficient | value | 95% of the bootstrap |\n|---|--:|--:|\n"
    for name, law in prediction["laws"].items():
        for key, (value, low, high) in law["coefficients"].items():
            text += f"| {name.capitalize()}: {key} | {value:.4g} | {low:.4g} to {high:.4g} |\n"
    counts = [int(point["tokens"]) for point in next(iter(runs.values()))]
    text += ("\n| size | parameters without embeddings | with | "
             + " | ".join(f"{count:,} tokens" for count in counts)
             + " |\n|---|--:|--:|" + "--:|" * len(counts) + "\n")
    for name, points in runs.items():
        losses = " | ".join(f"{point['loss']:.4f}" for point in points)
        text += (f"| {name} | {points[0]['kaplan']:,.0f} | {points[0]['chinchilla']:,.0f} | "
                 f"{losses} |\n")
    return text


def drawing(runs: dict[str, list[dict[str, float]]], prediction: dict[str, Any], came: float
            ) -> bytes:
    """Loss over tokens, a line a size, both axes logarithmic; the predictions as error bars."""
    figure = new_figure(8, 5)
    axes = figure.subplots()
    for points in runs.values():
        axes.plot([point["tokens"] for point in points], [point["loss"] for point in points], "o-",
                  label=f"{points[0]['kaplan'] / 1000:,.0f}k parameters")
    for number, (name, law) in enumerate(prediction["laws"].items()):
        below, above = max(0.0, law["loss"] - law["low"]), max(0.0, law["high"] - law["loss"])
        axes.errorbar(prediction["tokens"] * (1.04 + 0.08 * number), law["loss"],
                      [[below], [above]], fmt="s", capsize=4, color="grey" if number else "black",
                      label=f"predicted by {name.capitalize()}")
    axes.plot(prediction["tokens"], came, "*", markersize=14, color="red",
              label=f"held out: {prediction['kaplan'] / 1000:,.0f}k parameters")
    axes.set(xscale="log", yscale="log", xlabel="tokens", ylabel="validation loss, nats per token")
    low = min(came, *(p["loss"] for points in runs.values() for p in points))
    high = max(p["loss"] for points in runs.values() for p in points)
    ticks = [round(low - 0.05 + step * (high - low + 0.1) / 5, 2) for step in range(6)]
    axes.minorticks_off()
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    counts = [point["tokens"] for point in next(iter(runs.values()))] + [prediction["tokens"]]
    axes.set_xticks(counts, [f"{count / 1e6:.3g}M" for count in counts])
    axes.legend()
    return render(figure, "svg")


if __name__ == "__main__":
    main()
