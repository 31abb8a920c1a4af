"""Documents from a corpus's sources to raw parts, each of which is also kept in the cache.

A run that was killed, or one that takes more of the same corpus, reads nothing again but the part
that was unfinished.
"""

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from reprogpt.data.raw_text import (
    PART_BYTES,
    Document,
    Meta,
    Part,
    check_part,
    read_meta,
    read_part,
    utf8,
    write_meta,
    write_part,
)
from reprogpt.runtime.progress import progress
from reprogpt.storage.files import link_or_copy
from reprogpt.storage.paths import cache_dir


@dataclass(frozen=True)
class Source:
    """Documents in a fixed order, such as those of one file."""

    name: str
    identity: str
    """What decides the content (a checksum, never a path or a date); empty means not cached."""
    read: Callable[[int], Iterator[Document]]
    """``read(n)`` gives the documents from number n on."""


@dataclass
class Budget:
    """What is left of download.max_bytes and download.max_documents."""

    bytes: float = math.inf
    documents: float = math.inf
    started: bool = False
    """Something was taken. The first document is shortened to fit `bytes`; a later one ends it."""
    shortened: bool = False
    """The first document was shortened."""

    @property
    def spent(self) -> bool:
        return 0 in (self.bytes, self.documents)

    def covers(self, part: Part) -> bool:
        return part.bytes <= self.bytes and part.documents <= self.documents

    def take(self, documents: int, size: int) -> None:
        self.started = True
        self.bytes -= size
        self.documents -= documents

    def limit(self, documents: Iterator[Document]) -> Iterator[Document]:
        """The documents for which there is room, each taken from the budget."""
        for document in documents:
            size = 0
            if self.bytes < math.inf:  # else it is not measured, so that a long text is streamed
                held = []
                for data in map(utf8, document.texts()):
                    held.append(data)
                    size += len(data)
                    if size > self.bytes:
                        break
                if size > self.bytes:
                    if self.started:
                        self.bytes = 0
                        return
                    size, self.shortened = int(self.bytes), True
                text = b"".join(held)[:size].decode("utf-8", "ignore")
                document = replace(document, text=text)
            self.take(1, size)
            yield document
            if self.spent:
                return


def collect(sources: Iterable[Source], folder: Path, budget: Budget | None = None,
            part_bytes: int = PART_BYTES, first: int = 0) -> list[Part]:
    """Writes the documents of the sources, in order, as parts ``first`` and following."""
    budget = budget or Budget()
    parts: list[Part] = []
    with progress(desc="raw text", total=budget.bytes, unit="B", unit_scale=True, delay=1) as bar:
        for source in sources:
            for part in _parts_of(source, folder, first + len(parts), budget, part_bytes):
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
        place = _cache_place(source, row, part_bytes)
        cached = _read_cached(place) if source.identity else None
        part = cached.parts[0] if cached and cached.parts else None
        if part and not budget.covers(part):  # only its first documents
            part, last = write_part(folder, name, budget.limit(read_part(place, part))), True
        elif cached:
            last, documents = cached.extra["last"], None
            if part:
                budget.take(part.documents, part.bytes)
                part = _link(place, part, folder, name)
        else:
            documents = documents or source.read(row)
            part = write_part(folder, name, budget.limit(documents), part_bytes)
            whole = part is not None and part.bytes >= part_bytes and not budget.shortened
            last = not whole
            # A part that the budget has ended is not kept.
            if source.identity and (whole or not budget.spent):
                parts = (_link(folder, part, place, "part"),) if part else ()
                write_meta(place, Meta(source.name, source.identity, parts, {"last": last}))
        if part:
            yield part
            row += part.documents
            number += 1


def _cache_place(source: Source, row: int, part_bytes: int) -> Path:
    """The folder for the part that begins with document ``row``: a corpus of at most one part."""
    key = hashlib.sha256(json.dumps(["raw 2", source.identity, row, part_bytes]).encode())
    return cache_dir() / "raw" / key.hexdigest()


def _read_cached(place: Path) -> Meta | None:
    """The cached part, or None if there is none or it is damaged."""
    try:
        meta = read_meta(place)
        whole = meta.extra["last"] in (True, False)
        for part in meta.parts:
            check_part(place, part)
    except (ValueError, LookupError, TypeError):
        return None
    return meta if whole else None


def _link(source: Path, part: Part, target: Path, name: str) -> Part:
    """Links a part's files into ``target`` under another name."""
    renamed = replace(part, name=name)
    for old, new in zip(part.files, renamed.files, strict=True):
        link_or_copy(source / old, target / new)
    return renamed
