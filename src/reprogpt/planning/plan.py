"""What a run will take: parameters, FLOPs, memory, data, disk and hours, before it is started.

Counted from the params and, where there is one, the shards' manifest; plan_text.py writes the page.
"""

import math
import os
import shutil
from typing import Any

from torch import nn

from reprogpt.config import Config, CorpusConfig, TaskConfig
from reprogpt.data.arithmetic import longest
from reprogpt.formats.gpt2_names import GPT2_VOCAB
from reprogpt.model.registry import model_shapes
from reprogpt.planning.measured_speed import measured_speed
from reprogpt.runtime.device import PEAK_FLOPS
from reprogpt.runtime.workers import usable_cores
from reprogpt.tokens.manifest import Manifest
from reprogpt.training.auto import GPU_MICRO_TOKENS
from reprogpt.training.batch_schedule import batch_sizes

EDU = 9_953_989_344
"""GPT-2 tokens of FineWeb-Edu's 10BT sample by build-nanogpt's fineweb.py, 100 shards; a token has
4.67 bytes there (nanochat's evaluation of tokenizers)."""
CORPORA = {"shakespeare": (1_542_198, 4_998_144), "tinyshakespeare": (338_025, 1_115_394),
           "fineweb-edu": (EDU, EDU * 4.67), "sample-100BT": (10 * EDU, EDU * 46.7)}
"""GPT-2 tokens and bytes of a corpus, or of a Hub data set's configuration, both splits."""
CHAR_VOCAB = 65
"""Before there is a manifest: Tiny Shakespeare's."""
ASSUMED_MFU = {"T4": 0.35, "RTX 4090": 0.35, "A100": 0.35, "H100": 0.43, "H200": 0.43}
"""The share of a GPU's peak that training uses. 0.43 is what gpt2-124m reached on one H200
(benchmarks/README.md), and H100 has the same peak; 0.35 stands where nothing was measured."""
EPOCHS_WORTH, NOISY_WINDOWS, LONG_DAYS = 4, 100, 14
"""Where warnings begin. Up to four epochs teach nearly as well as new text (Muennighoff et al.,
2023)."""


