"""What only a CUDA device can show: compiled bfloat16 steps, fused attention, exact repetition.

Skipped without one. `python -m pytest tests/gpu` on a machine that has it takes a few minutes,
most of them compilation.
"""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from reprogpt.config import ModelConfig
from reprogpt.generation.generate import generate
from reprogpt.model.dropout import row_keys
from reprogpt.model.loss import MASKED, nll
from reprogpt.model.registry import build_model
from reprogpt.runtime.device import peak_flops, resolve_precision
from reprogpt.training import checkpoint
from tests.tiny_runs import make_run, read_csv, train, write_tokens

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
VOCAB = 500


def losses(root: Path, tokens: Path, compiled: bool) -> list[float]:
    run = make_run(root, tokens, runtime={"device": "cuda", "compile": compiled})
    train(run)
    return [row["train_loss"] for row in read_csv(run) if row["step"] > 0]


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tokens(tmp_path_factory.mktemp("tokens"))


def model(device: str, dropout: float = 0.0) -> torch.nn.Module:
    cfg = ModelConfig(architecture="gpt", n_layer=2, n_head=2, n_embd=128, block_size=64,
                      dropout=dropout, bias=True, init_from=None)
    built = build_model(cfg, VOCAB)
    built.init_weights(torch.Generator().manual_seed(0))
    return built.to(device)


def test_float32_on_the_gpu_is_float32_on_the_cpu() -> None:
    idx = torch.randint(VOCAB, (2, 64), generator=torch.Generator().manual_seed(1))
    on_cpu, on_gpu = model("cpu"), model("cuda")
    here = on_cpu.logits(on_cpu(idx))
    there = on_gpu.logits(on_gpu(idx.cuda())).cpu()
    torch.testing.assert_close(there, here, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_dropout_drops_on_the_gpu_what_it_drops_on_the_cpu(dtype: torch.dtype) -> None:
    idx = torch.randint(VOCAB, (2, 64), generator=torch.Generator().manual_seed(1))
    dropout_keys = row_keys(1, 2, torch.arange(2))
    on_cpu, on_gpu = model("cpu", 0.2), model("cuda", 0.2)
    here = on_cpu(idx, dropout_keys)
    with torch.autocast("cuda", dtype):
        there = on_gpu(idx.cuda(), dropout_keys.cuda())
    for x in (here, there):
        x.float().square().sum().backward()
    assert F.cosine_similarity(there.cpu().float().flatten(), here.flatten(), 0) > 0.999
    for a, b in zip(on_gpu.parameters(), on_cpu.parameters()):
        if a.grad is not None:
            assert F.cosine_similarity(a.grad.cpu().flatten(), b.grad.flatten(), 0) > 0.98


@pytest.mark.parametrize("backend", ["CUDNN_ATTENTION", "FLASH_ATTENTION", "MATH"])
def test_every_fused_attention_agrees_with_the_cpu(backend: str) -> None:
    from torch.nn.attention import SDPBackend, sdpa_kernel

    if resolve_precision("auto", torch.device("cuda")) != "bfloat16":
        pytest.skip("this device has no bfloat16")
    idx = torch.randint(VOCAB, (2, 64), generator=torch.Generator().manual_seed(1))
    on_cpu, on_gpu = model("cpu"), model("cuda")
    with sdpa_kernel(getattr(SDPBackend, backend)), torch.autocast("cuda", torch.bfloat16):
        loss = nll(on_gpu(idx.cuda()), on_gpu.head_weight, idx.cuda(), VOCAB)
    expected = nll(on_cpu(idx), on_cpu.head_weight, idx, VOCAB)
    assert loss.item() == pytest.approx(expected.item(), rel=2e-3)


@pytest.mark.parametrize("cap", [None, 4.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_loss_in_chunks_is_torchs(dtype: torch.dtype, cap: float | None) -> None:
    generator = torch.Generator("cuda").manual_seed(0)
    options = {"generator": generator, "device": "cuda"}
    hidden = torch.randn(300, 64, **options).requires_grad_()
    weight = torch.randn(50304, 64, **options).requires_grad_()
    targets = torch.randint(50257, (300,), **options)
    targets[7] = MASKED
    with torch.autocast("cuda", dtype, enabled=dtype != torch.float32):
        loss = nll(hidden, weight, targets, 50257, 128, cap)
    (0.5 * loss).backward()
    found = [x.grad.double() for x in (hidden, weight)]
    x, w = (x.detach().to(dtype).double().requires_grad_() for x in (hidden, weight))
    logits = (x @ w[:50257].T).to(dtype).double()
    logits = logits if cap is None else cap * torch.tanh(logits / cap)
    expected = F.cross_entropy(logits, targets, ignore_index=MASKED, reduction="sum")
    (0.5 * expected).backward()
    bound = 1e-5 if dtype == torch.float32 else 1e-2
    assert loss.item() == pytest.approx(expected.item(), rel=bound)
    for a, b in zip(found, (x.grad, w.grad)):
        assert ((a - b).norm() / b.norm()).item() < bound
    assert not found[0][7].any()
    assert not found[1][50257:].any()


def test_compiled_training_is_eager_training(tmp_path: Path, tokens: Path) -> None:
    eager = losses(tmp_path / "eager", tokens, compiled=False)
    compiled = losses(tmp_path / "compiled", tokens, compiled=True)
    assert compiled == pytest.approx(eager, rel=1e-2)


@pytest.mark.parametrize("compiled", [False, True])
def test_a_deterministic_run_repeats_itself_bit_by_bit(tmp_path: Path, tokens: Path,
                                                       compiled: bool) -> None:
    first, second = (losses(tmp_path / name, tokens, compiled)
                     for name in ("first", "second"))
    assert first == second


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_resumed_run_is_a_straight_one(tmp_path: Path, tokens: Path, optimizer: str) -> None:
    changes = {"runtime": {"device": "cuda", "compile": False, "keep_checkpoints": 20},
               "train": {"optimizer": optimizer}}
    straight = make_run(tmp_path / "straight", tokens, **changes)
    train(straight)
    broken = make_run(tmp_path / "broken", tokens, **changes)
    train(broken)
    for step in checkpoint.steps(broken.path)[1:]:
        (broken.path / f"step_{step:06d}.pt").unlink()
    train(broken)
    a, b = checkpoint.latest(straight.path), checkpoint.latest(broken.path)
    assert a is not None
    assert b is not None
    for name, value in a["model"].items():
        assert torch.equal(value, b["model"][name]), name


@pytest.mark.parametrize("prompts", [[[1, 2, 3]], [[1, 2, 3], [4], [5, 6]]])
def test_a_recorded_step_writes_what_no_cache_writes(prompts: list[list[int]]) -> None:
    on_gpu = model("cuda").eval()
    options = {"seeds": range(len(prompts)), "top_k": 20}
    recorded, plain = (generate(on_gpu, prompts, 70, use_cache=cache, **options)
                       for cache in (True, False))
    assert recorded == plain


def test_the_device_is_in_the_table_or_gives_no_mfu() -> None:
    peak = peak_flops(torch.device("cuda"))
    assert peak is None or peak > 1e13
