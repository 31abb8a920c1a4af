"""A batch that grows: against a count by hand, and the promises of the loader all the same."""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from reprogpt.config import BatchRampConfig
from reprogpt.tokens.shards import TokenStream
from reprogpt.training.batch_schedule import BatchSizes, batch_sizes
from reprogpt.training.loader import Loader
from tests.tiny_runs import config, make_run, read_csv, train, weights, without_times
from tests.training.test_loader import starts_of

RAMP = {"start_tokens": 3 * 16, "tokens": 60 * 16}
BY_HAND = [3, 3, 3, 4, 4, 5, 6, 7, 8, 9, 10, 12, 12]
"""3 + floor(9 seen / 60), seen = 0, 3, 6, 9, 13, 17, 22, 28, 35, 43, 52, and 62: whole."""


def test_by_hand() -> None:
    sizes = BatchSizes(12, 3, 60, steps=20)
    assert [sizes.rows(step) for step in range(13)] == BY_HAND
    assert [sizes.before(step) for step in range(14)] == np.cumsum([0, *BY_HAND]).tolist()
    assert sizes.settled == 11


def test_without_a_ramp_all_are_alike() -> None:
    sizes = BatchSizes(12)
    assert [sizes.rows(step) for step in (0, 1, 10**6)] == [12, 12, 12]
    assert sizes.before(10**9) == 12 * 10**9


def test_gpt3s_ramp() -> None:
    """32k to 0.5M tokens over 4 billion: a batch in proportion to the tokens seen grows as
    exp(t), so it takes 4e9 / (2^19 - 2^15) * ln(2^19 / 2^15) steps."""
    cfg = config(model={"block_size": 2048}, train={
        "batch_tokens": 2**19, "max_steps": 100_000, "val_tokens": 2048,
        "batch_ramp": {"start_tokens": 2**15, "tokens": 4_000_000_000}})
    sizes = batch_sizes(cfg.train, 2048)
    assert sizes.rows(0) * 2048 == 2**15
    assert sizes.rows(sizes.settled) * 2048 == 2**19
    assert sizes.before(sizes.settled) * 2048 == pytest.approx(4e9, rel=1e-3)
    assert sizes.settled == pytest.approx(4e9 / (2**19 - 2**15) * np.log(16), rel=0.03)
    assert all(0 <= sizes.rows(s + 1) - sizes.rows(s) <= 1 for s in range(sizes.settled - 1))


@pytest.mark.parametrize("world", [1, 2, 3])
def test_every_window_exactly_once_in_the_same_order(tokens: Path, world: int) -> None:
    stream = TokenStream(tokens, "train")
    plain, growing = Loader(stream, 12 * 16, 16, seed=7), Loader(
        stream, BatchSizes(12, 3, 60, steps=100), 16, seed=7)
    epochs = np.concatenate([starts_of(plain, step) for step in range(80)])
    starts = np.concatenate([starts_of(growing, step) for step in range(80)])
    assert starts.tolist() == epochs[:len(starts)].tolist()
    windows = growing.corpora[""].per_epoch
    assert len(starts) > 2 * windows
    assert growing.counts(80)["epochs"] == pytest.approx(len(starts) / windows, abs=1e-4)
    assert growing.tokens(80) == 16 * len(starts)
    for step in (0, 5, 11, 40):
        parts = [growing.batch(step, rank, world) for rank in range(world)]
        rows = [int(row) for part in parts for row in part.rows]
        assert rows == list(range(growing.sizes.rows(step)))
        assert {part.valid for part in parts} == {16 * len(rows)}
        assert len({len(list(part.micro_batches(2))) for part in parts}) == 1


def test_a_run_counts_its_tokens(tmp_path: Path, tokens: Path) -> None:
    run = make_run(tmp_path, tokens, train={"batch_ramp": RAMP})
    train(run)
    rows = read_csv(run)
    seen = np.cumsum([0, *BY_HAND, *[12] * 7]) * 16
    assert [row["tokens"] for row in rows] == seen.tolist()
    for before, row in pairwise(rows):
        if row["step"] not in (1, 11):  # validation stands between these and the row before
            elapsed = row["seconds"] - before["seconds"]
            new = row["tokens"] - before["tokens"]
            assert row["tokens_per_second"] == pytest.approx(new / elapsed, rel=1e-2)
    summary = json.loads(Path(run.paths.json).read_text())
    windows = (6000 - 16) // 16
    assert summary["tokens"] == seen[-1]
    assert summary["unused_tokens"] == 6000 - 16 * windows
    assert summary["epochs"] == pytest.approx(seen[-1] / 16 / windows, abs=1e-4)


@pytest.mark.slow
def test_processes_and_resumes_agree(tmp_path: Path, tokens: Path) -> None:
    runs = []
    for world in (1, 2, 3):
        runs.append(make_run(tmp_path / str(world), tokens, train={"batch_ramp": RAMP},
                             runtime={"keep_checkpoints": 20, "micro_batch": 2}))
        train(runs[-1], world)
    curves = [[row["train_loss"] for row in read_csv(run)][1:] for run in runs]
    assert curves[1] == pytest.approx(curves[0], abs=1e-5)
    assert curves[2] == pytest.approx(curves[0], abs=1e-5)
    before, rows = weights(runs[0]), without_times(read_csv(runs[0]))
    for step in range(8, 21, 4):  # killed in the middle of the ramp
        (runs[0].path / f"step_{step:06d}.pt").unlink()
    train(runs[0])
    assert weights(runs[0]) == before
    assert without_times(read_csv(runs[0])) == rows


def test_more_processes_than_first_rows_is_refused(tmp_path: Path, tokens: Path) -> None:
    ramp = {"start_tokens": 16, "tokens": 9600}
    run = make_run(tmp_path, tokens, train={"batch_ramp": ramp})
    said = (r"runtime.nproc=2 is more than the 1 rows of the first batch; lower it or raise "
            r"train.batch_ramp.start_tokens")
    with pytest.raises(ValueError, match=said):
        train(run, 2)


def test_it_is_a_switch() -> None:
    plain, off = config(), config(train={"batch_ramp": None})
    assert plain.fingerprint([]) == off.fingerprint([])
    on = config(train={"batch_ramp": RAMP})
    assert on.train.batch_ramp == BatchRampConfig(start_tokens=48, tokens=960)
    assert on.fingerprint([]) != plain.fingerprint([])
