"""Figures: the numbers in them are read back from their axes."""

import xml.etree.ElementTree as ET

import numpy as np
import pytest

from reprogpt.evaluation.plots import bars, curves, image, render


def test_an_image_is_the_matrix_between_its_percentiles() -> None:
    values = np.linspace(-1, 1, 300).reshape(20, 15)
    axes = image(values, "title", "row", "column").axes[0]
    (drawn,) = axes.images
    assert np.array_equal(drawn.get_array(), values)
    assert drawn.get_clim() == tuple(np.percentile(values, [1, 99]))
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("column", "row")


def test_curves_are_a_named_line_for_each_series() -> None:
    series = {"a": np.array([0.0, 1.0, 0.5]), "b": np.array([1.0, 0.0])}
    axes = curves(series, "title", "x", "y").axes[0]
    assert {line.get_label(): list(line.get_ydata()) for line in axes.lines} == {
        name: values.tolist() for name, values in series.items()}
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["a", "b"]


def test_bars_are_as_long_as_their_values_and_marks_stand_where_they_say() -> None:
    axes = bars({"a": 2.0, "b": 1234.5, "c": 0.01}, {"b": 2.0, "d": 9.0}, "seconds", 1).axes[0]
    assert [bar.get_width() for bar in axes.patches] == [2.0, 1234.5, 0.01]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a: 2.0", "b: 1,234.5",
                                                                      "c: 0.0"]
    (mark,) = axes.collections
    assert mark.get_segments()[0].tolist() == [[2.0, 0.6], [2.0, 1.4]]
    assert axes.yaxis_inverted()


@pytest.mark.parametrize("kind", ["png", "svg"])
def test_the_same_numbers_give_the_same_bytes(kind: str) -> None:
    files = [render(bars({"a": value}, {}, "seconds"), kind) for value in (1.0, 1.0, 2.0)]
    assert files[0] == files[1] != files[2]
    if kind == "svg":
        texts = [element.text for element in ET.fromstring(files[0]).iter() if element.text]
        assert "a: 1.000" in texts
    else:
        assert files[0].startswith(b"\x89PNG")
