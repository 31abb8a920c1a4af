"""The micro-batch that fits, and passes before the first step that change nothing."""

from pathlib import Path

import pytest
import torch

from reprogpt.runtime.distributed import Process
from reprogpt.training import micro_batch
from reprogpt.training.batch_schedule import BatchSizes
from reprogpt.training.loader import Batch
from reprogpt.training.micro_batch import extreme_micro_batches, warm_up
from reprogpt.training.trainer import Trainer
from reprogpt.training.wrap import WrappedModel
from tests.tiny_runs import make_run, write_tokens


@pytest.fixture
def trainer(tmp_path: Path) -> Trainer:
    run = make_run(tmp_path, write_tokens(tmp_path / "tokens"), runtime={"micro_batch": 12})
    return Trainer(run, Process(0, 1, torch.device("cpu")))


def test_the_micro_batch_is_halved_until_it_fits(trainer: Trainer,
                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU that holds two rows, played by the CPU."""
    wrapped, optimizer, loader = trainer.wrapped, trainer.optimizer, trainer.loader
    wrapped.process = Process(0, 1, torch.device("cuda"))
    rows, reserves = [], []

    def trial_pass(wrapped: WrappedModel, part: Batch, reserve: int = 0) -> None:
        rows.append(len(part.rows))
        reserves.append(reserve)
        if wrapped.micro_batch > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(micro_batch, "trial_pass", trial_pass)
    warm_up(wrapped, loader, optimizer)
    assert wrapped.resolved["micro_batch"] == 1  # 12 -> 6 -> 3 -> 1
    assert rows == [12, 6, 3, 1]
    # not yet there in a first pass: accumulated gradients and AdamW's two moments, in float32
    assert set(reserves) == {12 * sum(p.numel() for p in wrapped.model.parameters())}
    monkeypatch.setattr(micro_batch, "trial_pass", lambda *_: (_ for _ in ()).throw(
        torch.OutOfMemoryError("CUDA out of memory")))
    with pytest.raises(ValueError, match="out of memory with one row at a time"):
        warm_up(wrapped, loader, optimizer)


def test_the_extreme_micro_batches(trainer: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    wrapped, loader = trainer.wrapped, trainer.loader
    wrapped.resolved["micro_batch"] = 5
    assert [len(part.rows) for part in extreme_micro_batches(wrapped, loader)] == [4, 4]
    wrapped.resolved["micro_batch"] = 11
    monkeypatch.setattr(loader, "sizes", BatchSizes(23))
    assert [len(part.rows) for part in extreme_micro_batches(wrapped, loader)] == [8, 7]
    wrapped.growing = True
    assert [len(part.rows) for part in extreme_micro_batches(wrapped, loader)] == [11, 7]


def test_a_warm_up_changes_no_weight_and_leaves_no_gradient(trainer: Trainer) -> None:
    before = {name: p.clone() for name, p in trainer.model.named_parameters()}
    micro_batch.trial_pass(trainer.wrapped, trainer.loader.batch(0))
    warm_up(trainer.wrapped, trainer.loader, trainer.optimizer)
    for name, p in trainer.model.named_parameters():
        assert torch.equal(p, before[name])
        assert p.grad is None
