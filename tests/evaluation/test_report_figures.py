"""The figures of a report, read back from the axes and from the SVG."""

import re
from dataclasses import replace

import numpy as np
import pytest

from reprogpt.evaluation import report_figures as figures
from reprogpt.evaluation.run_record import RunRecord


def run(name="a", n=100, **columns):
    step = np.arange(1.0, n + 1)
    curve = {"step": step, "tokens": 512 * step, "seconds": step / 2, "train_loss": 3 + 7 / step,
             "val_loss": np.where(step % 10, np.nan, 3.5 + 7 / step), **columns}
    return RunRecord(name, {}, curve, {}, {}, {}, "")


def test_the_loss_of_one_run_is_drawn_over_all_steps_and_over_the_later_ones():
    whole, late = figures.loss([run()]).axes
    raw, smoothed, val = whole.lines
    assert raw.get_ydata()[0] == 10
    assert val.get_xdata().tolist() == list(range(10, 101, 10))
    assert whole.get_xscale() == "log"
    assert late.get_ylim()[1] < 5 < smoothed.get_ydata()[0]


def test_several_runs_are_drawn_over_tokens_and_over_seconds():
    figure = figures.loss([run("a"), run("b", 50)])
    tokens, seconds = figure.axes
    assert [axes.get_xlabel() for axes in (tokens, seconds)] == ["tokens", "seconds"]
    assert max(tokens.lines[-1].get_xdata()) == 512 * 50
    assert max(seconds.lines[-1].get_xdata()) == 25
    labels = [text.get_text() for text in figure.legends[0].texts]
    assert labels[1::2] == ["a: validation, last 3.570", "b: validation, last 3.640"]


def test_more_runs_than_colors_are_all_drawn():
    assert len(figures.column([run(str(k)) for k in range(8)], "seconds", "").axes[0].lines) == 8


@pytest.mark.parametrize(("peak", "scale"), [(3.0, "linear"), (300.0, "log")])
def test_a_column_with_a_spike_has_a_logarithmic_axis(peak, scale):
    values = np.ones(100)
    values[7] = peak
    assert figures.column([run(norm=values)], "norm", "x").axes[0].get_yscale() == scale


def test_intervals_of_accuracies_are_two_standard_errors():
    axes = figures.accuracies({"this": (0.3, 0.02), "GPT": (0.4, 0.005)}, 1, 0.25).axes[0]
    (segment,) = axes.containers[0].lines[2][0].get_segments()
    assert segment[:, 0] == pytest.approx([0.3 - 1.96 * 0.02, 0.3 + 1.96 * 0.02])
    assert {"0.300", "0.400"} <= {text.get_text() for text in axes.texts}


def test_every_head_has_its_place_in_the_small_multiples():
    weights = np.zeros((2, 3, 4, 4))
    weights[1, 2, 3, 0] = 0.25
    shown = figures.attention_grid(weights, 0, 0).axes[0].images[0].get_array()
    assert shown.shape == (2 * 6, 3 * 6)
    assert np.argwhere(shown == 0.5).tolist() == [[6 + 1 + 3, 2 * 6 + 1 + 0]]


def test_an_svg_has_text_no_address_and_ids_of_its_own():
    weights = np.eye(2)
    one = figures.svg(figures.attention_head, weights, ["$a", "<b>"], "Layer 0")
    two = figures.svg(figures.attention_head, weights, ["$a", "c"], "Layer 0")
    assert one.startswith("<svg")
    assert ">$a</text>" in one
    assert ">&lt;b&gt;</text>" in one
    assert "http" not in one
    ids = [re.findall(r'\bid="([^"]*)"', text) for text in (one, two)]
    assert len(ids[0]) == len(set(ids[0])) > 5
    assert not set(ids[0]) & set(ids[1])
    assert set(re.findall(r'(?:href="#|url\(#)([^")]*)', one)) <= set(ids[0])


@pytest.mark.parametrize(("value", "text"), [(0.05, "0.05"), (999, "999"), (512000, "512k"),
                                             (124.4e6, "124M"), (1e10, "10B")])
def test_numbers_have_three_digits_and_a_unit(value, text):
    assert figures.compact(value) == text


def test_a_reference_band_is_drawn_where_it_has_values():
    low = np.array([10.7, np.nan, 4.5])
    one = replace(run(), band={"step": np.array([1.0, 50.0, 100.0]), "reference_low": low,
                               "reference_high": low + 0.5})
    for axes in figures.loss([one]).axes:
        (band,) = axes.collections
        corners = band.get_paths()[0].vertices
        assert corners[:, 0].min() == 1
        assert corners[:, 0].max() == 100
        assert (corners[:, 1].min(), corners[:, 1].max()) == (4.5, 11.2)
    assert not figures.loss([run()]).axes[0].collections
    assert not figures.loss([one, run("b")]).axes[0].collections
