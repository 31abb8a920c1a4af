"""The figures of a report by matplotlib, and :func:`svg`, which makes one an element of a page."""

import itertools
import re
import zlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from reprogpt.evaluation.plots import new_figure, render
from reprogpt.evaluation.run_record import RunRecord, smooth

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLORS = ("#1f5fa8", "#d0661c", "#2b8a5a", "#8a4f9e", "#a33a3a")
GREY = "#3c4043"
WIDTH = 11.4  # inches: 1094 pixels, the page's
STYLE: Any = {
    "font.family": "sans-serif", "font.size": 9, "axes.titlesize": 10, "axes.titlelocation": "left",
    "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": "#9aa0a6",
    "axes.grid": True, "grid.color": "#e8eaed", "axes.axisbelow": True, "legend.frameon": False}


def svg(draw: Any, *arguments: Any) -> str:
    """The figure ``draw(*arguments)`` as an SVG element: text is text, its ids are of no other
    figure in the page, and it holds no address."""
    import matplotlib

    with matplotlib.rc_context(STYLE):
        text = render(draw(*arguments), "svg").decode()
    text = re.sub(r'(?s)^.*?(?=<svg)|<metadata>.*?</metadata>|<!--.*?-->| xmlns(:xlink)?="[^"]*"',
                  "", text)
    prefix = f"f{zlib.crc32(text.encode()):x}-"
    return re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{prefix}", text)


def compact(value: float, _: Any = None) -> str:
    """A number in three digits and a unit: 512k, 1.5M, 10B."""
    for size, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


def loss(runs: Sequence[RunRecord]) -> "Figure":
    """Training loss, smoothed, and validation loss. One run: over steps, all of it and without its
    steep beginning. Several: over tokens and over seconds."""
    figure = new_figure(WIDTH, 3.7)
    panels = figure.subplots(1, 2)
    alone = len(runs) == 1
    late = np.concatenate([run.curve[name][len(run.curve[name]) // 10:]
                           for run in runs for name in ("train_loss", "val_loss")])
    low, high = np.nanmin(late), np.nanmax(late)
    for axes, x in zip(panels, ("step", "step") if alone else ("tokens", "seconds"), strict=True):
        for run, color in zip(runs, itertools.cycle(COLORS), strict=False):
            _draw_loss(axes, run, x, color, alone)
        axes.set(xlabel=x, ylabel="loss (nats per token)")
        if alone and axes is panels[0]:
            axes.set_xscale("log")
        else:
            axes.set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low) + 1e-6)
        axes.xaxis.set_major_formatter(compact)
    figure.legend(*panels[1].get_legend_handles_labels(), loc="outside upper left",
                  ncols=3 if alone else min(4, len(runs)))  # a column per run
    return figure


