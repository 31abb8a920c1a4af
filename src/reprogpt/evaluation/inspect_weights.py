"""A checkpoint as lecture 2 looks at it: names, shapes, and a few tensors as pictures."""

from pathlib import Path

import numpy as np
from torch import Tensor

from reprogpt.evaluation.plots import curves, grey
from reprogpt.formats.huggingface import Weights, read_weights
from reprogpt.storage.files import write_bytes
from reprogpt.tokens.tokenizers import load_tokenizer

CORNER = 300
"""Rows and columns of a large matrix that are shown, as in the lecture."""


def inspect(folder: Path, out: Path, text: str) -> str:
    """Describes the model in ``folder``; writes pictures and README.md to ``out``.

    ``text``: its tokens' embeddings are shown, if the folder has a tokenizer. Returns the page.
    Raises ValueError for a folder that holds no model.
    """
    weights = read_weights(folder)
    parts = [f"# {folder}", _summary(weights), _table(weights)]
    for name, title, picture in [*_positions(weights), *_tokens(weights, folder, text),
                                 *_attention(weights)]:
        write_bytes(out / name, picture)
        parts.append(f"## {title}\n\n![{title}]({name})")
    page = "\n\n".join(parts) + "\n"
    write_bytes(out / "README.md", page.encode())
    return page


def _summary(weights: Weights) -> str:
    cfg = weights.cfg
    count = sum(t.numel() for t in weights.tensors.values())
    return (f"{cfg.architecture}: {cfg.n_layer} layers, {cfg.n_head} heads, {cfg.n_embd} channels, "
            f"{cfg.block_size} positions, {weights.vocab_size:,} tokens; {count:,} parameters in "
            f"{len(weights.tensors)} tensors.")


def _table(weights: Weights) -> str:
    rows = [f"| `{name}` | {tuple(t.shape)} | {t.float().mean():.4f} | {t.float().std():.4f} |"
            if t.numel() > 1 else f"| `{name}` | {tuple(t.shape)} | {float(t):.4f} | |"
            for name, t in weights.tensors.items()]
    return "\n".join(["| tensor | shape | mean | std |", "|---|---|--:|--:|", *rows])


Picture = tuple[str, str, bytes]


def _positions(weights: Weights) -> list[Picture]:
    if "wpe.weight" not in weights.tensors:
        return []
    table = _array(weights.tensors["wpe.weight"])  # (positions, channels)
    columns = sorted({table.shape[1] // part for part in (5, 4, 3)})
    drawn = curves({f"channel {c}": table[:, c].tolist() for c in columns})
    return [("positions.png", "Position embeddings: a row a position", grey(table)),
            ("channels.svg", "Three channels of them along the positions", drawn.encode())]


def _tokens(weights: Weights, folder: Path, text: str) -> list[Picture]:
    try:
        ids = load_tokenizer(folder).encode(text)[:12]
    except (OSError, ValueError):  # no tokenizer, or it has not these characters
        return []
    if not len(ids):
        return []
    shown = grey(_array(weights.tensors["wte.weight"])[ids], 8)
    return [("tokens.png", f"Embeddings of the tokens of {text!r}: a row a token", shown)]


def _attention(weights: Weights) -> list[Picture]:
    layer = min(1, weights.cfg.n_layer - 1)
    name = f"h.{layer}.attn.c_attn.weight"
    if name not in weights.tensors:
        return []
    corner = _array(weights.tensors[name])[:CORNER, :CORNER]
    return [("attention.png", f"{name}: its first {CORNER} rows and columns", grey(corner))]


def _array(tensor: Tensor) -> np.ndarray:
    values: np.ndarray = tensor.detach().float().numpy()
    return values
