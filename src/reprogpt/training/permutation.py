"""A pseudo-random permutation of 0..n-1 in constant memory.

A Feistel network permutes the integers below the next power of four; a result outside 0..n-1 is
permuted again until it lies inside (Black and Rogaway, "Ciphers with Arbitrary Finite Domains").
"""

import hashlib

import numpy as np
from numpy.typing import NDArray

ROUNDS = 6


def draw(limit: int, *key: int | str) -> int:
    """A uniform integer in 0..limit-1, a function of ``key``. (Bias below limit / 2^128.)"""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=16).digest()
    return int.from_bytes(digest, "little") % limit


def permute(i: NDArray[np.int64], n: int, *key: int | str) -> NDArray[np.int64]:
    """Indices (k,) -> their images (k,) by the permutation of 0..n-1 that ``key`` selects."""
    half_bits = max(1, -(-(n - 1).bit_length() // 2))
    round_keys = [np.uint64(draw(2**64, *key, r)) for r in range(ROUNDS)]
    out = _network(i.astype(np.uint64), half_bits, round_keys)
    while (outside := out >= n).any():
        out[outside] = _network(out[outside], half_bits, round_keys)
    return out.astype(np.int64)


def _network(x: NDArray[np.uint64], half_bits: int, keys: list[np.uint64]) -> NDArray[np.uint64]:
    shift, low = np.uint64(half_bits), np.uint64((1 << half_bits) - 1)
    left, right = x >> shift, x & low
    for key in keys:
        left, right = right, left ^ (_mix(right ^ key) & low)
    return (left << shift) | right


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """splitmix64's finalizer (Steele, Lea and Flood, 2014): every input bit affects all."""
    with np.errstate(over="ignore"):
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
