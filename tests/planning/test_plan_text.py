"""A plan as text: what it says, in 100 columns."""

import pytest

from pipeline.preset import names, values_of
from reprogpt.config import Config
from reprogpt.planning.plan import plan
from reprogpt.planning.plan_text import duration, human, page, parts_table, summary
from tests.conftest import ROOT

FOLDER = ROOT / "presets"


def planned(name: str) -> dict:
    return plan(Config.parse(values_of(name, FOLDER), source=name))


@pytest.mark.parametrize("name", names(FOLDER))
def test_a_page_has_at_most_100_columns(name: str) -> None:
    text = page(planned(name) | {"tokens_per_second": 123456.7}, rate=12.34)
    assert max(map(len, text.splitlines())) <= 100
    assert all(f"\n{gpu} " in text for gpu in ("T4", "RTX 4090", "A100", "H100", "H200"))


def test_the_summary_comes_first_and_warnings_follow() -> None:
    found = planned("tiny") | {"warnings": ["data: few", "disk: full"]}
    lines = summary(found)
    assert lines[2:] == ["warning: data: few", "warning: disk: full"]
    assert page(found).splitlines()[:4] == lines
    assert "about" in lines[0]
    assert "about" not in summary(found | {"counted": True})[0]
    assert "epochs" not in summary(found | {"epochs": None})[0]


def test_price_and_speed_are_shown_where_they_are_known() -> None:
    found = planned("gpt2-124m")
    assert "$" not in page(found)
    assert f"{2 * found['hours_on_one']['A100']:,.2f} $" in page(found, rate=2)
    assert "this machine, measured" not in page(found)
    quiet = page(found | {"tokens_per_second": 5800.0, "load": 0.3, "cores": 2})
    assert "5,800 tokens/s" in quiet
    assert "other programs" not in quiet
    assert "load 5.0 on 2 cores" in page(found | {"tokens_per_second": 5800.0, "load": 5.0,
                                                  "cores": 2})


def test_the_table_of_the_lectures_is_the_commands() -> None:
    table = "\n".join(f"    {line}" for line in parts_table(planned("gpt2-124m")))
    assert table in (ROOT / "docs/lectures.md").read_text()


@pytest.mark.parametrize(("value", "unit", "text"), [
    (124_439_808, "", "124M"), (3.1e9, "B", "3.1 GB"), (9.85e9, "", "9.85B"), (999_600, "", "1M"),
    (12, "", "12"), (0, "B", "0 B"), (1.18e12, "B", "1.18 TB")])
def test_human(value: float, unit: str, text: str) -> None:
    assert human(value, unit) == text


@pytest.mark.parametrize(("hours", "text"), [
    (0, "< 1 min"), (1 / 120, "< 1 min"), (0.5, "30 min"), (5.64, "5.6 h"), (72, "3 days")])
def test_duration(hours: float, text: str) -> None:
    assert duration(hours) == text
