"""Whose training steps are compared: ours, the lecture's first, nanoGPT's, build-nanogpt's.

Each is a function that builds a model on a device and returns its optimizer step: forward,
backward, clip and update on a batch that is in memory, over as many micro-steps as the size has.
Peers are taken from a checkout, and run as their own scripts run them on that kind of device.
"""

import ast
import contextlib
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks.peers import nanogpt_module
from reprogpt.config import ModelConfig
from reprogpt.runtime.device import computes_bfloat16

ROOT = Path(__file__).resolve().parent.parent


class Size(NamedTuple):
    """A model and its batch: ``rows`` of T tokens, ``micro_steps`` times, are one step."""

    n_layer: int
    n_head: int
    n_embd: int
    T: int
    rows: int
    vocab_size: int
    micro_steps: int = 1

    @property
    def tokens(self) -> int:
        """Tokens of a step."""
        return self.rows * self.T * self.micro_steps

    @property
    def flops_per_token(self) -> int:
        """Forward and backward: 6 N + 12 n_layer T C, N the matrices' parameters."""
        matrices = 12 * self.n_layer * self.n_embd**2 + self.vocab_size * self.n_embd
        return 6 * matrices + 12 * self.n_layer * self.T * self.n_embd

    @property
    def padded_vocab(self) -> int:
        """What the peers call their vocabulary's size."""
        return self.vocab_size if self.vocab_size < 1000 else 50304


SIZES = {
    "char": Size(4, 4, 128, 64, 12, 65),
    "4l": Size(4, 4, 128, 64, 16, 50257),
    "6l": Size(6, 6, 384, 256, 4, 50257),
    "124m": Size(12, 12, 768, 256, 4, 50257),
    "tiny": Size(2, 2, 64, 64, 4, 500, 2),  # to see whether everything runs
    "gpt2-124m": Size(12, 12, 768, 1024, 64, 50257, 2),  # on a GPU; the lecture has 8 micro-steps
}
GPT2_124M = ModelConfig(architecture="gpt", n_layer=12, n_head=12, n_embd=768, block_size=1024,
                        dropout=0.0, bias=True, init_from=None)
Step = Callable[[], Any]


def batch(size: Size, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """idx, targets (rows, T) of one micro-step."""
    both = torch.randint(size.vocab_size, (size.rows, size.T + 1),
                         generator=torch.Generator().manual_seed(0)).to(device)
    return both[:, :-1].contiguous(), both[:, 1:].contiguous()


def reference(size: Size, device: torch.device, checkout: str) -> Step:
    """benchmarks/reference.py with AdamW and clipping, as the lecture first trains it."""
    from benchmarks.reference import ReferenceGPT

    model = ReferenceGPT(size.n_layer, size.n_head, size.n_embd, size.T, size.vocab_size)
    model.to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4)
    return plain_step(model, model, optimizer, size, device, contextlib.nullcontext)


def plain_step(model: torch.nn.Module, loss_of: Callable[..., Any],
               optimizer: torch.optim.Optimizer, size: Size, device: torch.device,
               context: Callable[[], AbstractContextManager[Any]]) -> Step:
    """The loop of the peers: a mean loss a micro-step, clipping, the update, the loss looked at."""
    idx, targets = batch(size, device)

    def step() -> None:
        total = torch.zeros((), device=device)
        for _ in range(size.micro_steps):
            with context():
                loss = loss_of(idx, targets)
                loss = (loss[1] if isinstance(loss, tuple) else loss) / size.micro_steps
            total += loss.detach()
            loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        total.item()

    return step


def nanogpt(size: Size, device: torch.device, checkout: str) -> Step:
    """nanoGPT's loop: eager and float32 on a CPU; compiled, bfloat16 and TF32 on a GPU."""
    module, on_gpu = nanogpt_module(checkout), device.type == "cuda"
    model = module.GPT(module.GPTConfig(
        n_layer=size.n_layer, n_head=size.n_head, n_embd=size.n_embd, block_size=size.T,
        dropout=0.0, bias=not on_gpu, vocab_size=size.padded_vocab)).to(device)
    optimizer = model.configure_optimizers(0.1, 6e-4, (0.9, 0.95), device.type)
    if not on_gpu:
        return plain_step(model, model, optimizer, size, device, contextlib.nullcontext)
    torch.set_float32_matmul_precision("high")
    return plain_step(model, torch.compile(model), optimizer, size, device,
                      lambda: torch.autocast("cuda", torch.bfloat16))


