"""A model's parameters, counted as the two papers count them."""

from reprogpt.config import Config
from reprogpt.model.registry import build_model
from reprogpt.tokens.manifest import read_manifest
from scaling.runs import TOKENS


def parameters(cfg: Config) -> dict[str, float]:
    """`kaplan`: without embeddings (Kaplan et al., 2020); `chinchilla`: all of them (Hoffmann et
    al., 2022). An output matrix that is tied to the embedding counts with it."""
    model = build_model(cfg.model, int(read_manifest(TOKENS).tokenizer["n_vocab"]))
    total = model.num_parameters()
    embeddings = model.vocab_size * cfg.model.n_embd + cfg.model.block_size * cfg.model.n_embd
    return {"kaplan": float(total - embeddings), "chinchilla": float(total)}
