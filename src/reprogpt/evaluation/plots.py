"""Figures by matplotlib, which is imported only where something is drawn.

:func:`render` turns a Figure into the bytes of a file, the same bytes for the same numbers.
"""

import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def image(values: np.ndarray, title: str, row: str, column: str) -> "Figure":
    """A matrix (rows, columns) in grey, from its 1st percentile (black) to its 99th (white)."""
    figure = new_figure(8, min(6, 1.5 + 0.3 * len(values)))
    axes = figure.subplots()
    low, high = np.percentile(values, [1, 99])
    drawn = axes.imshow(values, cmap="gray", vmin=low, vmax=high, aspect="auto",
                        interpolation="nearest")
    figure.colorbar(drawn)
    axes.set_title(title, parse_math=False)  # a "$" is a dollar
    axes.set(xlabel=column, ylabel=row)
    return figure


def curves(series: Mapping[str, np.ndarray], title: str, x: str, y: str) -> "Figure":
    """Named series (n,) over their index."""
    figure = new_figure(8, 4)
    axes = figure.subplots()
    for name, values in series.items():
        axes.plot(values, label=name)
    axes.set(title=title, xlabel=x, ylabel=y)
    axes.legend()
    return figure


def bars(values: Mapping[str, float], marks: Mapping[str, float], label: str,
         digits: int = 3) -> "Figure":
    """A horizontal bar for each value, and a red line across the bars that ``marks`` names."""
    figure = new_figure(8, 1 + 0.35 * len(values))
    axes = figure.subplots()
    axes.barh(range(len(values)), list(values.values()),
              tick_label=[f"{name}: {value:,.{digits}f}" for name, value in values.items()])
    for row, name in enumerate(values):
        if name in marks:
            axes.vlines(marks[name], row - 0.4, row + 0.4, colors="red", linewidth=3)
    axes.invert_yaxis()  # the first value on top
    axes.set(xlabel=label)
    return figure


def new_figure(width: float, height: float) -> "Figure":
    """An empty Figure, in inches."""
    from matplotlib.figure import Figure  # not pyplot, which keeps figures in global state

    return Figure((width, height), layout="constrained")


def render(figure: "Figure", kind: Literal["png", "svg"]) -> bytes:
    """A figure as the bytes of a PNG or SVG file."""
    import matplotlib

    file = io.BytesIO()
    # Without these, an SVG has random ids and the date in it, and letters as outlines.
    with matplotlib.rc_context({"svg.hashsalt": "reprogpt", "svg.fonttype": "none"}):
        figure.savefig(file, format=kind, metadata={"Date": None} if kind == "svg" else None)
    return file.getvalue()
