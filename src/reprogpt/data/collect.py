"""Documents from a corpus's sources to raw parts, each of which is also kept in the cache.

A cached part is found by what decides its content: the source's identity and the number of the
part's first document. So a run that was killed, or one that takes more of the same corpus, reads
nothing again but the part that was unfinished.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from tqdm import tqdm

from reprogpt.data.raw_text import PART_BYTES, Document, Part, read_part, utf8, write_part
from reprogpt.storage.files import link_or_copy, sha256_of, write_json
from reprogpt.storage.paths import cache_dir


@dataclass(frozen=True)
class Source:
    """Documents in a fixed order: those of one file of a corpus, or the like."""

    name: str
    identity: str
    """What decides the content (a checksum, never a path or a date); empty means not cached."""
    read: Callable[[int], Iterator[Document]]
    """``read(n)`` gives the documents from number n on."""


@dataclass
class Budget:
    """What is left of download.max_bytes and download.max_documents (None: no limit)."""

    bytes: int | None = None
    documents: int | None = None
    started: bool = False
    """Something was taken. The first document is shortened to fit `bytes`; a later one ends it."""
    shortened: bool = False
    """The first document was shortened."""

    @property
    def spent(self) -> bool:
        return self.documents == 0 or self.bytes == 0

    def covers(self, part: Part) -> bool:
        return ((self.bytes is None or part.bytes <= self.bytes)
                and (self.documents is None or part.documents <= self.documents))

    def take(self, documents: int, size: int) -> None:
        self.started = True
        if self.bytes is not None:
            self.bytes -= size
        if self.documents is not None:
            self.documents -= documents

    def limit(self, documents: Iterator[Document]) -> Iterator[Document]:
        """The documents for which there is room, each taken from the budget."""
        while not self.spent:
            document = next(documents, None)
            if document is None:
                return
            size = 0
            if self.bytes is not None:  # else it is not measured, so that a long text is streamed
                held = []
                for data in map(utf8, document.texts()):
                    held.append(data[:self.bytes - size])
                    size += len(data)
                    if size > self.bytes:
                        break
                if size > self.bytes:
                    if self.started:
                        self.bytes = 0
                        return
                    size, self.shortened = self.bytes, True
                document = replace(document, text=b"".join(held).decode("utf-8", "ignore"))
            self.take(1, size)
            yield document


def collect(sources: Iterable[Source], folder: Path, budget: Budget | None = None,
            part_bytes: int = PART_BYTES) -> list[Part]:
    """Writes the documents of the sources, in order, as parts in ``folder``.

    Ends with the last document that the budget covers whole.
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
    """Writes the parts of one source; ``number`` is that of the first of them."""
    row, last = 0, False
    documents: Iterator[Document] | None = None
    while not last and not budget.spent:
        name = f"part_{number:06d}"
        entry = _CacheEntry(source, row, part_bytes)
        cached = entry.read()
        if cached and (cached.part is None or budget.covers(cached.part)):
            part, last, documents = cached.part, cached.last, None
            if part:
                budget.take(part.documents, part.bytes)
                part = _link(entry.folder, part, folder, name)
        elif cached and cached.part:  # more than the budget: its first documents
            part, last = write_part(folder, name, budget.limit(
                read_part(entry.folder, cached.part))), True
        else:
            documents = documents or source.read(row)
            part = write_part(folder, name, budget.limit(documents), part_bytes)
            whole = part is not None and part.bytes >= part_bytes and not budget.shortened
            last = not whole
            if whole or not budget.spent:  # a part that the budget has ended is not kept
                entry.write(folder, part, last)
        if part:
            yield part
            row += part.documents
            number += 1


@dataclass(frozen=True)
class _Cached:
    part: Part | None
    last: bool
    """The source has no documents after it."""


class _CacheEntry:
    """The place in the cache for the part of a source that begins with document ``row``."""

    def __init__(self, source: Source, row: int, part_bytes: int):
        key = json.dumps(["raw 1", source.identity, row, part_bytes])
        self.name = hashlib.sha256(key.encode()).hexdigest()
        self.folder = cache_dir() / "raw" / self.name[:2]
        self.record = self.folder / f"{self.name}.json"
        self.enabled = bool(source.identity)

    def read(self) -> _Cached | None:
        """The entry, or None if it is missing or its text is damaged."""
        if not self.enabled or not self.record.is_file():
            return None
        saved = json.loads(self.record.read_bytes())
        part = Part(**saved["part"]) if saved["part"] else None
        if part:
            text = self.folder / part.text
            if not text.is_file() or sha256_of(text) != part.sha256:
                return None
        return _Cached(part, saved["last"])

    def write(self, folder: Path, part: Part | None, last: bool) -> None:
        if self.enabled:
            kept = _link(folder, part, self.folder, self.name) if part else None
            write_json(self.record, {"part": asdict(kept) if kept else None, "last": last})


def _link(source: Path, part: Part, target: Path, name: str) -> Part:
    """Links a part's files into ``target`` under another name."""
    renamed = replace(part, name=name)
    for old, new in zip(part.files, renamed.files, strict=True):
        link_or_copy(source / old, target / new)
    return renamed
