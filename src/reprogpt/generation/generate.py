"""Autoregressive sampling: each step takes the logits after the last token to the next token.

``stream`` is the loop; what it does with logits are pure functions at the end of this file. Every
sequence has a generator of its own, so a sample does not depend on the rest of the batch.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from reprogpt.generation.kv_cache import FixedStep, KVCache, uses_fixed_step
from reprogpt.model.gpt import GPT


def generate(model: GPT, prompts: Sequence[Sequence[int]], max_new_tokens: int,
             **options: Any) -> list[list[int]]:
    """The new tokens of each prompt, with its ``stop`` if it has one; ``options``: as stream's."""
    new: list[list[int]] = [[] for _ in prompts]
    for tokens in stream(model, prompts, max_new_tokens, **options):
        for row, token in zip(new, tokens, strict=True):
            if token is not None:
                row.append(token)
    return new


@torch.inference_mode()
def stream(model: GPT, prompts: Sequence[Sequence[int]], max_new_tokens: int, *,
           seeds: Sequence[int] | None = None, temperature: float = 1.0, top_k: int | None = None,
           top_p: float | None = None, repetition_penalty: float = 1.0, stop: int | None = None,
           use_cache: bool = True) -> Iterator[list[int | None]]:
    """Yields, step by step, the next token of each sequence, None once it has ended with ``stop``.

    One sequence a prompt: repeat a prompt for more samples (its prefill is computed once).
    ``seeds``: one a sequence; none with ``temperature`` 0, which is greedy. Raises ValueError for
    an empty prompt.
    """
    if not all(len(p) for p in prompts):
        raise ValueError("a prompt is empty; give it at least one token, such as <|endoftext|>")
    if temperature and (seeds is None or len(seeds) != len(prompts)):
        raise ValueError("seeds must hold one number per sequence when temperature is not 0")
    generators = [torch.Generator().manual_seed(seed) for seed in seeds or ()]
    rows = [list(p) for p in prompts]
    running = [True] * len(rows)
    decoder = _Decoder(model, rows, max_new_tokens, use_cache)
    for _ in range(max_new_tokens):
        logits = decoder.next_logits()
        if repetition_penalty != 1.0:
            logits = penalize_repetition(logits, rows, repetition_penalty)
        if temperature:
            # Sequences that have ended draw too, so that no draw depends on other sequences.
            uniforms = torch.stack([torch.rand((), generator=g) for g in generators])
            chosen = sample(logits, uniforms, temperature, top_k, top_p)
        else:
            chosen = logits.argmax(-1)
        step: list[int | None] = []
        for i, token in enumerate(chosen.tolist()):
            rows[i].append(token)
            step.append(token if running[i] else None)
            running[i] = running[i] and token != stop
        yield step
        if not any(running):
            return


