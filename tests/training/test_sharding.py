"""Weights and optimizer state cut up among two processes: same training, same checkpoint."""

from pathlib import Path

import pytest
import torch

from reprogpt.errors import ConfigError
from reprogpt.launch.run_dir import RunDir
from reprogpt.training import checkpoint
from tests.tiny_runs import config, losses, make_run, train


@pytest.fixture(scope="module")
def ddp(tmp_path_factory: pytest.TempPathFactory, tokens: Path) -> RunDir:
    run = make_run(tmp_path_factory.mktemp("ddp"), tokens)
    train(run, 2)
    return run


@pytest.mark.slow
@pytest.mark.parametrize("sharding", [{"parallel": "fsdp"}, {"shard_optimizer": True}])
def test_a_sharded_training_is_ddps(tmp_path: Path, tokens: Path, ddp: RunDir,
                                    sharding: dict[str, object]) -> None:
    run = make_run(tmp_path, tokens, runtime=sharding)
    train(run, 2)
    assert losses(run) == pytest.approx(losses(ddp), abs=1e-5)
    ours, theirs = checkpoint.latest(run.path), checkpoint.latest(ddp.path)
    assert ours is not None
    assert theirs is not None
    assert ours["model"].keys() == theirs["model"].keys()
    for name, value in theirs["model"].items():
        torch.testing.assert_close(ours["model"][name], value, atol=1e-4, rtol=1e-3)
    moments, expected = ours["optimizer"]["state"], theirs["optimizer"]["state"]
    assert moments.keys() == expected.keys()
    for i, of_parameter in expected.items():
        for name, value in of_parameter.items():
            torch.testing.assert_close(moments[i][name], value, atol=1e-4, rtol=1e-2)


@pytest.mark.slow
def test_uneven_shares_take_equally_many_passes(tmp_path: Path, tokens: Path) -> None:
    """Two rows and three, one at a time: a process that stops early leaves the other waiting."""
    runs = []
    for parallel in ("ddp", "fsdp"):
        runs.append(make_run(tmp_path / parallel, tokens, train={"batch_tokens": 5 * 16},
                             runtime={"parallel": parallel, "micro_batch": 1}))
        train(runs[-1], 2)
    assert losses(runs[1]) == pytest.approx(losses(runs[0]), abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [("ddp", "fsdp"), ("fsdp", "ddp")])
def test_a_run_goes_on_under_the_other_way(tmp_path: Path, tokens: Path, ddp: RunDir,
                                           before: str, after: str) -> None:
    run = make_run(tmp_path, tokens, runtime={"parallel": before, "keep_checkpoints": 20})
    train(run, 2)
    for step in (12, 16, 20):
        (run.path / f"step_{step:06d}.pt").unlink()
    run = make_run(tmp_path, tokens, runtime={"parallel": after, "keep_checkpoints": 20})
    train(run, 2)
    assert losses(run) == pytest.approx(losses(ddp), abs=1e-5)


def test_muon_shares_its_work_already() -> None:
    for sharding in ({"parallel": "fsdp"}, {"shard_optimizer": True}):
        with pytest.raises(ConfigError, match=r"train\.optimizer=muon .*; set it to adamw"):
            config(train={"optimizer": "muon"}, runtime=sharding)


def test_a_moment_of_another_shape_is_refused_with_the_file(tmp_path: Path) -> None:
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    state = {"step": 4, "model": model.state_dict(), "optimizer": optimizer.state_dict(),
             "scaler": {}}
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    checkpoint.load_into(model, optimizer, scaler, state, tmp_path)
    state["optimizer"]["state"][0]["exp_avg"] = torch.zeros(2, 4)
    with pytest.raises(ValueError, match=r"step_000004.pt: .*exp_avg of parameter 0 is \(2, 4\), "
                       r"not \(2, 3\).*remove it"):
        checkpoint.load_into(model, optimizer, scaler, state, tmp_path)
