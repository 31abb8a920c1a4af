"""How surprised a model is by given tokens: the one measurement under every evaluation.

Evaluation needs -log p of a few targets, never the logits themselves. At GPT-2's vocabulary one
row of float32 logits is 200 kB, so they exist only for the positions that are scored, and only a
tile of them at a time: some rows by a slice of the vocabulary, which stays in the cache.
"""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from reprogpt.model.gpt import GPT
from reprogpt.model.kernels.choose import packing_pays
from reprogpt.model.kernels.packed_linear import Packed
from reprogpt.model.loss import MASKED, softcap

TILES = {"cpu": (1024, 2048), "cuda": (4096, 1 << 20)}
"""The logits that exist at a time, rows and words. On a CPU 8 MB of float32: many rows, because
the matrix product lays out every slice of the head anew for each group of rows, which at 128 rows
took a quarter of the time; few words, so that the passes of the softmax find the tile in the cache.
A GPU wants few, large products: 0.8 GB at GPT-2's vocabulary, which goes whole."""


def tokens_at_once(device: torch.device, setting: int | str = "auto") -> int:
    """Tokens that go through the model at a time, by runtime.eval_tokens. For "auto": on a CPU
    more make no matrix product faster, and waste more padding; a GPU idles with fewer."""
    if not isinstance(setting, str):
        return setting
    return 32768 if device.type == "cuda" else 1024


class Head:
    """A model's output matrix as scoring reads it: a slice of the vocabulary at a time.

    For one evaluation of a model that does not change meanwhile: cast once (to autocast's dtype,
    inside it) and packed once, where that pays (packing.py).
    """

    def __init__(self, weight: Tensor, vocab_size: int, cap: float | None = None,
                 tile: tuple[int, int] | None = None) -> None:
        """weight (padded V, C), of which the padding does not count; ``cap``: see loss.softcap;
        ``tile``: how many rows and words meet at a time, None for TILES'."""
        tile = tile or TILES.get(weight.device.type, TILES["cpu"])
        if torch.is_autocast_enabled(weight.device.type):
            weight = weight.to(torch.get_autocast_dtype(weight.device.type))
        self._weight, self._cap, self._rows = weight.detach(), cap, tile[0]
        # Whole tiles are the faster product: the padding is multiplied, and then left out.
        self._words = [min(tile[1], vocab_size - start) for start in range(0, vocab_size, tile[1])]
        slices = self._weight.split(tile[1])[:len(self._words)]
        self._products = [Packed(part) if packing_pays(part, many_rows=True)
                          else partial(F.linear, weight=part) for part in slices]

    @classmethod
    def of(cls, model: GPT) -> "Head":
        """The head of a model, its cap included."""
        return cls(model.head_weight, model.vocab_size, getattr(model, "logit_softcap", None))

    @torch.no_grad()
    def log_normalizer(self, hidden: Tensor) -> Tensor:
        """log sum over the vocabulary of exp(logit): hidden (N, C) -> (N,) float32.

        Logits are computed in the matrix's dtype and summed in float32.
        """
        result = hidden.new_empty(len(hidden), dtype=torch.float32)
        for x, part in zip(hidden.to(self._weight.dtype).split(self._rows),
                           result.split(self._rows), strict=True):
            sums = [_log_sum_exp(product(x), words, self._cap)
                    for product, words in zip(self._products, self._words, strict=True)]
            torch.logsumexp(torch.stack(sums), 0, out=part)
        return result

    @torch.no_grad()
    def target_logit(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """The logit of one target a row: hidden (N, C), targets (N,) -> (N,) float32."""
        wanted = self._weight[targets].float()
        logits = (hidden.to(self._weight.dtype).float() * wanted).sum(1)
        return logits if self._cap is None else softcap(logits, self._cap)

    @torch.no_grad()
    def nll(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """-log p of each target, in nats: hidden (..., C), targets (...) int64 -> (...) float32.

        0 where the target is MASKED; no logits are computed for those.
        """
        flat, wanted = hidden.reshape(-1, hidden.size(-1)), targets.reshape(-1)
        result = torch.zeros(len(wanted), dtype=torch.float32, device=hidden.device)
        scored = (wanted != MASKED).nonzero()[:, 0]
        if len(scored) < len(wanted):
            flat, wanted = flat[scored], wanted[scored]
        result[scored] = self.log_normalizer(flat) - self.target_logit(flat, wanted)
        return result.view(targets.shape)


def _log_sum_exp(logits: Tensor, words: int, cap: float | None) -> Tensor:
    """logits (N, padded V), of which the first ``words`` count -> (N,) float32; overwrites them."""
    logits = logits.float() if cap is None else softcap(logits.float(), cap)
    logits[:, words:] = float("-inf")
    top = logits.amax(1)
    torch.softmax(logits, 1, out=logits)  # one pass in the cache; the largest is at least 1 / V
    return top - logits.amax(1).log_()
