"""Training: the same batches in any topology, exact resume, losses that are watched."""

import json
import math
import os
from pathlib import Path

import pytest
import torch

from reprogpt.launch.run_dir import RunDir
from reprogpt.runtime.distributed import Process
from reprogpt.tokens import shards
from reprogpt.training import checkpoint
from reprogpt.training.loss_monitor import NotFinite
from reprogpt.training.trainer import Trainer
from tests.conftest import ROOT
from tests.tiny_runs import (
    losses,
    make_run,
    read_csv,
    train,
    weights,
    without_times,
    write_tokens,
)

GOLDEN = ROOT / "tests/golden" / "tiny_run.json"


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory, tokens: Path) -> RunDir:
    """The tiny run, dropout on, one process, uninterrupted."""
    run = make_run(tmp_path_factory.mktemp("straight"), tokens)
    train(run)
    return run


def test_it_learns_and_says_so(straight: RunDir) -> None:
    rows = read_csv(straight)
    assert [row["step"] for row in rows] == list(range(21))
    assert losses(straight)[0] == pytest.approx(math.log(29), abs=0.15)
    assert losses(straight)[-1] < 2.9
    assert [r["step"] for r in rows if not math.isnan(r["val_loss"])] == [0, 10, 20]
    summary = json.loads(Path(straight.paths.json).read_text())
    assert summary["steps"] == 20
    assert summary["tokens"] == 20 * 192
    assert summary["val_loss"] == pytest.approx(rows[-1]["val_loss"])
    assert summary["fingerprint"] == straight.fingerprint
    assert summary["mfu"] is None


def test_golden_loss_curve(straight: RunDir) -> None:
    """Changed on purpose? Say so in the commit, and run this with UPDATE_GOLDEN=1."""
    curve = losses(straight)
    if os.environ.get("UPDATE_GOLDEN"):
        GOLDEN.parent.mkdir(exist_ok=True)
        GOLDEN.write_text(json.dumps([round(x, 6) for x in curve]) + "\n")
    golden = json.loads(GOLDEN.read_text())
    assert curve == pytest.approx(golden, rel=2e-4), (
        "the tiny run's losses are not those of tests/golden/tiny_run.json; if that is meant: "
        "UPDATE_GOLDEN=1 python -m pytest tests/training/test_trainer.py")


@pytest.mark.slow
@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_any_number_of_processes_trains_alike(tmp_path: Path, tokens: Path, straight: RunDir,
                                              dropout: float) -> None:
    reference = None
    for world in (1, 2, 3, 4):
        run = make_run(tmp_path / str(world), tokens, model={"dropout": dropout})
        train(run, world)
        curve = losses(run)
        reference = reference or curve
        assert curve == pytest.approx(reference, abs=1e-5)
        replicas = [torch.load(run.path / f"rank_{rank}.pt") for rank in range(world)]
        for replica in replicas[1:]:
            assert all(torch.equal(replica[k], v) for k, v in replicas[0].items())


@pytest.mark.slow
@pytest.mark.timeout(900)  # a C++ compiler at work, on a machine that may be busy
def test_compiled_processes_train_alike(tmp_path: Path, tokens: Path) -> None:
    changes = {"train": {"batch_tokens": 13 * 16, "max_steps": 5, "warmup_steps": 2},
               "model": {"n_layer": 1}}
    alone = make_run(tmp_path / "alone", tokens, **changes)
    train(alone)  # 13 rows; the two have parts of 4 and 3, and of 3 and 3
    two = make_run(tmp_path / "two", tokens, runtime={"micro_batch": 4, "compile": True}, **changes)
    train(two, 2)
    assert losses(two) == pytest.approx(losses(alone), abs=1e-5)


@pytest.mark.parametrize("micro_batch", [1, 12])
def test_any_micro_batch_trains_alike(tmp_path: Path, tokens: Path, straight: RunDir,
                                      micro_batch: int) -> None:
    run = make_run(tmp_path, tokens, runtime={"micro_batch": micro_batch})
    train(run)
    assert losses(run) == pytest.approx(losses(straight), abs=1e-5)


