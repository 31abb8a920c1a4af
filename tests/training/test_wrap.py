"""Compiled or not, with logits in chunks or whole, alone or in a group: one loss."""

import pytest
import torch

from reprogpt.model.kernels import choose
from reprogpt.runtime.distributed import Process
from tests.training.test_train_step import batch, config, three_steps, wrap


def test_logits_in_chunks_of_any_size_change_nothing_but_rounding(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = three_steps(config(), 5)
    monkeypatch.setitem(choose.LOGIT_BYTES, "cpu", 3 * 128 * 4)
    assert three_steps(config(), 5) == pytest.approx(whole, rel=1e-5)


@pytest.mark.slow
@pytest.mark.timeout(900)  # a C++ compiler at work, on a machine that may be busy
def test_a_compiled_step_is_an_eager_one() -> None:
    cfg = config(model={"dropout": 0.1, "n_layer": 1})
    assert three_steps(cfg, 5, compiled=True) == pytest.approx(three_steps(cfg, 5), rel=1e-4)


def test_the_loss_is_a_sum_in_which_dropout_has_a_mask_a_step() -> None:
    plain, dropping = wrap(config(), 5), wrap(config(model={"dropout": 0.5}), 5)
    first, again, other = (dropping(batch(), step).item() for step in (1, 1, 2))
    assert first == again != other
    assert float(plain(batch(), 1)) == float(plain(batch(), 2))
    halves = [float(plain(part, 1)) for part in batch().micro_batches(3)]
    assert sum(halves) == pytest.approx(float(plain(batch(), 1)), rel=1e-6)


def test_who_evaluates() -> None:
    wrapped = wrap(config(), 5)
    wrapped.process = Process(1, 2, torch.device("cpu"))
    assert wrapped.evaluators is wrapped.process
    wrapped.fsdp = True
    assert (wrapped.evaluators.rank, wrapped.evaluators.world_size) == (0, 1)


def test_gradients_are_exchanged_in_the_last_micro_batch_alone() -> None:
    class Recorder:
        def no_sync(self) -> str:
            return "no sync"

    wrapped = wrap(config(), 5)
    wrapped.process, wrapped._module = Process(0, 2, torch.device("cpu")), Recorder()
    assert wrapped.sync_gradients(last=False) == "no sync"
    assert wrapped.sync_gradients(last=True) != "no sync"
