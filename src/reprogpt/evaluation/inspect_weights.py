"""A model's weights as in lecture 2: names and shapes of its tensors, and figures of a few."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from reprogpt.evaluation.plots import curves, image, render
from reprogpt.formats.huggingface import Weights, read_checked
from reprogpt.storage.files import write_bytes
from reprogpt.tokens.tokenizers import load_tokenizer

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CORNER = 300
"""Rows and columns of c_attn that are shown, as in the lecture."""


def inspect(folder: Path, out: Path, text: str) -> str:
    """Writes README.md and figures of the model in ``folder`` to ``out``; returns the page's text.

    ``text``: its tokens' embeddings are shown, if there is a tokenizer. Raises ValueError without
    a model.
    """
    weights = read_checked(folder)
    cfg, tensors = weights.cfg, weights.tensors
    parts = [f"# {folder}",
             f"{cfg.architecture}: {cfg.n_layer} layers, {cfg.n_head} heads, {cfg.n_embd} channels,"
             f" {cfg.block_size} positions, {weights.vocab_size:,} tokens; "
             f"{sum(t.numel() for t in tensors.values()):,} parameters in {len(tensors)} tensors.",
             "\n".join(["| tensor | shape | mean | std |", "|---|---|--:|--:|",
                        *(_row(name, t.float()) for name, t in tensors.items())])]
    written = "\n\n".join(parts)
    for name, figure in figures(weights, folder, text).items():
        title = figure.axes[0].get_title()
        write_bytes(out / name, render(figure, "svg" if name.endswith(".svg") else "png"))
        parts.append(f"![{title}]({name})")
    write_bytes(out / "README.md", ("\n\n".join(parts) + "\n").encode())
    return written


def _row(name: str, t: Tensor) -> str:
    std = f"{t.std():.4f} " if t.numel() > 1 else ""  # of one number there is none
    return f"| `{name}` | {tuple(t.shape)} | {t.mean():.4f} | {std}|"


def figures(weights: Weights, folder: Path, text: str) -> dict[str, "Figure"]:
    """By file name: position embeddings, embeddings of the tokens of ``text``, and a corner of an
    attention layer; without those that the model does not have."""
    found = {}
    if "wpe.weight" in weights.tensors:
        wpe = weights.tensors["wpe.weight"].float().numpy()  # (block_size, n_embd)
        found["positions.png"] = image(wpe, "Position embeddings (wpe)", "position", "channel")
        channels = sorted({wpe.shape[1] // part for part in (5, 4, 3)})
        found["channels.svg"] = curves({f"channel {c}": wpe[:, c] for c in channels},
                                       "Three channels of wpe", "position", "value")
    try:
        ids = load_tokenizer(folder).encode(text)[:12]
    except (OSError, ValueError):  # no tokenizer, or characters that it does not know
        ids = np.empty(0, np.uint16)
    if len(ids):
        wte = weights.tensors["wte.weight"].float().numpy()  # (n_vocab, n_embd)
        found["tokens.png"] = image(wte[ids], f"Embeddings (wte) of the tokens of {text!r}",
                                    "token", "channel")
    name = f"h.{min(1, weights.cfg.n_layer - 1)}.attn.c_attn.weight"
    if name in weights.tensors:
        corner = weights.tensors[name][:CORNER, :CORNER].float().numpy()
        found["attention.png"] = image(corner, f"{name}[:{CORNER}, :{CORNER}]", "row", "column")
    return found
