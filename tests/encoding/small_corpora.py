"""Small raw corpora, configs for them, and shards read back by llm.c's format alone."""

from pathlib import Path

import numpy as np
import tiktoken

from reprogpt.config import RuntimeConfig, TokenizeConfig
from reprogpt.data.collect import Source, collect
from reprogpt.data.raw_text import Document, Meta, write_meta
from reprogpt.tokens.tokenizers import gpt2_tokenizer

EOT = 50256
ODD = [
    "", "a", "\n", "The quick brown fox.\n" * 40, "naïve café — “quotes” …", "🙂👨‍👩‍👧 " * 9,
    "\ud83d\ude00 pair, lone \ud800 and \udfff", "<|endoftext|> is text here", "\x00\x7f\ufeff",
    "日本語、" * 50, "tabs\t\tand\r\nlines\r\n", " " * 100, "x" * 3000, "1234567890" * 30,
]


def config(**values) -> TokenizeConfig:
    base = {"encoding": "gpt2", "shard_tokens": 1024, "split": "hash", "val_fraction": 0.3}
    return TokenizeConfig(**{**base, **values})


def runtime(**values) -> RuntimeConfig:
    return RuntimeConfig(**{"device": "cpu", "nproc": 1, "micro_batch": 1, "compile": False,
                            "workers": 1, "checkpoint_interval": 1, "launcher": "torchrun",
                            "resume": None, **values})


def raw(folder: Path, documents, part_bytes=1 << 20) -> Path:
    documents = [d if isinstance(d, Document) else Document(d) for d in documents]
    source = Source("test", "", lambda first: iter(documents[first:]))
    parts = collect([source], folder, part_bytes=part_bytes)
    write_meta(folder, Meta("test", "0", tuple(parts)))
    return folder


def parse_llmc(path: Path) -> np.ndarray:
    """A shard by llm.c's format alone: dev/data/data_common.py's header, then uint16."""
    data = path.read_bytes()
    head = np.frombuffer(data[:1024], np.int32)
    assert head[0] == 20240520
    assert head[1] == 1
    assert len(data) == 1024 + 2 * head[2]
    return np.frombuffer(data[1024:], np.uint16)


def stream(folder: Path, split: str) -> np.ndarray:
    files = sorted(folder.glob(f"{split}_*.bin"))
    return np.concatenate([parse_llmc(f) for f in files]) if files else np.zeros(0, np.uint16)


def documents_of(tokens: np.ndarray) -> list[np.ndarray]:
    return np.split(tokens, np.flatnonzero(tokens == EOT))[1:]


def repaired(text: str) -> str:
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def reference(text: str) -> list[int]:
    encoding = gpt2_tokenizer().encoding
    assert isinstance(encoding, tiktoken.Encoding)
    return [EOT, *encoding.encode_ordinary(text)]
