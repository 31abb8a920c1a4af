"""The measured speed is tokens over time."""

import itertools

import pytest

from reprogpt.planning import measured_speed as module
from tests.tiny_runs import config


def test_tokens_of_a_micro_batch_over_the_time_of_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    steps, ticks = [], itertools.count()
    real = module.train_step

    def counted(*arguments: object) -> object:
        steps.append(arguments[3])
        return real(*arguments)

    monkeypatch.setattr(module, "train_step", counted)
    monkeypatch.setattr(module.time, "perf_counter", lambda: next(ticks) * 0.5)
    assert module.measured_speed(config(), 29, rounds=3) == 5 * 16 / 0.5
    assert len(steps) == 5
    assert all(batch.idx.shape == (5, 16) and batch.idx.max() < 29 for batch in steps)
