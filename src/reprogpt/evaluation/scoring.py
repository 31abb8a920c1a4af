"""Per-token negative log-likelihood (nll), on which every evaluation is built.

-log p of a target is the log-sum-exp of its row of logits minus the target's logit. A row of
GPT-2's float32 logits is 200 kB, so logits are computed a tile at a time: some rows by a slice of
the vocabulary, small enough for the CPU's cache.
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
"""Rows and vocabulary entries of a tile of logits. CPU: 8 MB of float32; many rows, because the
matrix product packs each slice of the weight again for every group of rows; few entries, to keep
the tile in the cache. A GPU wants few large products: the whole vocabulary, 0.8 GB at GPT-2's."""


def tokens_at_once(device: torch.device, setting: int | str = "auto") -> int:
    """Tokens in a forward pass of an evaluation, from runtime.eval_tokens. "auto": on a CPU more
    tokens are no faster and need more padding; a GPU idles with fewer."""
    if not isinstance(setting, str):
        return setting
    return 32768 if device.type == "cuda" else 1024


class Head:
    """The output projection (lm_head), computed by slices of the vocabulary.

    Valid while the weights do not change: they are cast to autocast's dtype and packed once.
    """

    def __init__(self, weight: Tensor, vocab_size: int, cap: float | None = None,
                 tile: tuple[int, int] | None = None) -> None:
        """weight (padded V, C), whose padding rows are ignored; ``cap``: see loss.softcap; ``tile``
        replaces that of TILES."""
        tile = tile or TILES.get(weight.device.type, TILES["cpu"])
        if torch.is_autocast_enabled(weight.device.type):
            weight = weight.to(torch.get_autocast_dtype(weight.device.type))
        self._weight, self._cap, self._rows = weight.detach(), cap, tile[0]
        # Multiplying the padding and ignoring it is faster than a last slice of an odd size.
        self._widths = [min(tile[1], vocab_size - start) for start in range(0, vocab_size, tile[1])]
        slices = self._weight.split(tile[1])[:len(self._widths)]
        self._products = [Packed(part) if packing_pays(part, many_rows=True)
                          else partial(F.linear, weight=part) for part in slices]

    @classmethod
    def of(cls, model: GPT) -> "Head":
        """A model's head, with its logit cap."""
        return cls(model.head_weight, model.vocab_size, getattr(model, "logit_softcap", None))

    @torch.no_grad()
    def log_normalizer(self, hidden: Tensor, likeliest: Tensor | None = None) -> Tensor:
        """Log-sum-exp of the logits over the vocabulary: hidden (N, C) -> (N,) float32. Logits are
        computed in the weight's dtype and summed in float32.

        ``likeliest`` (N,) int64, if given, receives the token with the highest logit of each row.
        """
        result = hidden.new_empty(len(hidden), dtype=torch.float32)
        for n, x in enumerate(hidden.to(self._weight.dtype).split(self._rows)):
            rows = slice(n * self._rows, n * self._rows + len(x))
            sums, tops = [], []
            for k, product in enumerate(self._products):
                logits = _float_logits(product(x), self._widths[k], self._cap)
                if likeliest is not None:
                    tops.append(logits.max(1))
                sums.append(_log_sum_exp(logits))
            torch.logsumexp(torch.stack(sums), 0, out=result[rows])
            if likeliest is not None:
                best = torch.stack([top.values for top in tops]).argmax(0, keepdim=True)
                index = torch.stack([top.indices for top in tops]).gather(0, best)
                likeliest[rows] = (index + best * self._widths[0])[0]
        return result

    @torch.no_grad()
    def target_logit(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """The target's logit of each row: hidden (N, C), targets (N,) -> (N,) float32."""
        rows = self._weight[targets].float()
        logits = (hidden.to(self._weight.dtype).float() * rows).sum(1)
        return logits if self._cap is None else softcap(logits, self._cap)

    @torch.no_grad()
    def nll(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """-log p of each target, in nats: hidden (..., C), targets (...) int64 -> (...) float32, 0
        where the target is MASKED."""
        scored = targets != MASKED
        x, wanted = hidden[scored], targets[scored]
        result = torch.zeros(targets.shape, dtype=torch.float32, device=hidden.device)
        result[scored] = self.log_normalizer(x) - self.target_logit(x, wanted)
        return result


def _float_logits(logits: Tensor, width: int, cap: float | None) -> Tensor:
    """Logits (N, W) in float32, capped, those from column ``width`` on -inf."""
    logits = logits.float() if cap is None else softcap(logits.float(), cap)
    logits[:, width:] = float("-inf")
    return logits


def _log_sum_exp(logits: Tensor) -> Tensor:
    """Log-sum-exp of each row: logits (N, W) float32, overwritten, -> (N,) float32."""
    top = logits.amax(1)
    # max(softmax) = exp(top - logsumexp). One pass over the cached tile, and at least 1 / W.
    torch.softmax(logits, 1, out=logits)
    return top - logits.amax(1).log_()
