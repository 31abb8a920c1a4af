"""Keyed dropout: the mask is a hash of the value's place, not a draw from a generator.

Whether a value is dropped depends on (seed, step, global row, layer, site, position, channel)
alone: the mask is the same for any micro-batch and any number of processes, and a resumed run
needs no generator state. The hash is a 32-bit xor-shift-multiply finalizer with constants found by
search (https://github.com/skeeto/hash-prospector); int32 wraps around alike on every device.
"""

import torch
from torch import Tensor

_M1, _M2 = 0x21F0AAAD, 0x735A2D97
_GOLDEN = 0x9E3779B9 - (1 << 32)  # 2^32 / phi, as int32: spreads consecutive integers apart


def mix(x: Tensor) -> Tensor:
    """The hash, a bijection on int32: x (...) -> (...)."""
    x = x ^ ((x >> 16) & 0xFFFF)  # the bit masks make the arithmetic shift a logical one
    x = x * _M1
    x = x ^ ((x >> 15) & 0x1FFFF)
    x = x * _M2
    return x ^ ((x >> 15) & 0x1FFFF)


def row_keys(seed: int, step: int, rows: Tensor) -> Tensor:
    """Dropout keys: rows (B,) int, indices into the global batch of ``step`` -> (B,) int32."""
    key = torch.zeros_like(rows, dtype=torch.int32)
    for part in (seed & 0x7FFFFFFF, seed >> 31 & 0x7FFFFFFF, step & 0x7FFFFFFF):
        key = mix((key + _GOLDEN) ^ part)
    return mix((key + _GOLDEN) ^ rows.to(torch.int32))


def site_keys(dropout_keys: Tensor | None, site: int) -> Tensor | None:
    """The keys of one place in the network: dropout_keys (B,) int32 of the rows -> (B,) int32."""
    return None if dropout_keys is None else mix((dropout_keys + _GOLDEN) ^ site)


def keep(index: Tensor, dropout_keys: Tensor, p: float) -> Tensor:
    """Which values remain when a fraction ``p`` is dropped: (B, ...) bool.

    index (...) int32: the values' places within a row; dropout_keys (B,) int32: of the site.
    """
    dropout_keys = dropout_keys.view(-1, *[1] * index.dim())
    # Changes no index. Without it torch's compiler multiplies the index symbolically, and its
    # Triton code then has constants beyond int32, which do not compile.
    index = index & 0x7FFFFFFF
    # A golden-ratio sequence that starts at the key, hashed: 31 uniform bits for each value.
    return mix(index * _GOLDEN + dropout_keys) & 0x7FFFFFFF >= int(p * 2**31)


def keyed_dropout(x: Tensor, dropout_keys: Tensor | None, p: float) -> Tensor:
    """x (B, ...) with a fraction ``p`` of the values set to 0 and the rest divided by 1 - p.

    dropout_keys (B,) int32 from site_keys; None: no dropout. A row has fewer than 2^31 values.
    """
    if dropout_keys is None or not p:
        return x
    within = torch.arange(x.shape[1:].numel(), dtype=torch.int32, device=x.device).view(x.shape[1:])
    return x * (keep(within, dropout_keys, p).to(x.dtype) * (1 / (1 - p)))