@pytest.mark.slow
def test_uneven_masks_are_averaged_over_the_whole_batch(tmp_path: Path) -> None:
    masked = write_tokens(tmp_path / "tokens", masked=True)
    whole = make_run(tmp_path / "one", masked, runtime={"micro_batch": 12})
    shared = make_run(tmp_path / "three", masked, runtime={"micro_batch": 1})
    train(whole)
    train(shared, 3)
    assert losses(shared) == pytest.approx(losses(whole), abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("world", [1, 2])
def test_resume_is_exact(tmp_path: Path, tokens: Path, straight: RunDir, world: int) -> None:
    """A run that ended at step 13 and lost its last checkpoints ends with the same bytes."""
    uninterrupted = make_run(tmp_path / "straight", tokens)
    train(uninterrupted, world)
    run = make_run(tmp_path / "resumed", tokens, runtime={"keep_checkpoints": 20})
    train(run, world)
    for step in (12, 16, 20):
        (run.path / f"step_{step:06d}.pt").unlink()
    Path(run.paths.csv).unlink()
    train(run, world)
    assert weights(run) == weights(uninterrupted)
    assert without_times(read_csv(run)) == without_times(read_csv(uninterrupted))


@pytest.mark.slow
def test_another_topology_may_resume(tmp_path: Path, tokens: Path, straight: RunDir) -> None:
    run = make_run(tmp_path, tokens, runtime={"keep_checkpoints": 20})
    train(run, 3)
    for step in (12, 16, 20):
        (run.path / f"step_{step:06d}.pt").unlink()
    train(run, 2)
    assert losses(run) == pytest.approx(losses(straight), abs=1e-5)


def test_a_second_training_gives_the_same_bytes(tmp_path: Path, tokens: Path,
                                                straight: RunDir) -> None:
    run = make_run(tmp_path, tokens)
    train(run)
    assert weights(run) == weights(straight)


def test_a_finished_run_has_nothing_left_to_do(tmp_path: Path, tokens: Path) -> None:
    run = make_run(tmp_path, tokens)
    train(run)
    before, csv = weights(run), Path(run.paths.csv).read_text()
    train(run)
    assert weights(run) == before
    assert Path(run.paths.csv).read_text() == csv


def test_best_keeps_the_best(tmp_path: Path, tokens: Path) -> None:
    """With a rate that ruins the model in the end, the best is an earlier one."""
    train_params = {"keep": "best", "max_steps": 12, "eval_interval": 3, "warmup_steps": 11,
                    "lr": 3.0, "min_lr": 3.0, "schedule": "constant", "grad_clip": 0.0}
    run = make_run(tmp_path, tokens, train=train_params)
    train(run)
    rows = [(r["val_loss"], int(r["step"])) for r in read_csv(run)
            if not math.isnan(r["val_loss"])]
    best_loss, best_step = min(rows)
    assert best_step < 12
    assert json.loads(Path(run.paths.json).read_text())["val_loss"] == pytest.approx(best_loss)
    best = checkpoint.load(run.path / f"best_{best_step:06d}.pt")["model"]["h.0.mlp.c_fc.bias"]
    from safetensors.numpy import load_file

    saved = load_file(Path(run.paths.model) / "model.safetensors")
    assert (saved["transformer.h.0.mlp.c_fc.bias"] == best.numpy()).all()


def test_a_loss_that_is_no_number_stops_the_run(tmp_path: Path, tokens: Path) -> None:
    run = make_run(tmp_path, tokens, train={"lr": 1e30, "warmup_steps": 0, "grad_clip": 0.0})
    with pytest.raises(NotFinite, match=r"step [1-4]: the (loss|gradient) is not finite; its "
                                        r"batch is train_00000\d.bin:\d+, .* no good checkpoint"):
        train(run)
    assert not Path(run.paths.model).exists()


def test_a_last_step_that_spoils_the_model_is_no_finished_run(tmp_path: Path, tokens: Path
                                                              ) -> None:
    """Its own loss is that of the weights before it."""
    run = make_run(tmp_path, tokens, train={"lr": 1e30, "warmup_steps": 0, "max_steps": 1})
    with pytest.raises(NotFinite, match="validation loss after step 1 is not finite; .*train.lr"):
        train(run)
    assert not Path(run.paths.model).exists()
    assert not Path(run.paths.json).exists()


def test_a_loss_that_leaves_its_trend_stops_the_run(tmp_path: Path, tokens: Path) -> None:
    run = make_run(tmp_path, tokens, train={
        "max_loss_spike": 1.2, "max_steps": 60, "lr": 8.0, "min_lr": 8.0, "warmup_steps": 50,
        "grad_clip": 0.0, "schedule": "constant"})
    with pytest.raises(NotFinite, match=r"over train.max_loss_spike=1.2 times its running mean"):
        train(run)


def test_float16_scales_its_gradients(tmp_path: Path, tokens: Path, straight: RunDir) -> None:
    run = make_run(tmp_path, tokens, train={"precision": "float16"})
    train(run)
    assert losses(run)[-1] == pytest.approx(losses(straight)[-1], abs=0.2)
    state = checkpoint.latest(run.path)
    assert state is not None
    assert state["scaler"]["scale"] > 0


def test_more_processes_than_rows_is_refused(tmp_path: Path, tokens: Path) -> None:
    run = make_run(tmp_path, tokens, train={"batch_tokens": 16})
    with pytest.raises(ValueError, match=r"runtime.nproc=2 is more than the 1 rows of a batch"):
        train(run, 2)


def test_auto_keeps_its_meaning(tmp_path: Path, tokens: Path, straight: RunDir) -> None:
    state = checkpoint.latest(straight.path)
    assert state is not None
    assert state["resolved"] == {"precision": "float32", "micro_batch": 5, "compile": False}
    assert state["numerics"]["processes"] == "1"
    assert state["numerics"]["torch"] == torch.__version__


def test_bfloat16_trains_much_alike(tmp_path: Path, tokens: Path, straight: RunDir) -> None:
    run = make_run(tmp_path, tokens, train={"precision": "bfloat16"})
    train(run)
    assert losses(run)[-1] == pytest.approx(losses(straight)[-1], abs=0.2)
    assert losses(run) != losses(straight)


def test_tf32_needs_cuda(tmp_path: Path, tokens: Path) -> None:
    run = make_run(tmp_path, tokens, train={"precision": "tf32"})
    with pytest.raises(ValueError, match=r"train.precision=tf32 needs a CUDA device, not cpu"):
        train(run)


def test_a_resume_under_other_numerics_says_so(tmp_path: Path, tokens: Path,
                                                capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path, tokens)
    train(run)
    state = checkpoint.latest(run.path)
    assert state is not None
    state["numerics"] |= {"threads": "96", "torch": "1.0"}
    checkpoint.save(run.path, "step_000020", state)
    Trainer(run, Process(0, 1, torch.device("cpu")))
    said = capsys.readouterr().err
    assert "no longer bit-identical" in said
    other = make_run(tmp_path, tokens, runtime={"micro_batch": 3})
    Trainer(other, Process(0, 1, torch.device("cpu")))
    assert "micro_batch 5 -> 3" in capsys.readouterr().err
    assert "threads 96 -> " in said
    assert "torch 1.0 -> " in said


def test_no_checkpoint_of_damaged_data_is_ever_saved(tmp_path: Path,
                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    """The bad block is not among those that the opening reads."""
    monkeypatch.setattr(shards, "BLOCK", 256)
    monkeypatch.setattr(shards, "_sampled", lambda blocks: [0])
    run = make_run(tmp_path, write_tokens(tmp_path / "tokens"))
    damaged = tmp_path / "tokens/train_000002.bin"
    content = bytearray(damaged.read_bytes())
    content[-1500] ^= 1  # id & 1: still in the vocabulary, mostly
    damaged.write_bytes(content)
    trainer = Trainer(run, Process(0, 1, torch.device("cpu")))
    with pytest.raises(ValueError, match=r"train_000002\.bin: its bytes \d+ to \d+ differ"):
        trainer.run()
    assert checkpoint.steps(run.path) == []
    assert not Path(run.paths.model).exists()


def test_a_checkpoint_of_another_model_is_refused_in_a_line(tmp_path: Path, tokens: Path) -> None:
    small, run = make_run(tmp_path / "a", tokens), make_run(tmp_path / "b", tokens,
                                                            model={"n_embd": 16})
    trainer = Trainer(small, Process(0, 1, torch.device("cpu")))
    trainer._save()
    for file in small.path.glob("step_*"):
        (run.path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(ValueError, match=r"step_000000\.pt: is no checkpoint of this run") as told:
        Trainer(run, Process(0, 1, torch.device("cpu")))
    assert "\n" not in str(told.value)