class _Decoder:
    """Computes the logits after the last token of each row; the caller appends to ``rows``.

    Rows of different lengths are padded on the left. Once a row exceeds block_size, every step
    reads the last block_size tokens again: positions shift, so cached keys and values are wrong.
    """

    def __init__(self, model: GPT, rows: list[list[int]], max_new_tokens: int,
                 use_cache: bool) -> None:
        self.model, self.rows = model, rows
        self.block_size = model.cfg.block_size
        self.device = model.head_weight.device
        self.pads = torch.zeros(len(rows), dtype=torch.int64, device=self.device)
        self.cache: KVCache | None = None
        self._fixed_step: FixedStep | None = None
        longest = max(map(len, rows), default=0)
        if use_cache and longest <= self.block_size:
            capacity = min(self.block_size, longest + max_new_tokens)
            self.cache = KVCache(model.cfg.n_layer, capacity)

    def next_logits(self) -> Tensor:
        """(B, V) float32."""
        if max(map(len, self.rows)) > self.block_size:
            self.cache = None
        if self.cache is None or self.cache.length == 0:
            return self._prefill()
        idx = torch.tensor([row[-1:] for row in self.rows], device=self.device)
        if uses_fixed_step(self.model):
            self._fixed_step = self._fixed_step or FixedStep(self.model, self.cache, self.pads)
            return self._fixed_step(idx)
        return self.model.logits(self._last_hidden(idx, self.pads))

    def _prefill(self) -> Tensor:
        windows = [tuple(row[-self.block_size:]) for row in self.rows]
        index = {window: i for i, window in enumerate(dict.fromkeys(windows))}  # equal rows once
        width = max(map(len, index))
        pads = torch.tensor([width - len(w) for w in index], device=self.device)
        idx = torch.tensor([[0] * (width - len(w)) + list(w) for w in index], device=self.device)
        hidden = self._last_hidden(idx, pads)
        back = torch.tensor([index[w] for w in windows], device=self.device)
        self.pads = pads[back]
        if self.cache is not None:
            self.cache.repeat(back)
        return self.model.logits(hidden[back])

    def _last_hidden(self, idx: Tensor, pads: Tensor) -> Tensor:
        """Hidden state after the last token: idx (B, T), pads (B,) -> (B, C)."""
        past, T = self.cache.length if self.cache is not None else 0, idx.size(1)
        keys = torch.arange(past + T, device=self.device)
        queries, pads = keys[past:, None], pads[:, None]
        positions = mask = None
        if pads.any():  # padding attends to itself, since a softmax over no keys is nan
            visible = (keys >= pads)[:, None] | (keys == queries)
            mask = ((keys <= queries) & visible)[:, None]  # (B, 1, T, S)
        if past or mask is not None:
            positions = (keys[past:] - pads).clamp(min=0)
        return self.model(idx, positions=positions, mask=mask, cache=self.cache)[:, -1]


def sample(logits: Tensor, uniforms: Tensor, temperature: float, top_k: int | None = None,
           top_p: float | None = None) -> Tensor:
    """logits (B, V), uniforms (B,) in [0, 1) -> token ids (B,) int64.

    Top-k, temperature, top-p, softmax, draw. Sums over the vocabulary run on the CPU, where their
    order, and therefore the sample, does not depend on the device.
    """
    ids = None  # (B, k): token id of each column, once columns are sorted by logit
    if top_k is not None and top_k < logits.size(-1):
        logits, ids = logits.topk(top_k)
        ids = ids.cpu()
    logits = logits.cpu() / temperature
    if top_p is not None and top_p < 1:
        if ids is None:
            logits, ids = logits.sort(descending=True)
        logits = keep_top_p(logits, top_p)
    chosen = draw_index(logits.softmax(-1), uniforms)
    return chosen if ids is None else ids.gather(1, chosen[:, None])[:, 0]


def keep_top_p(logits: Tensor, top_p: float) -> Tensor:
    """Nucleus sampling's filter (Holtzman et al., 2019): logits (B, V), sorted in descending order
    -> the same with -inf after the shortest prefix whose probability reaches ``top_p``."""
    p = logits.softmax(-1)
    before = p.cumsum(-1) - p  # 0 for the first token, which is always kept
    return logits.masked_fill(before >= top_p, float("-inf"))


def draw_index(p: Tensor, uniforms: Tensor) -> Tensor:
    """Inverse transform sampling: probabilities (B, V), uniforms (B,) -> indices (B,) int64.

    One random number a token, unlike torch.multinomial, so the sample is the same on any device.
    """
    cdf = p.double().cumsum(-1)
    index = torch.searchsorted(cdf, (uniforms.double() * cdf[:, -1])[:, None], right=True)[:, 0]
    return index.clamp(max=p.size(-1) - 1)


def penalize_repetition(logits: Tensor, rows: Sequence[Sequence[int]], penalty: float) -> Tensor:
    """CTRL's repetition penalty (Keskar et al., 2019): logits (B, V), tokens so far -> (B, V).

    The logit of every token in its row is divided by ``penalty`` if positive, else multiplied.
    """
    logits = logits.clone()
    for i, row in enumerate(rows):
        seen = torch.tensor(sorted(set(row)), device=logits.device)
        values = logits[i, seen]
        logits[i, seen] = torch.where(values > 0, values / penalty, values * penalty)
    return logits
