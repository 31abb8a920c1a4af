"""What is kept between tokens: the keys and values of the past, and on a GPU the step itself.

A step of GPT-2's decoding is some two hundred small kernels, and a GPU waits for most of them to be
launched, one by one, from Python. A step whose tensors never move or change their size
(:class:`FixedStep`) is recorded once as a CUDA graph and then launched as a whole.
"""

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from reprogpt.model.gpt import GPT


class KVCache:
    """Keys and values of the positions computed so far, in memory claimed once."""

    def __init__(self, n_layer: int, capacity: int) -> None:
        self.length = 0
        self.capacity = capacity
        self.column: Tensor | None = None
        """(1,) int64: where the next ones go, instead of ``length``, once the cache is fixed: then
        all of it is returned, and what is beyond the column needs a mask."""
        self._k: list[Tensor | None] = [None] * n_layer
        self._v: list[Tensor | None] = [None] * n_layer

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """New k, v (B, n_head, T, D) of a layer -> all of its k, v so far (B, n_head, S, D)."""
        if self.column is not None:
            return self._overwrite(self._k[layer], k), self._overwrite(self._v[layer], v)
        end = self.length + k.size(2)
        assert end <= self.capacity, "more positions than the cache was made for"
        whole_k, whole_v = self._k[layer], self._v[layer]
        if whole_k is None or whole_v is None:
            shape = (k.size(0), k.size(1), self.capacity, k.size(3))
            whole_k = self._k[layer] = k.new_zeros(shape)  # a mask hides numbers, but not nan
            whole_v = self._v[layer] = v.new_zeros(shape)
        whole_k[:, :, self.length:end] = k
        whole_v[:, :, self.length:end] = v
        if layer == len(self._k) - 1:
            self.length = end
        return whole_k[:, :, :end], whole_v[:, :, :end]

    def _overwrite(self, whole: Tensor | None, new: Tensor) -> Tensor:
        assert whole is not None
        assert self.column is not None
        return whole.index_copy_(2, self.column, new)

    def fix(self) -> None:
        """From now on one column at a time, whose number is in ``column``."""
        filled = self._k[0]
        assert filled is not None, "nothing was read yet"
        self.column = torch.tensor([self.length], device=filled.device)

    def repeat(self, rows: Tensor) -> None:
        """Row i becomes what row ``rows[i]`` was: rows (B',) int64."""
        self._k = [k if k is None else k[rows] for k in self._k]
        self._v = [v if v is None else v[rows] for v in self._v]


def recordable(model: GPT) -> bool:
    """Whether decoding goes by a :class:`FixedStep`: on a GPU, but for a model with a window, whose
    mask follows the cache's length."""
    return model.head_weight.is_cuda and getattr(model.cfg, "window", None) is None


class FixedStep:
    """``step(idx)`` reads one more token a row: idx (B, 1) int64 -> logits (B, V) float32, which
    the next call overwrites.

    Attention looks at the whole cache, with a mask for what is not written yet and for padding on
    the left, ``pads`` (B,) columns a row. Whatever the length, the same work on the same memory.
    """

    def __init__(self, model: GPT, cache: KVCache, pads: Tensor) -> None:
        self._model, self._cache, self._pads = model, cache, pads[:, None]
        self._idx = torch.zeros_like(self._pads)
        self._logits: Tensor | None = None
        self._graph: torch.cuda.CUDAGraph | None = None
        cache.fix()

    def __call__(self, idx: Tensor) -> Tensor:
        assert self._cache.column is not None
        self._idx.copy_(idx)
        self._cache.column.fill_(self._cache.length)
        if idx.is_cuda:
            self._graph = self._graph or self._record()
            self._graph.replay()
        else:
            self._logits = self._compute()
        self._cache.length += 1
        assert self._logits is not None
        return self._logits

    def _compute(self) -> Tensor:
        column = self._cache.column
        assert column is not None
        columns = torch.arange(self._cache.capacity, device=column.device)
        mask = (columns <= column) & (columns >= self._pads)  # (B, S)
        # Fused kernels share their work by queries, of which there is one: two plain products
        # take half of the time.
        with sdpa_kernel(SDPBackend.MATH):
            hidden = self._model(self._idx, positions=column - self._pads,
                                 mask=mask[:, None, None], cache=self._cache)
        return self._model.logits(hidden[:, -1])

    def _record(self) -> torch.cuda.CUDAGraph:
        """The step as a graph, which writes ``_logits``. It runs once before, for libraries to set
        themselves up: that writes the same keys and values into the same column."""
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            self._compute()
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        # "thread_local": other threads (NCCL's watchdog) may go on calling CUDA meanwhile
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            self._logits = self._compute()
        return graph