def _draw_loss(axes: "Axes", run: RunRecord, x: str, color: str, alone: bool) -> None:
    at, train, val = run.curve[x], run.curve["train_loss"], run.curve["val_loss"]
    window, name = max(1, len(at) // 25), "" if alone else f"{run.name}: "
    low = run.band.get("reference_low", np.array([np.nan]))
    if alone and (inside := ~np.isnan(low)).any():
        axes.fill_between(run.band["step"][inside], low[inside],
                          run.band["reference_high"][inside], color=COLORS[1], alpha=0.25,
                          linewidth=0, label="reference band of validation")
    if alone:
        axes.plot(at, train, color=color, alpha=0.25, linewidth=0.8, label="training")
    logged = ~np.isnan(train)
    axes.plot(at[logged], smooth(train[logged], window), color=color,
              linewidth=1.6 if alone else 0.8,
              label=f"{name}training, mean of {2 * window + 1} values")
    known = ~np.isnan(val) & (at > 0)  # a logarithmic axis has no 0
    if known.any():
        axes.plot(at[known], val[known], "o-" if known.sum() < 40 else "-", markersize=3.5,
                  color=COLORS[1] if alone else color,
                  label=f"{name}validation, last {val[known][-1]:.3f}")


def column(runs: Sequence[RunRecord], name: str, title: str) -> "Figure":
    """A column of metrics/train.csv over steps; on a logarithmic scale where its largest value is
    many times its median."""
    from matplotlib.ticker import LogFormatter

    figure = new_figure(WIDTH / 3, 2.3)
    axes = figure.subplots()
    for run, color in zip(runs, itertools.cycle(COLORS), strict=False):
        axes.plot(run.curve["step"], run.curve[name], color=color, linewidth=1)
    values = np.concatenate([run.curve[name] for run in runs])
    axes.set(title=title, xlabel="step")
    axes.xaxis.set_major_formatter(compact)
    if np.nanmax(values) > 8 * np.nanmedian(values) > 0:
        axes.set_yscale("log")
        axes.yaxis.set_minor_formatter(LogFormatter(labelOnlyBase=False))  # 0.2, not 2 x 10^-1
    else:
        axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(compact)
    return figure


def accuracies(rows: Mapping[str, tuple[float, float]], own: int, chance: float) -> "Figure":
    """Named (accuracy, standard error) with 95% intervals, the first ``own`` in color."""
    figure = new_figure(WIDTH / 2, 1.1 + 0.4 * len(rows))
    axes = figure.subplots()
    for y, (value, error) in enumerate(rows.values()):
        color = COLORS[y % len(COLORS)] if y < own else GREY
        axes.errorbar(value, y, xerr=1.96 * error, fmt="o", color=color, capsize=3)
        axes.annotate(f"{value:.3f}", (value, y), (0, 5), textcoords="offset points", ha="center",
                      color=color)
    axes.axvline(chance, color=GREY, linestyle="--", linewidth=0.8)
    axes.annotate("guessing", (chance, -0.7), (3, -3), textcoords="offset points", va="top",
                  color=GREY)
    axes.set_yticks(range(len(rows)), list(rows))
    axes.set(ylim=(len(rows) - 0.5, -0.7), xlabel="acc_norm and its 95% interval")
    return figure


def by_position(points: Sequence[tuple[float, float, float]]) -> "Figure":
    """Loss over positions: (position, mean, standard error), with 95% intervals."""
    figure = new_figure(WIDTH / 2, 2.7)
    axes = figure.subplots()
    at, mean, error = np.array(points).T
    axes.errorbar(at, mean, yerr=1.96 * error, fmt="o-", color=COLORS[0], markersize=3, capsize=2)
    if at[-1] > 8 * at[0]:  # unless, as in arithmetic, only some positions are trained on
        axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(compact)
    axes.set(xlabel="position in the window", ylabel="loss (nats per token)")
    return figure


def attention_grid(weights: np.ndarray, layer: int, head: int) -> "Figure":
    """Weights (n_layer, n_head, T, T) as small multiples: a row per layer, a column per head, and
    a frame around the chosen one."""
    L, H, T, _ = weights.shape
    side, size = T + 2, min(1.0, (WIDTH / 2 - 0.8) / H)
    tiles = np.pad(weights, ((0, 0), (0, 0), (1, 1), (1, 1)))
    figure = new_figure(0.8 + size * H, 0.8 + size * L)
    axes = figure.subplots()
    _heatmap(axes, tiles.transpose(0, 2, 1, 3).reshape(L * side, H * side))
    x, y = head * side - 0.5, layer * side - 0.5
    axes.plot([x, x + side, x + side, x, x], [y, y, y + side, y + side, y], color=COLORS[1])
    axes.set_xticks(np.arange(H) * side + side / 2, list(map(str, range(H))))
    axes.set_yticks(np.arange(L) * side + side / 2, list(map(str, range(L))))
    axes.set(xlabel="head", ylabel="layer", title="All heads")
    return figure


def attention_head(weights: np.ndarray, tokens: Sequence[str], title: str) -> "Figure":
    """Weights (T, T) of a head: a row per attending token, a column per token attended to."""
    side = min(WIDTH / 2, 1.4 + 0.2 * len(tokens))
    figure = new_figure(side, side)
    axes = figure.subplots()
    _heatmap(axes, weights)
    size = min(9.0, 60 * (side - 1.2) / len(tokens))
    axes.set_xticks(range(len(tokens)), tokens, rotation=90, fontsize=size, parse_math=False)
    axes.set_yticks(range(len(tokens)), tokens, fontsize=size, parse_math=False)
    axes.set_title(title)
    return figure


def _heatmap(axes: "Axes", weights: np.ndarray) -> None:
    """Weights as shades of blue; the square root lets small ones be seen."""
    axes.imshow(np.sqrt(weights), cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    axes.grid(visible=False)
    axes.tick_params(length=0)