def plan(cfg: Config, manifest: Manifest | None = None, measure: bool = False) -> dict[str, Any]:
    """The plan of a run, as plain values in the units that the keys give.

    ``manifest``: that of the run's shards, if they are there. ``measure``: time a few steps here.
    """
    T, train, limit = cfg.model.block_size, cfg.train, cfg.runtime.micro_batch
    vocab = (int(manifest.tokenizer["n_vocab"]) if manifest else
             {"gpt2": GPT2_VOCAB, "char": CHAR_VOCAB, "bpe": (cfg.tokenize.vocab_size or 0) + 1}[
                 cfg.tokenize.encoding])
    model = model_shapes(cfg.model, vocab)
    parameters = parameters_by_part(model, vocab)
    flops = flops_by_part(parameters, model.flops_per_token(T), vocab * cfg.model.n_embd)
    tokens = batch_sizes(train, T).before(train.max_steps) * T
    micro_batch = min(train.batch_tokens // T,
                      max(1, GPU_MICRO_TOKENS // T) if limit == "auto" else limit)
    total, train_tokens, text = corpus_size(cfg, manifest)
    load = os.getloadavg()[0]  # before measuring, which adds to it
    found = {
        "preset": cfg.preset, "steps": train.max_steps, "tokens": tokens,
        "max_seconds": train.max_seconds,
        "train_tokens": train_tokens, "counted": manifest is not None,
        "epochs": tokens / train_tokens if train_tokens else None,
        "parameters": parameters, "flops_per_token": flops,
        "memory_bytes": memory_by_part(cfg, parameters, vocab, micro_batch * T),
        "micro_batch": micro_batch,
        "disk_bytes": disk_by_part(cfg, sum(parameters.values()), total, text),
        "disk_free_bytes": shutil.disk_usage(".").free,
        "mfu": ASSUMED_MFU,
        "hours_on_one": {gpu: tokens * sum(flops.values()) / (PEAK_FLOPS[gpu] * mfu) / 3600
                         for gpu, mfu in ASSUMED_MFU.items()},
        "tokens_per_second": measured_speed(cfg, vocab) if measure else None,
        "load": load, "cores": usable_cores()}
    return found | {"warnings": warnings(cfg, found)}


def parameters_by_part(model: nn.Module, vocab: int) -> dict[str, int]:
    """Parameters, without the vocabulary's padding; a tied head has none of its own."""
    parts = {"wte": "token embedding", "wpe": "position embedding", "attn": "attention",
             "mlp": "MLP", "value_embeds": "value embeddings",
             "ngram_embeds": "n-gram embeddings", "lm_head": "head"}
    sums = dict.fromkeys([*parts.values(), "norms and others"], 0)
    for name, p in model.named_parameters():
        part = next((parts[word] for word in name.split(".") if word in parts), "norms and others")
        rows = vocab if part in ("token embedding", "value embeddings", "head") else len(p)
        sums[part] += p.numel() // len(p) * rows
    return sums


def flops_by_part(parameters: dict[str, int], total: float, head: int) -> dict[str, float]:
    """FLOPs a token, forward and backward: 6 a weight that multiplies; attention's scores are what
    is left of ``total``. ``head``: weights of the output matrix, tied or not."""
    parts = {name: 6.0 * parameters[name] for name in ("attention", "MLP", "norms and others")}
    parts["head"] = min(6.0 * head, total)  # a bigram's table multiplies nothing
    return parts | {"attention scores": max(0.0, total - sum(parts.values()))}


def memory_by_part(cfg: Config, parameters: dict[str, int], vocab: int, tokens: int
                   ) -> dict[str, float]:
    """Bytes of one process with ``tokens`` in a micro-batch. Weights, gradients and moments are
    float32; logits are made in chunks of 16,384 tokens at most (model/kernels/).

    Kept for the backward pass in bfloat16, per token, layer and channel: the inputs of two norms 8
    bytes (float32), their outputs 4, q, k and v 6, attention's output 2, the MLP's hidden layer
    before and after its activation 16; q and k before their own norm 4.
    """
    count, matrices = sum(parameters.values()), parameters["attention"] + parameters["MLP"]
    wide = cfg.train.precision in ("float32", "tf32")
    kept = 64 if wide else 36 + 4 * cfg.model.qk_norm
    return {"weights": 4.0 * count, "gradients": 4.0 * count,  # Muon has one moment, AdamW two
            "moments": 8.0 * count - 4.0 * matrices * (cfg.train.optimizer == "muon"),
            "activations": float(kept * cfg.model.n_layer * tokens * cfg.model.n_embd),
            "logits": min(tokens, 16384) * vocab * (8.0 if wide else 6.0)}


def corpus_size(cfg: Config, manifest: Manifest | None) -> tuple[int, int | None, float]:
    """The corpus: tokens, those of the training split (None where unknown), and bytes of text."""
    if manifest:
        splits = manifest.totals.values()
        return (sum(split.tokens for split in splits), manifest.totals["train"].tokens,
                sum(split.bytes for split in splits))
    sizes = [_size_of(cfg, corpus) for corpus in cfg.download.corpora().values()]
    if any(train is None for _, train, _ in sizes):
        return 0, None, 0.0
    tokens, train_tokens, text = zip(*sizes, strict=True)
    return sum(tokens), sum(train_tokens), sum(text)


def _size_of(cfg: Config, source: CorpusConfig) -> tuple[int, int | None, float]:
    task, vocab = source.task, cfg.tokenize.vocab_size
    if source.corpus in ("addition", "calculator"):
        task = task or TaskConfig()
        size = task.examples * longest(source.corpus, task)
        return size, int(size * (1 - task.held_out)), size
    known = CORPORA.get(source.hub.config or "" if source.hub else source.corpus)
    if known is None:
        return 0, None, 0.0
    share = min(1.0, (source.max_bytes or known[1]) / known[1])
    # English text is a byte a character. Of 512 own tokens each is as long as 0.59 of GPT-2's, and
    # an eighth of it longer with every doubling (docs/tokenizers.md), up to 16,384.
    own = min(1.1, 0.59 + 0.125 * (math.log2(vocab) - 9)) if vocab else 1.0
    tokens = int(known[cfg.tokenize.encoding == "char"] / own * share)
    held = cfg.tokenize.val_tokens or tokens * (cfg.tokenize.val_fraction or 0)
    return tokens, max(1, int(tokens - held)), known[1] * share


def disk_by_part(cfg: Config, parameters: int, tokens: int, text: float) -> dict[str, float]:
    """Bytes that the stages leave. The caches of DVC and of this project hold the same files by
    hard links where they lie on the project's file system, as DVC's does by default."""
    kept = min(cfg.runtime.keep_checkpoints, cfg.train.max_steps)
    return {"raw text": text, "shards": 2.0 * tokens, "model": 4.0 * parameters,
            "checkpoints": 4.0 * parameters * (3 * kept + (cfg.train.keep == "best"))}


def warnings(cfg: Config, plan: dict[str, Any]) -> list[str]:
    """What to know before starting, a line each."""
    train, tokens, epochs = cfg.train, plan["tokens"], plan["epochs"] or 0
    free = plan["disk_free_bytes"]
    disk, speed = sum(plan["disk_bytes"].values()), plan["tokens_per_second"]
    days = (tokens / speed / 3600 if speed else plan["hours_on_one"]["H200"]) / 24
    critical = critical_batch(plan["parameters"], max(1, tokens))
    far = ("above" if train.batch_tokens > 4 * critical else
           "below" if train.batch_tokens < critical / 1000 else "")
    found = {
        f"data: fewer tokens than asked, {epochs:.1f} epochs; beyond {EPOCHS_WORTH}, repeated text "
        "teaches little": epochs > 1.1 and train.max_seconds is None,
        f"validation: train.val_tokens={train.val_tokens} is below {NOISY_WINDOWS} windows of "
        "block_size: noisy": train.val_tokens < NOISY_WINDOWS * cfg.model.block_size,
        f"disk: {disk / 1e9:,.1f} GB needed, {free / 1e9:,.1f} GB free": disk > free,
        f"batch: train.batch_tokens={train.batch_tokens} is far {far} the critical size, about "
        f"{critical:,.0f}": bool(far and tokens),
        f"time: {days:,.0f} days on {'this machine' if speed else 'one H200'}": days > LONG_DAYS}
    return [text for text, holds in found.items() if holds]


def critical_batch(parameters: dict[str, int], tokens: int) -> float:
    """Tokens a step beyond which a larger batch hardly saves steps (Kaplan et al., 2020): 2e8 /
    L^(1/0.21), at the loss L(N, D) of equation 1.5 with the constants of table 2."""
    weights = max(1, parameters["attention"] + parameters["MLP"])
    loss = ((6.4e13 / weights) ** (0.076 / 0.103) + 1.8e13 / tokens) ** 0.103
    return float(2e8 / loss ** (1 / 0.21))
