"""Raw text on disk: what `download` writes and `tokenize` reads.

A corpus is `meta.json` and parts of some 64 MB. A part is three files that any language opens:

- `part_000000.txt`: the UTF-8 text of its documents, one after the other, nothing in between;
- `part_000000.npy`: (documents, 2) int64: the byte where each ends; its split (0 none, 1, 2);
- `part_000000.spans.npy`, only in a corpus with masked targets: (spans, 3) int64: the document's
  number in this part, and the characters [start, end) of it that count as targets.

So a worker reads the bytes of its own documents and nothing else, and text crosses no pipe.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from reprogpt.storage.files import replacing, write_json

PART_BYTES = 64 << 20
META = "meta.json"
SPLITS = (None, "train", "val")


@dataclass(frozen=True)
class Document:
    """A text, and what its corpus knows about it.

    ``spans``: the characters [start, end) whose tokens count as targets; None means all.
    ``text``: whole, or, where it is too long for that, its pieces in order.
    ``split``: "train" or "val" when the corpus itself decides; None leaves it to tokenize.split.
    """

    text: str | Iterable[str]
    spans: tuple[tuple[int, int], ...] | None = None
    split: str | None = None

    def texts(self) -> Iterable[str]:
        """The text in pieces, in order."""
        return (self.text,) if isinstance(self.text, str) else self.text


@dataclass(frozen=True)
class Part:
    """One part of the raw text."""

    name: str
    documents: int
    bytes: int
    sha256: str
    masked: bool = False

    @property
    def text(self) -> str:
        return f"{self.name}.txt"

    @property
    def index(self) -> str:
        return f"{self.name}.npy"

    @property
    def spans(self) -> str:
        return f"{self.name}.spans.npy"


@dataclass(frozen=True)
class Meta:
    """meta.json: which corpus this is, and its parts."""

    corpus: str
    revision: str
    parts: tuple[Part, ...]
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def documents(self) -> int:
        return sum(part.documents for part in self.parts)

    @property
    def bytes(self) -> int:
        return sum(part.bytes for part in self.parts)

    @property
    def masked(self) -> bool:
        return any(part.masked for part in self.parts)


def write_meta(folder: Path, meta: Meta) -> None:
    """Writes meta.json: the last thing of a download, since it vouches for the parts."""
    sums = {"documents": meta.documents, "bytes": meta.bytes}
    write_json(folder / META, {"version": 1, **asdict(meta), **sums})


def read_meta(folder: Path) -> Meta:
    """Reads meta.json. Raises ValueError when it is missing, not ours, or a part's size differs."""
    path = Path(folder) / META
    try:
        values = json.loads(path.read_bytes())
        if values.pop("version") != 1:
            raise ValueError("another version")
        parts = tuple(Part(**part) for part in values.pop("parts"))
        meta = Meta(values["corpus"], values["revision"], parts, values["extra"])
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist; run the stage download") from None
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: is no raw corpus ({error}); run the stage download "
                         "again") from None
    for part in parts:
        file = Path(folder) / part.text
        if not file.is_file() or file.stat().st_size != part.bytes:
            raise ValueError(f"{file}: must have {part.bytes} bytes; run the stage download again")
    return meta


class PartWriter:
    """Fills one part, document by document; nothing has its name before ``close``."""

    def __init__(self, folder: Path, name: str):
        self.folder, self.name = folder, name
        self.bytes = 0
        self._rows: list[tuple[int, int]] = []
        self._spans: list[tuple[int, int, int]] = []
        self._masked = False
        self._hash = hashlib.sha256()
        self._scope = replacing(folder / f"{name}.txt")
        self._file = self._scope.__enter__().open("wb")

    @property
    def documents(self) -> int:
        return len(self._rows)

    def add(self, document: Document) -> None:
        for text in document.texts():
            data = utf8(text)
            self._file.write(data)
            self._hash.update(data)
            self.bytes += len(data)
        number = len(self._rows)
        self._rows.append((self.bytes, SPLITS.index(document.split)))
        if document.spans is not None:
            self._masked = True
            self._spans += [(number, start, end) for start, end in document.spans]
        assert (document.spans is not None) == self._masked, "spans for all documents, or none"

    def close(self) -> Part:
        self._file.close()
        self._scope.__exit__(None, None, None)
        part = Part(self.name, len(self._rows), self.bytes, self._hash.hexdigest(), self._masked)
        _save(self.folder / part.index, np.array(self._rows, np.int64).reshape(-1, 2))
        if self._masked:
            _save(self.folder / part.spans, np.array(self._spans, np.int64).reshape(-1, 3))
        return part

    def abort(self) -> None:
        """Leaves nothing behind."""
        self._file.close()
        Path(self._file.name).unlink(missing_ok=True)


def read_index(folder: Path, part: Part) -> np.ndarray:
    """(documents, 2) int64: end byte and split of each document of a part."""
    index: np.ndarray = np.load(folder / part.index)
    return index


def read_spans(folder: Path, part: Part) -> np.ndarray | None:
    """(spans, 3) int64: document, start and end character; None when the part has no mask."""
    if not part.masked:
        return None
    spans: np.ndarray = np.load(folder / part.spans)
    return spans


def read_part(folder: Path, part: Part) -> Iterator[Document]:
    """The documents of one part, in order."""
    index, spans = read_index(folder, part), read_spans(folder, part)
    start = 0
    with (folder / part.text).open("rb") as file:
        for number, (end, split) in enumerate(index.tolist()):
            text = file.read(end - start).decode("utf-8")
            start = end
            own = None
            if spans is not None:
                rows = spans[np.searchsorted(spans[:, 0], number):]
                rows = rows[:np.searchsorted(rows[:, 0], number, "right"), 1:]
                own = tuple((a, b) for a, b in rows.tolist())
            yield Document(text, own, SPLITS[split])


def read_documents(folder: Path, meta: Meta) -> Iterator[Document]:
    """Every document of a corpus, in order."""
    for part in meta.parts:
        yield from read_part(folder, part)


def utf8(text: str) -> bytes:
    """The text as UTF-8, its surrogates repaired as tiktoken does."""
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError:  # surrogates: pairs are joined, lone ones become U+FFFD
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode("utf-8")


def _save(path: Path, array: np.ndarray) -> None:
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.save(file, array)
        file.flush()
        os.fsync(file.fileno())
