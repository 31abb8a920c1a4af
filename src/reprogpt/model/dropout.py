"""Dropout without a generator: the mask is an integer hash of where it falls.

Whether a value is dropped depends on (seed, step, global row, layer, site, position, channel)
and on nothing else, so the mask is the same on any micro-batch and any number of processes, a
resumed run needs no generator state, and evaluation cannot disturb training.

The hash is a 32-bit xor-shift-multiply finalizer (two rounds, Wellons' constants found by search:
https://github.com/skeeto/hash-prospector). Arithmetic is in int32 with wrap-around, which torch
defines identically on every device.
"""

import torch
from torch import Tensor

_M1, _M2 = 0x21F0AAAD, 0x735A2D97
_GOLDEN = 0x9E3779B9 - (1 << 32)  # 2^32 / phi, as int32: spreads consecutive integers apart


def mix(x: Tensor) -> Tensor:
    """A bijective avalanche on int32: x (...) -> (...), every input bit moves every output bit."""
    x = x ^ ((x >> 16) & 0xFFFF)  # the masks make the arithmetic shift a logical one
    x = x * _M1
    x = x ^ ((x >> 15) & 0x1FFFF)
    x = x * _M2
    return x ^ ((x >> 15) & 0x1FFFF)


def row_keys(seed: int, step: int, rows: Tensor) -> Tensor:
    """One key per row of the global batch: rows (B,) int -> (B,) int32.

    ``rows`` are indices into the *global* batch of ``step``, whoever computes them.
    """
    key = torch.zeros_like(rows, dtype=torch.int32)
    for part in (seed & 0x7FFFFFFF, seed >> 31 & 0x7FFFFFFF, step & 0x7FFFFFFF):
        key = mix((key + _GOLDEN) ^ part)
    return mix((key + _GOLDEN) ^ rows.to(torch.int32))


def site_keys(keys: Tensor, site: int) -> Tensor:
    """The keys (B,) of one place in the network, given the rows' keys (B,)."""
    return mix((keys + _GOLDEN) ^ site)


def keep(index: Tensor, keys: Tensor, p: float) -> Tensor:
    """Which values of each row stay when a share ``p`` is dropped: (B, ...) bool.

    index (...) int32: the values' places within a row; keys (B,) int32: see :func:`site_keys`.
    """
    keys = keys.view(-1, *[1] * index.dim())
    # A golden-ratio walk started at the key, then hashed: 31 uniform bits for each value.
    return mix(index * _GOLDEN + keys) & 0x7FFFFFFF >= int(p * 2**31)


def keyed_dropout(x: Tensor, keys: Tensor, p: float) -> Tensor:
    """x (B, ...) with a fraction ``p`` of the values zeroed and the rest scaled by 1/(1-p).

    ``keys`` (B,) int32 decide which; see :func:`site_keys`. Fewer than 2^31 values a row.
    """
    within = torch.arange(x.shape[1:].numel(), dtype=torch.int32, device=x.device).view(x.shape[1:])
    return x * (keep(within, keys, p).to(x.dtype) * (1 / (1 - p)))
