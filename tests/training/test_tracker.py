"""Experiment trackers: they get the rows of metrics/train.csv, also of a run that was resumed."""

import json
import math
from pathlib import Path

import pytest

from reprogpt.errors import ConfigError
from reprogpt.launch.run_dir import RunDir
from reprogpt.training.tracker import BACKENDS, Tracker
from tests.tiny_runs import make_run, read_csv, train, write_tokens

SHORT = {"max_steps": 6, "eval_interval": 3}


def run_with(folder: Path, name: str) -> RunDir:
    tokens = folder / "tokens"
    return make_run(folder, tokens if tokens.is_dir() else write_tokens(tokens), train=SHORT,
                    runtime={"tracker": name, "checkpoint_interval": 2})


def test_tensorboard_gets_every_row_of_a_resumed_run_once(tmp_path: Path) -> None:
    """A killed run is as its last checkpoint, and its tracker is some rows ahead of it."""
    run = run_with(tmp_path, "tensorboard")
    train(run)
    for name in ("step_000006.pt", "step_000006.sha256"):
        (run.path / name).unlink()
    train(run)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run.path / "tensorboard"))
    events.Reload()
    rows = read_csv(run)
    for name in ("train_loss", "val_loss", "lr", "tokens_per_second"):
        written = [(e.step, e.value) for e in events.Scalars(name)]
        logged = [(r["step"], r[name]) for r in rows if not math.isnan(r[name])]
        assert [step for step, _ in written] == [step for step, _ in logged]
        if name != "tokens_per_second":
            assert [v for _, v in written] == pytest.approx([v for _, v in logged], rel=1e-6)


def test_wandb_offline_gets_the_rows_under_the_run_s_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb = pytest.importorskip("wandb")
    from wandb.proto.wandb_internal_pb2 import Record

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    run = run_with(tmp_path, "wandb")
    found = Tracker(run, -1)
    found({"step": 5, "train_loss": 2.5, "val_loss": math.nan})
    found.close()
    wandb.teardown()  # its own process has written all
    (file,) = run.path.glob("wandb/offline-run-*/*.wandb")
    history, names, data = {}, set(), file.read_bytes()
    at = 7  # of the file's header; then, as in LevelDB's log: checksum (4), length (2), type (1)
    while at < len(data):
        length = int.from_bytes(data[at + 4:at + 6], "little")
        record = Record.FromString(data[at + 7:at + 7 + length])
        at += 7 + length
        names |= {record.run.run_id} - {""}
        history |= {"/".join(item.nested_key) or item.key: json.loads(item.value_json)
                    for item in record.history.item}
    assert names == {run.path.name}
    assert history["train_loss"] == 2.5
    assert history["_step"] == 5
    assert "val_loss" not in history


@pytest.mark.parametrize("name", ["mlflow", "trackio"])
def test_a_resumed_run_goes_on_in_the_tracker_s_run(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip(name)
    if name == "mlflow":
        pytest.importorskip("sqlalchemy")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    run = run_with(tmp_path, name)
    for step in (5, 6):
        found = Tracker(run, step - 1)
        found({"step": step, "train_loss": 10.0 + step})
        found.close()
    assert "failed" not in capsys.readouterr().err
    if name == "mlflow":
        from mlflow import MlflowClient

        client = MlflowClient()
        (only,) = client.search_runs([client.get_experiment_by_name("reprogpt").experiment_id])
        assert only.info.run_name == run.path.name
        history = client.get_metric_history(only.info.run_id, "train_loss")
        assert [(m.step, m.value) for m in history] == [(5, 15.0), (6, 16.0)]


def test_a_tracker_that_fails_ends_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = []

    def log(values: dict[str, float], step: int) -> None:
        calls.append(step)
        raise RuntimeError("the server is gone\nin detail")

    monkeypatch.setitem(BACKENDS, "tensorboard", lambda run, step: (log, lambda: None))
    found = Tracker(run_with(tmp_path, "tensorboard"), -1)
    for step in (1, 2):
        found({"step": step, "train_loss": 1.0})
    found.close()
    assert calls == [1]
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("runtime.tracker=tensorboard ")
    assert "the server is gone" in line


def test_a_missing_package_is_said_before_anything_runs(monkeypatch: pytest.MonkeyPatch,
                                                        tmp_path: Path) -> None:
    from pipeline.checks import preflight

    monkeypatch.setattr(preflight, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"runtime\.tracker=trackio.*pip install trackio"):
        preflight.check_tracker(run_with(tmp_path, "trackio").config.runtime.tracker)
