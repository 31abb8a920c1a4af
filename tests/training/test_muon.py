"""Muon against torch's own, AdamW beside it, its state, and its work shared among processes."""

import copy
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from reprogpt.config import Config, ModelConfig, TrainConfig, merge, read_yaml
from reprogpt.model.registry import build_model
from reprogpt.training.muon import Muon, orthogonalize
from reprogpt.training.optimizer import build_optimizer, set_lr


def recipe(**changes: object) -> TrainConfig:
    base = read_yaml("presets/shakespeare.yaml")
    return Config.parse(merge(base, {"train": {"optimizer": "muon"} | changes})).train


def tiny() -> nn.Module:
    cfg = ModelConfig(architecture="gpt", n_layer=2, n_head=2, n_embd=16, block_size=8,
                      dropout=0.0, bias=True, init_from=None, tied_head=False)
    model = build_model(cfg, 40)
    model.init_weights(torch.Generator().manual_seed(0))
    return model


def fill_gradients(parameters: list[nn.Parameter], step: int) -> None:
    generator = torch.Generator().manual_seed(step)
    for p in parameters:
        p.grad = torch.randn(p.shape, generator=generator)


def test_torchs_muon_up_to_bfloat16s_rounding() -> None:
    generator = torch.Generator().manual_seed(0)
    ours = [nn.Parameter(torch.randn(s, generator=generator)) for s in ((8, 24), (24, 8), (8, 8))]
    theirs = copy.deepcopy(ours)
    a = Muon([{"params": ours, "muon": True}], lr=0.02, weight_decay=0.1, dtype=torch.bfloat16)
    b = torch.optim.Muon(theirs, lr=0.02, weight_decay=0.1, momentum=0.95)
    for step in range(3):
        fill_gradients(ours, step)
        fill_gradients(theirs, step)
        a.step()
        b.step()
    for x, y in zip(ours, theirs):
        # one unit of bfloat16's rounding in the iteration, times the rate
        torch.testing.assert_close(x, y, atol=0.02 * 3 * 2**-6, rtol=0)


@pytest.mark.parametrize("shape", [(2, 16, 16), (2, 16, 20), (2, 16, 64), (2, 64, 16)])
@pytest.mark.parametrize("spread", [0, 3])
def test_each_singular_value_goes_through_the_quintic(shape: tuple[int, ...], spread: float
                                                      ) -> None:
    """By the definition, in float64: U p(p(p(p(p(S / |S|))))) V^T.

    To an eighth of bfloat16's rounding: squares of small singular values lose digits.
    """
    u, s, v = torch.linalg.svd(torch.randn(shape, dtype=torch.float64), full_matrices=False)
    s = s * torch.logspace(0, -spread, s.size(-1), dtype=torch.float64)
    x = (u * s[:, None]) @ v
    s = s / s.norm(dim=-1, keepdim=True)
    for _ in range(5):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    torch.testing.assert_close(orthogonalize(x.float(), torch.float32).double(),
                               (u * s[:, None]) @ v, atol=5e-4, rtol=0)


def test_a_loaded_state_lies_where_the_parameters_do() -> None:
    """AdamW's counters too: a checkpoint is read on the CPU, and a fused step wants them beside
    the moments. The device is meta, which is anywhere but there."""
    def optimizer(device: str) -> Muon:
        vector, matrix = (nn.Parameter(torch.ones(shape, device=device)) for shape in (4, (4, 4)))
        return Muon([{"params": [vector]}, {"params": [matrix], "muon": True}], lr=0.1)

    saved, loaded = optimizer("cpu"), optimizer("meta")
    fill_gradients([p for group in saved.param_groups for p in group["params"]], 1)
    saved.step()
    loaded.load_state_dict(saved.state_dict())
    tensors = [value for state in loaded.state.values() for value in state.values()]
    assert len(tensors) == 4
    assert all(value.is_meta for value in tensors)


