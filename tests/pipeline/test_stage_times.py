"""The seconds that stages took."""

from pathlib import Path

import pytest

from pipeline.stage_times import recorded, stage_times


def test_the_time_of_what_is_here_is_found_again(tmp_path: Path) -> None:
    left = tmp_path / "metrics/train.json"
    left.parent.mkdir()
    left.write_text("before")
    with recorded("train", tmp_path):
        left.write_text("one")
    with recorded("train", tmp_path):
        left.write_text("two")
    with recorded("climb@head", tmp_path):  # no stage of the page
        pass
    with pytest.raises(ValueError, match="broken"), recorded("train", tmp_path):
        raise ValueError("broken")
    assert (tmp_path / "runs/stage_times.csv").read_text().count("\n") == 2
    left.write_text("one")  # as dvc checkout does
    times = stage_times(tmp_path)
    assert list(times) == ["train"]
    assert times["train"][1] is not None
    left.write_text("from a remote")
    assert stage_times(tmp_path)["train"][1] is None
