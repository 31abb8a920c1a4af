"""The page and the picture from made-up figures."""

from scaling.page import drawing, page

RUNS = {name: [{"kaplan": n, "chinchilla": n + 5000, "tokens": t, "loss": 2 + 1e4 / n + 1e5 / t}
               for t in (2.5e5, 5e5)] for name, n in (("s1", 2e4), ("s2", 5e4))}
LAW = {"loss": 1.91, "low": 1.85, "high": 1.99, "coefficients": {"alpha": (0.3, 0.2, 0.4)}}
PREDICTION = {"runs": 4, "tokens": 1_000_000, "kaplan": 8e5, "chinchilla": 8.1e5,
              "laws": {"chinchilla": LAW, "kaplan": LAW | {"loss": 1.97}}}


def test_prediction_interval_and_result_stand_side_by_side() -> None:
    text = page(RUNS, PREDICTION, 2.0)
    assert "| Chinchilla | 1.9100 | 1.8500 to 1.9900 | 2.0000 | -4.50% |" in text
    assert "| Kaplan | 1.9700 |" in text
    assert "| s2 | 50,000 | 55,000 | 2.6000 | 2.4000 |" in text
    assert "| Chinchilla: alpha | 0.3 | 0.2 to 0.4 |" in text


def test_the_picture_has_each_size_the_prediction_and_the_run() -> None:
    svg = drawing(RUNS, PREDICTION, 2.0).decode()
    for label in ("20k parameters", "50k parameters", "predicted by Chinchilla", "held out"):
        assert label in svg
