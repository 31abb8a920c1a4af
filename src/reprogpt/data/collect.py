"""Documents from a corpus's sources to raw parts, each of which is also kept in the cache.

A cached part is found by what decides its content: the source's identity and the number of the
part's first document. So a run that was killed, or one that takes more of the same corpus, reads
nothing again but the part that was unfinished.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from tqdm import tqdm

from reprogpt.data.raw_text import (
    PART_BYTES,
    Document,
    Meta,
    Part,
    read_index,
    read_meta,
    read_part,
    read_spans,
    utf8,
    write_meta,
    write_part,
)
from reprogpt.storage.files import link_or_copy, sha256_of
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
        place = _cache_place(source, row, part_bytes)
        cached = _read_cached(place) if source.identity else None
        part = cached.parts[0] if cached and cached.parts else None
        if cached and part and not budget.covers(part):  # only its first documents
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
    """The folder for the part that begins with document ``row``: a raw corpus of at most one part.

    Its meta.json says whether it is the ``last`` of its source.
    """
    key = hashlib.sha256(json.dumps(["raw 1", source.identity, row, part_bytes]).encode())
    return cache_dir() / "raw" / key.hexdigest()


def _read_cached(place: Path) -> Meta | None:
    """The cached part, or None if there is none or it is damaged."""
    try:
        meta = read_meta(place)
        whole = meta.extra["last"] in (True, False)
        for part in meta.parts:
            index, _ = read_index(place, part), read_spans(place, part)
            whole &= (len(index) == part.documents and index[-1, 0] == part.bytes
                      and sha256_of(place / part.text) == part.sha256)
    except (ValueError, LookupError, TypeError):
        return None
    return meta if whole else None


def _link(source: Path, part: Part, target: Path, name: str) -> Part:
    """Links a part's files into ``target`` under another name."""
    renamed = replace(part, name=name)
    for old, new in zip(part.files, renamed.files, strict=True):
        link_or_copy(source / old, target / new)
    return renamed
