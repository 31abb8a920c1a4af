"""Writing text: one token at a time, each computed once.

``stream`` is the loop; everything it decides with is a small pure function on logits. The keys and
values of past positions are kept (decoding.py), so a new token costs one position instead of
all of them. Each sequence draws from a generator of its own: what a sample says depends on its
prompt and its seed, never on what shares its batch.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from reprogpt.generation.kv_cache import FixedStep, KVCache, recordable
from reprogpt.model.gpt import GPT


def generate(model: GPT, prompts: Sequence[Sequence[int]], max_new_tokens: int, *,
             seeds: Sequence[int] | None = None, temperature: float = 1.0,
             top_k: int | None = None, top_p: float | None = None,
             repetition_penalty: float = 1.0, stop: int | None = None,
             use_cache: bool = True) -> list[list[int]]:
    """New tokens for each prompt, up to and including ``stop`` where it comes.

    One sequence per prompt: repeat a prompt for more samples (it is computed once). ``seeds``: one
    per sequence, needed unless ``temperature`` is 0, which is greedy. Raises ValueError for an
    empty prompt.
    """
    written: list[list[int]] = [[] for _ in prompts]
    for tokens in stream(model, prompts, max_new_tokens, seeds=seeds, temperature=temperature,
                         top_k=top_k, top_p=top_p, repetition_penalty=repetition_penalty,
                         stop=stop, use_cache=use_cache):
        for row, token in zip(written, tokens, strict=True):
            if token is not None:
                row.append(token)
    return written


@torch.inference_mode()
def stream(model: GPT, prompts: Sequence[Sequence[int]], max_new_tokens: int, *,
           seeds: Sequence[int] | None = None, temperature: float = 1.0, top_k: int | None = None,
           top_p: float | None = None, repetition_penalty: float = 1.0, stop: int | None = None,
           use_cache: bool = True) -> Iterator[list[int | None]]:
    """Like :func:`generate`, a step at a time: yields each sequence's next token, or None once it
    has stopped."""
    if not all(len(p) for p in prompts):
        raise ValueError("a prompt is empty; give it at least one token, such as <|endoftext|>")
    if temperature and (seeds is None or len(seeds) != len(prompts)):
        raise ValueError("seeds must hold one number per sequence when temperature is not 0")
    generators = [torch.Generator().manual_seed(seed) for seed in seeds or ()]
    rows = [list(p) for p in prompts]
    alive = [True] * len(rows)
    reader = _Reader(model, rows, max_new_tokens, use_cache)
    for _ in range(max_new_tokens):
        logits = reader.next_logits()
        if repetition_penalty != 1.0:
            logits = penalize(logits, rows, repetition_penalty)
        if temperature:
            # A row draws once a step whether it has stopped or not: nothing depends on others.
            draws = torch.stack([torch.rand((), generator=g) for g in generators])
            chosen = sample(logits, draws, temperature, top_k, top_p)
        else:
            chosen = logits.argmax(-1)
        step: list[int | None] = []
        for i, token in enumerate(chosen.tolist()):
            rows[i].append(token)
            step.append(token if alive[i] else None)
            alive[i] = alive[i] and token != stop
        yield step
        if not any(alive):
            return


class _Reader:
    """Logits after the last token of each row, by way of the cache while rows fit the context.

    Rows of different lengths are padded on the left, so that all grow at the same column. Beyond
    block_size the context is each row's last block_size tokens: every position shifts with each
    token, and with learned positions nothing computed before is of use, so it is computed anew.
    """

    def __init__(self, model: GPT, rows: list[list[int]], max_new_tokens: int,
                 use_cache: bool) -> None:
        self.model, self.rows = model, rows
        self.block_size = model.cfg.block_size
        self.device = model.head_weight.device
        self.pads = torch.zeros(len(rows), dtype=torch.int64, device=self.device)
        self.cache: KVCache | None = None
        self._fixed: FixedStep | None = None
        longest = max(map(len, rows), default=0)
        if use_cache and longest <= self.block_size:
            capacity = min(self.block_size, longest + max_new_tokens)
            self.cache = KVCache(model.cfg.n_layer, capacity)

    def next_logits(self) -> Tensor:
        """(B, V) float32."""
        longest = max(map(len, self.rows))
        if longest > self.block_size or self.cache is None:
            self.cache = None
            hidden = self._read_all(None)
        elif self.cache.length == 0:
            hidden = self._read_all(self.cache)
        else:
            return self._read_last(self.cache)
        return self.model.logits(hidden[:, -1])

    def _read_all(self, cache: KVCache | None) -> Tensor:
        windows = [tuple(row[-self.block_size:]) for row in self.rows]
        distinct = list(dict.fromkeys(windows))  # samples of one prompt start as one row
        width = max(map(len, distinct))
        pads = torch.tensor([width - len(w) for w in distinct])
        idx = torch.tensor([[0] * (width - len(w)) + list(w) for w in distinct])
        positions = mask = None
        if pads.any():
            positions = (torch.arange(width) - pads[:, None]).clamp(min=0).to(self.device)
            mask = self._causal(width, pads)[:, None].to(self.device)
        hidden = self.model(idx.to(self.device), positions=positions, mask=mask, cache=cache)
        which = {w: i for i, w in enumerate(distinct)}
        back = torch.tensor([which[w] for w in windows])
        self.pads = pads[back].to(self.device)
        back = back.to(self.device)
        if cache is not None:
            cache.repeat(back)
        return hidden[:, -1:][back]

    def _read_last(self, cache: KVCache) -> Tensor:
        idx = torch.tensor([row[-1:] for row in self.rows], device=self.device)
        if recordable(self.model):
            self._fixed = self._fixed or FixedStep(self.model, cache, self.pads)
            return self._fixed(idx)
        mask = None
        if self.pads.any():
            columns = torch.arange(cache.length + 1, device=self.device)
            mask = (columns >= self.pads[:, None])[:, None, None]  # (B, 1, 1, S)
        positions = (cache.length - self.pads)[:, None]
        hidden = self.model(idx, positions=positions, mask=mask, cache=cache)
        return self.model.logits(hidden[:, -1])

    @staticmethod
    def _causal(width: int, pads: Tensor) -> Tensor:
        """(B, T, T) bool: no look ahead, none at padding; padding sees itself, or its softmax
        over nothing would be nan."""
        mask = torch.ones(width, width, dtype=torch.bool).tril()
        mask = mask & (torch.arange(width) >= pads[:, None])[:, None]
        return mask | torch.eye(width, dtype=torch.bool)


def sample(logits: Tensor, draws: Tensor, temperature: float, top_k: int | None = None,
           top_p: float | None = None) -> Tensor:
    """logits (B, V) and one uniform draw in [0, 1) per row -> a token per row (B,) int64.

    Sums over the vocabulary run on the CPU: there they have one order, on a GPU they have not.
    """
    ids = None
    if top_k is not None and top_k < logits.size(-1):
        logits, ids = logits.topk(top_k)  # sorted, and small
        ids = ids.cpu()
    logits = logits.cpu() / temperature
    if top_p is not None and top_p < 1:
        if ids is None:
            logits, ids = logits.sort(descending=True)
        logits = nucleus(logits, top_p)
    chosen = invert_cdf(logits.softmax(-1), draws)
    return chosen if ids is None else ids.gather(1, chosen[:, None])[:, 0]


def nucleus(logits: Tensor, top_p: float) -> Tensor:
    """Sorted logits (B, V), all but the fewest that together reach top_p set to -inf."""
    p = logits.softmax(-1)
    before = p.cumsum(-1) - p  # what comes ahead of each: the first is always kept
    return logits.masked_fill(before >= top_p, float("-inf"))


def invert_cdf(p: Tensor, draws: Tensor) -> Tensor:
    """Probabilities (B, V) and uniforms (B,) -> (B,): the index at which the sum passes the draw.

    One draw a token and no noise over the whole vocabulary: the same sample on every device.
    """
    cdf = p.double().cumsum(-1)
    index = torch.searchsorted(cdf, (draws.double() * cdf[:, -1])[:, None], right=True)[:, 0]
    return index.clamp(max=p.size(-1) - 1)


def penalize(logits: Tensor, rows: Sequence[Sequence[int]], penalty: float) -> Tensor:
    """CTRL's repetition penalty (Keskar et al., 2019): a token that was there is made less likely,
    its logit divided by ``penalty`` when positive and multiplied when negative."""
    logits = logits.clone()
    for i, row in enumerate(rows):
        seen = torch.tensor(sorted(set(row)), device=logits.device)
        values = logits[i, seen]
        logits[i, seen] = torch.where(values > 0, values / penalty, values * penalty)
    return logits
