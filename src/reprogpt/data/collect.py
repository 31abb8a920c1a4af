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

    def take(self, documents: int, size: int) -> None:
        self.started = True
        self.bytes -= size
        self.documents -= documents

    def limit(self, documents: Iterator[Document]) -> Iterator[Document]:
        """The documents for which there is room, each taken from the budget."""
        for document in documents:
            size = 0
            if self.bytes < math.inf:  # else it is not measured, so that a long text is streamed
                data = bytearray()
                for text in document.texts():
                    data += utf8(text)
                    if len(data) > self.bytes:
                        if self.started:
                            self.bytes = 0
                            return
                        del data[int(self.bytes):]
                        self.shortened = True
                        break
                size = len(data)
                document = replace(document, text=data.decode("utf-8", "ignore"))
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
    row = 0
    documents: Iterator[Document] | None = None
    while not budget.spent:
        name = f"part_{number:06d}"
        key = json.dumps(["raw 2", source.identity, row, part_bytes])
        place = cache_dir() / "raw" / hashlib.sha256(key.encode()).hexdigest()
        cached = _read_cached(place) if source.identity else None
        part = cached.parts[0] if cached and cached.parts else None
        if part and (part.bytes > budget.bytes or part.documents > budget.documents):
            part = write_part(folder, name, budget.limit(read_part(place, part)))
        elif cached:
            documents = None
            if part:
                budget.take(part.documents, part.bytes)
                part = _link(place, part, folder, name)
        else:
            documents = documents or source.read(row)
            part = write_part(folder, name, budget.limit(documents), part_bytes)
            full = part is not None and part.bytes >= part_bytes
            # A part that the budget has ended is not kept.
            if source.identity and not budget.shortened and (full or not budget.spent):
                parts = (_link(folder, part, place, "part"),) if part else ()
                write_meta(place, Meta(source.name, source.identity, parts))
        if part:
            yield part
        if part is None or part.bytes < part_bytes:  # the source has no more
            return
        row += part.documents
        number += 1


def _read_cached(place: Path) -> Meta | None:
    """The corpus of one part, or of none, in the cache; None if there is none, or it is damaged."""
    try:
        meta = read_meta(place)
        for part in meta.parts:
            check_part(place, part)
    except ValueError:
        return None
    return meta


def _link(source: Path, part: Part, target: Path, name: str) -> Part:
    """Links a part's files into ``target`` under another name."""
    renamed = replace(part, name=name)
    for old, new in zip(part.files, renamed.files, strict=True):
        link_or_copy(source / old, target / new)
    return renamed
