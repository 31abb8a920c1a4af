"""Raw text on disk: what the stage download writes and the stage tokenize reads.

A corpus is a folder of `meta.json` and parts of some 64 MB. A part is up to three files:

- `part_000000.txt`: the UTF-8 text of its documents, one after the other, nothing in between;
- `part_000000.npy`: (documents, 2) int64: the byte where each ends; its split (0 none, 1 train,
  2 val);
- `part_000000.spans.npy`, only in a corpus with masked targets: (spans, 3) int64: the document's
  number in this part, and the characters [start, end) of it that count as targets.
"""

import hashlib
import io
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from reprogpt.storage.files import CHUNK, read_record, replacing, write_bytes, write_json

PART_BYTES = 64 << 20
META = "meta.json"
SPLITS = (None, "train", "val")


@dataclass(frozen=True)
class Document:
    """A text, and what its corpus knows about it."""

    text: str | Iterable[str]
    """The whole text, or, where it may be long, consecutive chunks of it."""
    spans: tuple[tuple[int, int], ...] | None = None
    """The characters [start, end) whose tokens count as targets; None means all."""
    split: str | None = None
    """"train" or "val" if the corpus itself decides; None leaves it to tokenize.split."""

    def texts(self) -> Iterable[str]:
        """The text in chunks, in order."""
        return (self.text,) if isinstance(self.text, str) else self.text


@dataclass(frozen=True)
class Part:
    """One part of the raw text, as meta.json lists it; ``sha256`` is that of its files."""

    name: str
    documents: int
    bytes: int
    sha256: str
    """Of its text."""
    masked: bool = False

    @property
    def text(self) -> str:
        return f"{self.name}.txt"

    @property
    def files(self) -> list[str]:
        """Text, ends and splits, and spans if it is masked."""
        return [f"{self.name}{end}" for end in (".txt", ".npy", ".spans.npy")[:2 + self.masked]]


@dataclass(frozen=True)
class Meta:
    """meta.json: the corpus's name and version, and its parts."""

    corpus: str
    revision: str
    parts: tuple[Part, ...]
    extra: dict[str, Any] = field(default_factory=dict)
    version: Literal[1] = 1

    @property
    def documents(self) -> int:
        return sum(part.documents for part in self.parts)

    @property
    def bytes(self) -> int:
        return sum(part.bytes for part in self.parts)

    @property
    def masked(self) -> bool:
        return any(part.masked for part in self.parts)

    def corpora(self) -> dict[str, "Meta"]:
        """The corpora of a mixture by name, or this one alone."""
        if "mix" not in self.extra:
            return {self.corpus: self}
        rest = iter(self.parts)
        return {name: Meta(name, self.revision, tuple(itertools.islice(rest, parts)))
                for name, parts in self.extra["mix"].items()}


def mixture(metas: dict[str, Meta]) -> Meta:
    """The corpora of a mixture, whose parts are numbered on, as one. Its weights are not in it."""
    revision = "; ".join(f"{name}: {meta.corpus} {meta.revision}" for name, meta in metas.items())
    return Meta("mix", revision, tuple(part for meta in metas.values() for part in meta.parts),
                {"mix": {name: len(meta.parts) for name, meta in metas.items()}})


def write_meta(folder: Path, meta: Meta) -> None:
    """Writes meta.json, last of all, since it says that the parts are complete."""
    write_json(folder / META,
               asdict(meta) | {"documents": meta.documents, "bytes": meta.bytes})


def read_meta(folder: Path) -> Meta:
    """Raises ValueError when meta.json is missing or damaged."""
    return read_record(folder / META, Meta, "a raw corpus", "download")


def write_part(folder: Path, name: str, documents: Iterator[Document],
               limit: int | None = None) -> Part | None:
    """Writes documents as one part, up to the one that makes it ``limit`` bytes; None for none."""
    first = next(documents, None)
    if first is None:
        return None
    masked = first.spans is not None
    size = 0
    index: list[tuple[int, int]] = []
    spans: list[tuple[int, int, int]] = []
    with replacing(folder / f"{name}.txt") as temporary, temporary.open("wb") as out:
        for number, document in enumerate(itertools.chain([first], documents)):
            size += sum(out.write(utf8(text)) for text in document.texts())
            index.append((size, SPLITS.index(document.split)))
            assert (document.spans is not None) == masked, "spans for all documents, or for none"
            spans += [(number, start, end) for start, end in document.spans or ()]
            if limit is not None and size >= limit:
                break
    part = Part(name, len(index), size, "", masked)
    for file, rows, columns in zip(part.files[1:], (index, spans), (2, 3), strict=False):
        data = io.BytesIO()  # into a file numpy writes past Python, and hides why that fails
        np.save(data, np.array(rows, np.int64).reshape(-1, columns))
        write_bytes(folder / file, data.getvalue())
    return replace(part, sha256=_sha256_of(folder, part))


def check_part(folder: Path, part: Part) -> None:
    """Raises ValueError unless a part's files, one after the other, have its sha256."""
    try:
        sha256 = _sha256_of(folder, part)
    except OSError as error:
        raise ValueError(f"{error.filename}: {error.strerror}; run the stage download "
                         "again") from None
    index = read_index(folder, part)
    told = len(index) == part.documents and index[-1:, 0].tolist() == [part.bytes]
    if not told or sha256 != part.sha256:
        raise ValueError(f"{folder}: {' or '.join(part.files)} is damaged: not what {META} says of "
                         f"it; remove {folder} and run the stage download again")


def _sha256_of(folder: Path, part: Part) -> str:
    digest = hashlib.sha256()
    for name in part.files:
        with (folder / name).open("rb") as file:
            while data := file.read(CHUNK):
                digest.update(data)
    return digest.hexdigest()


def read_index(folder: Path, part: Part) -> np.ndarray:
    """(documents, 2) int64: end byte and split of each document of a part. Raises ValueError."""
    return _load(folder / part.files[1], 2)


def read_spans(folder: Path, part: Part) -> np.ndarray | None:
    """(spans, 3) int64: document, start and end character; None for no mask. Raises ValueError."""
    return _load(folder / part.files[2], 3) if part.masked else None


def _load(path: Path, columns: int) -> np.ndarray:
    try:
        array: np.ndarray = np.load(path)
        if array.dtype != np.int64 or array.shape[1:] != (columns,):
            raise ValueError(f"it holds {array.dtype} of shape {array.shape}")
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"{path}: is damaged or gone ({error}); run the stage download "
                         "again") from None
    return array


def read_part(folder: Path, part: Part) -> Iterator[Document]:
    """The documents of one part, in order."""
    index, spans = read_index(folder, part), read_spans(folder, part)
    start = 0
    with (folder / part.text).open("rb") as file:
        for number, (end, split) in enumerate(index.tolist()):
            text = file.read(end - start).decode("utf-8")
            start = end
            own = None
            if spans is not None:  # sorted by document
                a, b = np.searchsorted(spans[:, 0], [number, number + 1])
                own = tuple((first, last) for first, last in spans[a:b, 1:].tolist())
            yield Document(text, own, SPLITS[split])


def utf8(text: str) -> bytes:
    """UTF-8 of a text. As in tiktoken, surrogate pairs are joined and lone ones become U+FFFD."""
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode("utf-8")
