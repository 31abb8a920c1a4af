"""What stops a run, and what a stop says."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from reprogpt.runtime.distributed import Process
from reprogpt.tokens.shards import TokenStream
from reprogpt.training.loader import Loader
from reprogpt.training.loss_monitor import LossMonitor, NotFinite
from tests.tiny_runs import config, write_tokens


def monitor(folder: Path, scaled: bool = False, recent: tuple[float, ...] = (),
            **train: Any) -> LossMonitor:
    loader = Loader(TokenStream(write_tokens(folder / "tokens"), "train"), 2 * 16, 16, seed=7)
    process = Process(0, 1, torch.device("cpu"))
    return LossMonitor(loader, folder, process, config(train=train).train, scaled, recent)


def test_a_flush_returns_the_last_step_and_keeps_all_losses(tmp_path: Path) -> None:
    watch = monitor(tmp_path)
    assert all(map(math.isnan, watch.flush(0)))
    assert math.isnan(watch.mean(3))
    for loss in (4.0, 3.0, 2.0):
        watch.add(torch.tensor([loss, loss / 2]))
    assert watch.flush(3) == (2.0, 1.0)
    assert list(watch.recent) == [4.0, 3.0, 2.0]
    assert watch.mean(2) == 2.5


@pytest.mark.parametrize(("values", "what", "good"), [
    ((math.nan, 1.0), "loss", 3),  # of the weights after step 5, which are not good then
    ((math.inf, 1.0), "loss", 3), ((1.0, math.nan), "gradient", 4)])
def test_the_step_that_is_not_finite_is_named(tmp_path: Path, values: tuple[float, float],
                                              what: str, good: int) -> None:
    watch = monitor(tmp_path)
    for step in (2, 3, 4, 5):
        (tmp_path / f"step_{step:06d}.pt").touch()
    watch.add(torch.tensor([1.0, 1.0]))
    watch.add(torch.tensor(values))
    watch.add(torch.tensor([math.nan, math.nan]))
    place = watch.loader.describe(5).split(":")[0]
    with pytest.raises(NotFinite, match=rf"step 6: the {what} is not finite; its batch is {place}"
                                        rf".*step_00000{good}\.pt: lower train\.lr"):
        watch.flush(7)


def test_weights_that_are_not_finite_are_never_a_good_checkpoint(tmp_path: Path) -> None:
    watch, model = monitor(tmp_path), torch.nn.Linear(3, 2)
    watch.require_finite(5, model)
    (tmp_path / "step_000004.pt").touch()
    with torch.no_grad():
        model.weight[1, 2] = math.inf
    with pytest.raises(NotFinite, match="step 5: the weights .* no good checkpoint"):
        watch.require_finite(5, model)
    (tmp_path / "step_000003.pt").touch()
    with pytest.raises(NotFinite, match=r"last good checkpoint is .*step_000003\.pt"):
        watch.require_finite(5, model)


def test_float16s_scaler_may_meet_a_gradient_that_overflows(tmp_path: Path) -> None:
    watch = monitor(tmp_path, scaled=True)
    watch.add(torch.tensor([1.0, math.inf]))
    assert watch.flush(1) == (1.0, math.inf)


def test_a_spike_is_one_over_the_running_mean(tmp_path: Path) -> None:
    for before, loss, stops in ((20, 4.1, True), (20, 3.9, False), (19, 4.1, False)):
        watch = monitor(tmp_path, recent=(2.0,) * before, max_loss_spike=2.0)
        watch.add(torch.tensor([loss, 1.0]))
        if stops:
            with pytest.raises(NotFinite, match="train.max_loss_spike=2 times its running mean 2"):
                watch.flush(before + 1)
        else:
            watch.flush(before + 1)
