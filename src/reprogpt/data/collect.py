"""Sources of documents to raw parts, with every finished part kept in the cache.

A part is cached under what decides its content: the source's own identity and the number of its
first document. So a run that was killed, or one that takes more of the same corpus, fetches and
reads again nothing but the part it was in.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from tqdm import tqdm

from reprogpt.data.raw_text import PART_BYTES, Document, Part, PartWriter, read_part, utf8
from reprogpt.storage.files import link_or_copy, sha256_of, write_json
from reprogpt.storage.paths import cache_dir


@dataclass(frozen=True)
class Source:
    """One file of a corpus, or the like.

    ``identity`` names its content (a checksum, never a path or a date), and ``read(n)`` gives its
    documents from the n-th on. An empty ``identity`` means that it is made anew at every run.
    """

    name: str
    identity: str
    read: Callable[[int], Iterator[Document]]
    done: Callable[[], None] = lambda: None
    """Called when all its parts are in the cache."""


@dataclass
class Budget:
    """What is left of download.max_bytes and download.max_documents (None: no limit)."""

    bytes: int | None = None
    documents: int | None = None
    first: bool = True
    """Nothing was taken yet: a document that alone exceeds `bytes` is cut, not refused."""
    cut: bool = False
    """That has happened."""

    @property
    def spent(self) -> bool:
        return self.documents == 0 or self.bytes == 0

    def covers(self, part: Part) -> bool:
        return ((self.bytes is None or part.bytes <= self.bytes)
                and (self.documents is None or part.documents <= self.documents))

    def take(self, documents: int, size: int) -> None:
        self.first = False
        if self.bytes is not None:
            self.bytes -= size
        if self.documents is not None:
            self.documents -= documents

    def fit(self, document: Document) -> Document | None:
        """The document, if there is room for it; takes the room. None ends the corpus."""
        if self.spent:
            return None
        if self.bytes is None:  # not measured, so that a long text stays a stream
            self.take(1, 0)
            return document
        held, size = [], 0
        for text in document.texts():
            data = utf8(text)
            if size + len(data) > self.bytes:
                if not self.first:
                    self.bytes = 0
                    return None
                held.append(data[:self.bytes - size].decode("utf-8", "ignore"))
                size, self.cut = self.bytes, True
                break
            held.append(text)
            size += len(data)
        self.take(1, size)
        return replace(document, text="".join(held))


def collect(sources: Iterable[Source], folder: Path, budget: Budget | None = None,
            part_bytes: int = PART_BYTES) -> list[Part]:
    """Writes the documents of the sources, in order, as the parts of ``folder``.

    Takes whole documents as long as the budget covers them.
    """
    budget = budget or Budget()
    parts: list[Part] = []
    with tqdm(desc="raw text", total=budget.bytes, unit="B", unit_scale=True, delay=1) as bar:
        for source in sources:
            for part in _parts_of(source, folder, len(parts), budget, part_bytes):
                parts.append(part)
                bar.update(part.bytes)
            if budget.spent:
                break
    return parts


def _parts_of(source: Source, folder: Path, number: int, budget: Budget,
              part_bytes: int) -> Iterator[Part]:
    row = 0
    part: Part | None
    stream: Iterator[Document] | None = None
    while not budget.spent:
        name = f"part_{number:06d}"
        cached = _Cached(source, row, part_bytes)
        if cached.part and budget.covers(cached.part):
            part = cached.give(folder, name)
            budget.take(part.documents, part.bytes)
            stream, last = None, cached.last
        elif cached.part:  # too long for the budget: its first documents, without the source
            part, _ = _write(folder, name, read_part(cached.folder, cached.part), budget, None)
            last = True
        elif cached.last:
            source.done()
            return
        else:
            stream = stream or source.read(row)
            part, last = _write(folder, name, stream, budget, part_bytes)
            whole = part and part.bytes >= part_bytes and not budget.cut
            if last or whole:  # else the budget ended it
                cached.keep(folder, part, last)
        if part is not None:
            yield part
            row += part.documents
            number += 1
        if last:
            source.done()
        if last or part is None:
            return


def _write(folder: Path, name: str, documents: Iterator[Document], budget: Budget,
           part_bytes: int | None) -> tuple[Part | None, bool]:
    """One part (None if it would be empty), and whether the documents ended with it."""
    writer: PartWriter | None = None
    ended = False
    try:
        while not budget.spent and (writer is None or part_bytes is None
                                    or writer.bytes < part_bytes):
            document = next(documents, None)
            if document is None:
                ended = True
                break
            fitting = budget.fit(document)
            if fitting is None:
                break
            writer = writer or PartWriter(folder, name)
            writer.add(fitting)
        part, writer = (writer.close() if writer else None), None
        return part, ended
    finally:
        if writer:
            writer.abort()


class _Cached:
    """The place in the cache for the part of a source that begins at document ``row``."""

    def __init__(self, source: Source, row: int, part_bytes: int):
        key = json.dumps(["raw 1", source.identity, row, part_bytes])
        self.name = hashlib.sha256(key.encode()).hexdigest()
        self.folder = cache_dir() / "raw" / self.name[:2]
        self.record = self.folder / f"{self.name}.json"
        self.usable = bool(source.identity)
        self.part: Part | None = None
        self.last = False
        if self.usable and self.record.is_file():
            self._open()

    def _open(self) -> None:
        saved = json.loads(self.record.read_bytes())
        part = Part(**saved["part"]) if saved["part"] else None
        if part:
            text = self.folder / part.text
            if not text.is_file() or sha256_of(text) != part.sha256:
                self.record.unlink()  # damaged: made anew
                return
        self.part, self.last = part, saved["last"]

    def give(self, folder: Path, name: str) -> Part:
        assert self.part is not None
        renamed = replace(self.part, name=name)
        _link(self.folder, self.part, folder, renamed)
        return renamed

    def keep(self, folder: Path, part: Part | None, last: bool) -> None:
        if not self.usable:
            return
        renamed = replace(part, name=self.name) if part else None
        if part and renamed:
            _link(folder, part, self.folder, renamed)
        write_json(self.record, {"part": asdict(renamed) if renamed else None, "last": last})


def _link(source: Path, part: Part, target: Path, renamed: Part) -> None:
    link_or_copy(source / part.text, target / renamed.text)
    link_or_copy(source / part.index, target / renamed.index)
    if part.masked:
        link_or_copy(source / part.spans, target / renamed.spans)