def build_nanogpt(size: Size, device: torch.device, checkout: str) -> Step:
    """build-nanogpt's loop as shipped, eager: its classes cut out of its script, bfloat16."""
    tree = ast.parse((Path(checkout) / "train_gpt2.py").read_text())
    skip = {"hellaswag", "tiktoken"}
    kept: list[ast.stmt] = [node for node in tree.body if isinstance(node, ast.ClassDef)
            or (isinstance(node, ast.Import) and node.names[0].name not in skip)
            or (isinstance(node, ast.ImportFrom) and node.module not in skip)]
    scope: dict[str, Any] = {"__name__": "build_nanogpt", "master_process": False}
    sys.modules["build_nanogpt"] = type(sys)("build_nanogpt")  # its dataclass looks itself up
    exec(compile(ast.Module(kept, []), "train_gpt2.py", "exec"), scope)
    model = scope["GPT"](scope["GPTConfig"](
        n_layer=size.n_layer, n_head=size.n_head, n_embd=size.n_embd, block_size=size.T,
        vocab_size=size.padded_vocab)).to(device)
    if device.type == "cuda":  # its script does so anywhere, but on a CPU it only loses by it
        torch.set_float32_matmul_precision("high")
    optimizer = model.configure_optimizers(0.1, 6e-4, device.type)
    return plain_step(model, model, optimizer, size, device,
                      lambda: torch.autocast(device.type, torch.bfloat16))


def ours(size: Size, device: torch.device, checkout: str, compiled: bool = False,
         precision: str = "float32", deterministic: bool = True, bias: bool = True) -> Step:
    """The trainer's step, deterministic as the presets have it unless told otherwise."""
    from reprogpt.config import Config, merge, read_yaml
    from reprogpt.model.registry import build_model
    from reprogpt.runtime.device import keep_freed_memory, set_determinism
    from reprogpt.runtime.distributed import Process
    from reprogpt.training.loader import Batch
    from reprogpt.training.optimizer import build_optimizer
    from reprogpt.training.train_step import train_step
    from reprogpt.training.wrap import WrappedModel

    shape = {"n_layer": size.n_layer, "n_head": size.n_head, "n_embd": size.n_embd,
             "block_size": size.T, "bias": bias}
    cfg = Config.parse(merge(read_yaml(ROOT / "presets/shakespeare.yaml"),
                             {"model": shape, "train": {"batch_tokens": size.tokens}}))
    if device.type == "cpu":
        keep_freed_memory()
    set_determinism(deterministic, precision)
    model = build_model(cfg.model, size.vocab_size)
    model.init_weights(torch.Generator().manual_seed(0))
    resolved = {"precision": precision, "micro_batch": size.rows, "compile": compiled}
    wrapped = WrappedModel(model, Process(0, 1, device), cfg, resolved)
    optimizer, scaler = build_optimizer(model, cfg.train), torch.amp.GradScaler(enabled=False)
    idx, targets = (x.repeat(size.micro_steps, 1) for x in batch(size, device))
    data = Batch(idx, targets, torch.arange(len(idx), device=device), size.tokens)
    return lambda: train_step(wrapped, optimizer, scaler, data, 0, cfg.train)


def _ours(**options: Any) -> Callable[[Size, torch.device, str], Step]:
    return lambda size, device, checkout: ours(size, device, checkout, **options)


CONTENDERS: dict[str, Callable[[Size, torch.device, str], Step]] = {
    "reference": reference,
    "nanoGPT": nanogpt,
    "build-nanogpt": build_nanogpt,
    "reprogpt": _ours(),
    "reprogpt, compiled": _ours(compiled=True),
    "reprogpt, bfloat16": _ours(precision="bfloat16"),
    "reprogpt, bfloat16, compiled": _ours(precision="bfloat16", compiled=True),
    "reprogpt, bfloat16, compiled, any order": _ours(precision="bfloat16", compiled=True,
                                                     deterministic=False),
    "reprogpt, bfloat16, compiled, any order, no biases": _ours(
        precision="bfloat16", compiled=True, deterministic=False, bias=False),
}
"""Any order: sums may be taken in one that changes (train.deterministic: false). No biases: the
model that nanoGPT trains on a GPU; the others have GPT-2's, as has build-nanogpt."""


def field(device: torch.device, peers: dict[str, str | None], compiling: bool) -> dict[str, str]:
    """Who can run here, and from which checkout. On a GPU, where a batch is large, only those that
    compute in bfloat16; in any order of sums there alone, since a CPU has but one."""
    on_gpu = device.type == "cuda"
    left_out = (set() if compiling else {"compiled"}) | (set() if on_gpu else {"any order"})
    if not computes_bfloat16(device):
        left_out.add("bfloat16")
    found = {}
    for name in CONTENDERS:
        traits = set(name.split(", "))
        if name.startswith("reprogpt"):
            here = not left_out & traits and (not on_gpu or "bfloat16" in traits)
        else:
            here = bool(peers[name]) if name in peers else not on_gpu
        if here:
            found[name] = peers.get(name) or ""
    return found
