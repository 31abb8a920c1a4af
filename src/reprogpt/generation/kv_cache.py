"""KV cache, and a decode step of fixed shapes that a GPU replays as a CUDA graph.

Launching a step's two hundred small kernels one by one takes longer than computing them.
"""

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from reprogpt.model.gpt import GPT


class KVCache:
    """Keys and values of the positions computed so far, in buffers of ``capacity`` columns."""

    def __init__(self, n_layer: int, capacity: int) -> None:
        self.n_layer, self.capacity = n_layer, capacity
        self.length = 0
        """Columns that are filled."""
        self.recent: Tensor | None = None
        """The last tokens, kept by model/ngram_embeds.py."""
        self.column: Tensor | None = None
        """(1,) int64, set by :class:`FixedStep`: the column that :meth:`append` writes. It then
        returns all columns, of which a mask must hide those after this one."""
        self._layers: list[Tensor] = []  # (2, B, n_head, capacity, D) each: keys, values

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """New k, v (B, n_head, T, D) of a layer -> all its k, v so far (B, n_head, S, D)."""
        if layer == len(self._layers):
            B, n_head, _, D = k.shape
            # zeros: a mask hides numbers, but not nan
            self._layers.append(k.new_zeros(2, B, n_head, self.capacity, D))
        keys, values = self._layers[layer][0], self._layers[layer][1]
        if self.column is not None:
            return keys.index_copy_(2, self.column, k), values.index_copy_(2, self.column, v)
        end = self.length + k.size(2)
        assert end <= self.capacity, "more positions than the cache was made for"
        keys[:, :, self.length:end] = k
        values[:, :, self.length:end] = v
        if layer == self.n_layer - 1:
            self.length = end
        return keys[:, :, :end], values[:, :, :end]

    def repeat(self, rows: Tensor) -> None:
        """Selects rows of the batch: rows (B',) int64; row i becomes what ``rows[i]`` was."""
        self._layers = [kv[:, rows] for kv in self._layers]
        self.recent = self.recent[rows] if self.recent is not None else None


def uses_fixed_step(model: GPT) -> bool:
    """Whether to decode by :class:`FixedStep`: on a GPU, unless the model has a window, whose mask
    depends on the cache's length, or n-grams, for which the cache changes outside of the graph."""
    cfg = model.cfg
    return model.head_weight.is_cuda and cfg.window is None and cfg.ngram_rows is None


class FixedStep:
    """Decode step with fixed shapes: idx (B, 1) int64 -> logits (B, V) float32, which the next call
    overwrites. Attention spans the whole cache; a mask hides columns not written yet and the
    ``pads`` (B,) columns of padding on the left."""

    def __init__(self, model: GPT, cache: KVCache, pads: Tensor) -> None:
        assert cache.length, "prefill comes first"
        self._model, self._cache = model, cache
        self._column = cache.column = torch.tensor([cache.length], device=pads.device)
        self._pads = pads[:, None]
        self._idx = torch.zeros_like(self._pads)
        self._logits: Tensor | None = None
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, idx: Tensor) -> Tensor:
        self._idx.copy_(idx)
        self._column.fill_(self._cache.length)
        if idx.is_cuda:
            self._graph = self._graph or self._capture()
            self._graph.replay()
        else:
            self._logits = self._compute()
        self._cache.length += 1
        assert self._logits is not None
        return self._logits

    def _compute(self) -> Tensor:
        columns = torch.arange(self._cache.capacity, device=self._column.device)
        mask = (columns <= self._column) & (columns >= self._pads)  # (B, S)
        # Fused kernels parallelize over queries, of which there is one: the plain formula takes
        # half of the time.
        with sdpa_kernel(SDPBackend.MATH):
            hidden = self._model(self._idx, positions=self._column - self._pads,
                                 mask=mask[:, None, None], cache=self._cache)
        return self._model.logits(hidden[:, -1])

    def _capture(self) -> torch.cuda.CUDAGraph:
        """The step as a CUDA graph that writes ``_logits``. A warm-up run before the capture lets
        libraries initialize; it writes the same keys and values into the same column."""
        warmup = torch.cuda.Stream()
        warmup.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(warmup):
            self._compute()
        torch.cuda.current_stream().wait_stream(warmup)
        graph = torch.cuda.CUDAGraph()
        # "thread_local": other threads (NCCL's watchdog) may call CUDA during the capture
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            self._logits = self._compute()
        return graph
