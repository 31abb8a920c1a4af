"""Loss and bits per byte of text files.

Every token is scored once; the first one only where the tokenizer has an <|endoftext|> before it.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from reprogpt.errors import ConfigError
from reprogpt.evaluation.validation import validation_loss
from reprogpt.model.gpt import GPT
from reprogpt.runtime.distributed import Process
from reprogpt.storage.files import TEXT_ENCODING
from reprogpt.storage.paths import matching
from reprogpt.tokens.tokenizers import Tokenizer


class TextStream:
    """A text as a validation.Stream: <|endoftext|> first, masked padding last."""

    def __init__(self, ids: np.ndarray, tokenizer: Tokenizer, block_size: int) -> None:
        tokens = ids if tokenizer.eot is None else np.insert(ids, 0, tokenizer.eot)
        targets = max(0, len(tokens) - 1)
        self.n_tokens = -(-targets // block_size) * block_size + 1
        self._tokens = np.pad(tokens, (0, self.n_tokens - len(tokens)))
        self._mask = (np.arange(self.n_tokens) < len(tokens)).astype(np.uint8)

    def read(self, start: int, count: int) -> np.ndarray:
        return self._tokens[start:start + count]

    def read_mask(self, start: int, count: int) -> np.ndarray | None:
        return self._mask[start:start + count]


def score_files(model: GPT, globs: Sequence[str], tokenizer: Tokenizer, process: Process,
                root: Path, at_once: int) -> dict[str, dict[str, Any]]:
    """For each file: loss, bits_per_byte, tokens, and the file's sha256.

    ``globs`` are relative to ``root``, or absolute. Raises ConfigError for a glob that matches
    nothing, and for a file that is empty, unreadable, not UTF-8, or not in the vocabulary.
    """
    scores = {}
    for name, path in matching("evaluate.suites.held_out", globs, root).items():
        key = f"params.yaml: evaluate.suites.held_out: {name}"
        try:
            raw = path.read_bytes()
            ids = tokenizer.encode(raw.decode(TEXT_ENCODING))
        except OSError as error:
            raise ConfigError(f"{key}: must be a readable file ({error.strerror}); change its "
                              "permissions") from None
        except ValueError as error:
            raise ConfigError(f"{key}: must be text that the model's tokenizer knows: {error}"
                              ) from None
        text = TextStream(ids, tokenizer, model.cfg.block_size)
        if text.n_tokens < 2:
            raise ConfigError(f"{key} is empty; remove it")
        found = validation_loss(model, text, tokenizer.token_bytes(), process, val_tokens=None,
                                block_size=model.cfg.block_size, at_once=at_once)
        scores[name] = {
            "loss": round(found.loss, 6), "bits_per_byte": round(found.bits_per_byte, 6),
            "tokens": found.tokens, "sha256": hashlib.sha256(raw).hexdigest(),
        }
    return scores
