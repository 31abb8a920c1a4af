"""File formats of token shards: llm.c's `.bin`, and build-nanogpt's `.npy`.

A `.bin` is a header of 256 int32 (magic 20240520, version 1, number of tokens, zeros), followed by
the tokens as little-endian uint16 (karpathy/llm.c, dev/data/data_common.py).
"""

from pathlib import Path

import numpy as np

from reprogpt.errors import ConfigError

MAGIC, VERSION = 20240520, 1
HEADER_BYTES = 256 * 4
TOKEN_BYTES = 2
SUFFIXES = (".bin", ".npy")


def header(tokens: int) -> bytes:
    """The header of a `.bin` of ``tokens`` tokens."""
    return np.array([MAGIC, VERSION, tokens] + [0] * 253, "<i4").tobytes()


def open_tokens(path: Path) -> np.ndarray:
    """Memory-maps the tokens of a shard in either format: (n,) uint16.

    Raises ConfigError, naming the file, when it is damaged or in another format.
    """
    if path.suffix == ".npy":
        try:
            array: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
        except (ValueError, EOFError, OSError) as error:
            raise ConfigError(f"{path}: is not a complete .npy file ({error}); fetch it again"
                              ) from None
        if array.dtype != np.uint16 or array.ndim != 1:
            raise ConfigError(f"{path}: must be a one-dimensional array of uint16, not "
                              f"{array.dtype} of shape {array.shape}; convert it")
        return array
    head = np.fromfile(path, "<i4", 256)
    if len(head) < 256 or head[0] != MAGIC or head[1] != VERSION:
        raise ConfigError(f"{path}: does not begin with llm.c's header (magic {MAGIC}, version "
                          f"{VERSION}); it is not a shard of GPT-2 tokens")
    size, expected = path.stat().st_size, HEADER_BYTES + TOKEN_BYTES * int(head[2])
    if size != expected:
        raise ConfigError(f"{path}: has {size} bytes, but the {head[2]} tokens in its header take "
                          f"{expected}; fetch it again")
    return np.memmap(path, "<u2", "r", HEADER_BYTES, (int(head[2]),))