def test_q_k_and_v_are_three_matrices_to_torchs_muon() -> None:
    whole = nn.Parameter(torch.randn(24, 8))
    parts = [nn.Parameter(p.clone()) for p in whole.detach().chunk(3)]
    a = Muon([{"params": [whole], "muon": True, "pieces": 3}], lr=0.02, match_adamw=True,
             dtype=torch.bfloat16)
    b = torch.optim.Muon(parts, lr=0.02, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
    fill_gradients([whole], 1)
    assert whole.grad is not None
    for p, grad in zip(parts, whole.grad.chunk(3)):
        p.grad = grad.clone()
    a.step()
    b.step()
    torch.testing.assert_close(whole, torch.cat(list(parts)), atol=0.02 * 2**-6, rtol=0)


def test_orthogonal_up_to_the_iterations_slack() -> None:
    x = torch.randn(2, 30, 20, generator=torch.Generator().manual_seed(0))
    singular = torch.linalg.svdvals(orthogonalize(x, torch.float32))
    assert singular.min() > 0.6 and singular.max() < 1.3
    u, _, v = torch.linalg.svd(x, full_matrices=False)
    aligned = (orthogonalize(x, torch.float32) * (u @ v)).sum((1, 2)) / 20
    assert (aligned > 0.8).all()  # it points where U V^T does


def test_the_rest_is_torchs_adamw() -> None:
    model = tiny()
    theirs = copy.deepcopy(model)
    cfg = recipe(lr=1e-2, min_lr=0.0, embed_lr=0.3, head_lr=4e-3, scalar_lr=0.015, muon_lr=0.02,
                 eps=1e-10, beta1=0.8)
    optimizer = build_optimizer(model, cfg)
    rates = {"wte.weight": 0.3, "wpe.weight": 0.3, "lm_head.weight": 4e-3}
    groups = [{"params": [p], "lr": rates.get(name, 0.015)} for name, p in theirs.named_parameters()
              if p.dim() < 2 or name in rates]
    oracle = torch.optim.AdamW(groups, betas=(0.8, 0.95), eps=1e-10, weight_decay=0.0)
    for step in range(3):
        fill_gradients(list(model.parameters()), step)
        fill_gradients(list(theirs.parameters()), step)
        set_lr(optimizer, cfg.lr)
        optimizer.step()
        oracle.step()
    wanted = dict(theirs.named_parameters())
    for name, p in model.named_parameters():
        if p.dim() < 2 or name in rates:
            torch.testing.assert_close(p, wanted[name], atol=1e-6, rtol=1e-5)
        else:
            assert not torch.equal(p, wanted[name])


def test_its_state_survives_a_checkpoint_exactly(tmp_path: Path) -> None:
    def run(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
        for step in steps:
            fill_gradients(list(model.parameters()), step)
            set_lr(optimizer, 1e-2 / (step + 1))
            optimizer.step()

    straight, broken = tiny(), tiny()
    run(straight, build_optimizer(straight, recipe()), range(4))
    first = build_optimizer(broken, recipe())
    run(broken, first, range(2))
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second = build_optimizer(broken, recipe())
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    run(broken, second, range(2, 4))
    for x, y in zip(straight.parameters(), broken.parameters()):
        assert torch.equal(x, y)


def _process(rank: int, folder: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/group", rank=rank, world_size=2)
    torch.save(_two_steps(), folder / f"{rank}.pt")
    dist.destroy_process_group()


def _two_steps() -> list[Tensor]:
    torch.set_num_threads(1)
    model = tiny()
    optimizer = build_optimizer(model, recipe())
    for step in range(2):
        fill_gradients(list(model.parameters()), step)
        optimizer.step()
    return [p.detach() for p in model.parameters()]


@pytest.mark.slow
def test_two_processes_share_the_work_and_get_what_one_gets(tmp_path: Path) -> None:
    mp.spawn(_process, (tmp_path,), nprocs=2)
    alone = _two_steps()
    for rank in (0, 1):
        for x, y in zip(alone, torch.load(tmp_path / f"{rank}.pt")):
            assert torch.equal(x, y)


def test_each_process_gets_its_share() -> None:
    matrices = [torch.empty(n, 64, 64) for n in (3, 1, 1, 3, 1, 1, 4, 4)]
    owners = Muon._owners(matrices, 2)
    work = [sum(len(m) for m, owner in zip(matrices, owners) if owner == rank) for rank in (0, 1)]
    assert work == [9, 9]
