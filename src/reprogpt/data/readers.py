"""Documents out of files: .txt .md .jsonl .json .parquet .csv, plain, .gz or .zst.

A text file is one document; the others hold one a row, in a named field. Nothing here knows where
the bytes come from: a reader is given a function that opens them, so files on this machine and on
the Hub go the same way.
"""

import codecs
import csv
import gzip
import io
import json
import re
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, cast

from reprogpt.data.raw_text import Document
from reprogpt.errors import ConfigError
from reprogpt.storage.paths import matching

Opener = Callable[[], BinaryIO]
COMPRESSED = (".gz", ".zst")
OUTS = ("data/raw", "data/tokens", "data/init", "data/hellaswag")
"""What the stages before training write: no text to learn from."""
_TEXT_CHUNK = 1 << 20
_ZSTD_CHUNK = 1 << 17  # of compressed bytes: some text expands a hundredfold
_ROWS = 64  # of a parquet file held at a time: its documents may be long


def find(patterns: list[str]) -> list[str]:
    """The files that match, by name; a folder stands for all in it. Raises ConfigError if none."""
    return [str(path) for path in matching("download.files", patterns, outs=OUTS).values()]


def kind_of(name: str) -> str | None:
    """The format of a file by its name: "jsonl" for a/b.jsonl.zst; None for one not read here."""
    suffixes = Path(name.lower()).suffixes
    if suffixes and suffixes[-1] in COMPRESSED:
        suffixes.pop()
    return _KINDS.get(suffixes[-1]) if suffixes else None


def read_file(name: str, opener: Opener, field: str, first: int = 0) -> Iterator[Document]:
    """The documents of a file from the ``first``-th on.

    Raises ConfigError, naming the file and the place in it, for what is not of its format, not
    UTF-8, or has no such ``field``.
    """
    kind = kind_of(name)
    if kind is None:
        raise ConfigError(f"{name}: is none of {', '.join(_KINDS)} (plain, .gz or .zst); convert "
                          "it, or leave it out of download.files")
    with opener() as file, _named(name):
        yield from _READERS[kind](name, _decompressed(name, file), field, first)


@contextmanager
def _named(name: str) -> Iterator[None]:
    try:
        yield
    except UnicodeDecodeError as error:
        raise ConfigError(f"{name}: is not UTF-8 ({error.reason}); convert it, e.g. with "
                          "iconv") from None
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise ConfigError(f"{name}: is damaged or cut short ({error}); get it again") from None


def _decompressed(name: str, file: BinaryIO) -> BinaryIO:
    suffix = Path(name.lower()).suffix
    if suffix == ".gz":
        return cast(BinaryIO, gzip.GzipFile(fileobj=file))
    if suffix == ".zst":
        return cast(BinaryIO, io.BufferedReader(_Zstd(file), _TEXT_CHUNK))
    return file


class _Zstd(io.RawIOBase):
    """Decompresses frame after frame, and notices (as zstandard's own reader does not) when the
    last one is cut short."""

    def __init__(self, file: BinaryIO):
        super().__init__()
        self._file, self._out = file, b""
        self._frame: Any = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        import zstandard

        while not self._out:
            data = self._file.read(_ZSTD_CHUNK)
            if not data:
                if self._frame is not None:
                    raise EOFError("the last zstandard frame is not complete")
                return 0
            while data:
                self._frame = self._frame or zstandard.ZstdDecompressor().decompressobj()
                try:
                    self._out += self._frame.decompress(data)
                except zstandard.ZstdError as error:
                    raise EOFError(str(error)) from None
                data = self._frame.unused_data if self._frame.eof else b""
                if self._frame.eof:
                    self._frame = None
        count = min(len(buffer), len(self._out))
        buffer[:count], self._out = self._out[:count], self._out[count:]
        return count


def _text(name: str, file: BinaryIO, field: str, first: int) -> Iterator[Document]:
    if first == 0:
        yield Document(_text_pieces(name, file))


def _text_pieces(name: str, file: BinaryIO) -> Iterator[str]:
    # utf-8-sig: a byte order mark says how the file is coded and is no part of the text. No
    # translation of line ends: the text is what is in the file.
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    with _named(name):  # pieces are asked for outside read_file
        while chunk := file.read(_TEXT_CHUNK):
            yield decoder.decode(chunk)
        yield decoder.decode(b"", final=True)


def _jsonl(name: str, file: BinaryIO, field: str, first: int) -> Iterator[Document]:
    rows = ((number, line) for number, line in enumerate(file, 1) if line.strip())
    for number, line in islice(rows, first, None):
        where = f"{name}, line {number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"{where}: is not JSON ({error}); correct it") from None
        yield Document(_field(where, row, field))


def _json(name: str, file: BinaryIO, field: str, first: int) -> Iterator[Document]:
    """One array of objects, or, as is common under this name too, one object a line."""
    data = file.read().removeprefix(codecs.BOM_UTF8)  # an array cannot be read in parts
    rest = io.BytesIO(data)
    if not re.match(rb"\s*\[", data):
        yield from _jsonl(name, rest, field, first)
        return
    try:
        rows = json.load(rest)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{name}: is not JSON ({error}); correct it") from None
    for number, row in islice(enumerate(rows, 1), first, None):
        yield Document(_field(f"{name}, row {number}", row, field))


def _csv(name: str, file: BinaryIO, field: str, first: int) -> Iterator[Document]:
    csv.field_size_limit(sys.maxsize)  # a document is longer than the default 128 kB
    lines = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
    try:
        reader = csv.DictReader(lines)
        if reader.fieldnames and field not in reader.fieldnames:
            raise ConfigError(_no_field(name, field, list(reader.fieldnames)))
        for number, row in islice(enumerate(reader, 1), first, None):
            yield Document(_field(f"{name}, row {number}", row, field))
    except csv.Error as error:
        raise ConfigError(f"{name}: is not CSV ({error}); correct it") from None


def _parquet(name: str, file: BinaryIO, field: str, first: int) -> Iterator[Document]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if Path(name.lower()).suffix in COMPRESSED:
        raise ConfigError(f"{name}: a parquet file is read in parts and cannot be compressed as a "
                          "whole; unpack it")
    try:
        table = pq.ParquetFile(file)
        if field not in table.schema_arrow.names:
            raise ConfigError(_no_field(name, field, table.schema_arrow.names))
        kind = table.schema_arrow.field(field).type
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)
                or pa.types.is_string_view(kind) or pa.types.is_null(kind)):
            raise ConfigError(_no_text(name, field, str(kind)))
        for group in range(table.num_row_groups):
            rows = table.metadata.row_group(group).num_rows
            if first >= rows:  # not read at all
                first -= rows
                continue
            for batch in table.iter_batches(_ROWS, [group], [field]):
                for text in batch.column(0).to_pylist()[first:]:
                    yield Document(text or "")
                first = max(0, first - len(batch))
    except (pa.ArrowInvalid, OSError) as error:
        if isinstance(error, OSError) and (type(error) is not OSError or error.errno):
            raise  # the disk's or the network's, not pyarrow's
        reason = " ".join(str(error).split())
        raise ConfigError(f"{name}: is not a whole parquet file ({reason}); get it again") from None


def _field(where: str, row: object, field: str) -> str:
    if not isinstance(row, dict) or field not in row:
        raise ConfigError(_no_field(where, field, list(row) if isinstance(row, dict) else []))
    text = row[field]
    if text is None:
        return ""
    if not isinstance(text, str):
        raise ConfigError(_no_text(where, field, type(text).__name__))
    return text


def _no_text(where: str, field: str, kind: str) -> str:
    return (f"{where}: the field {field!r} must be text, not {kind}; name another one in "
            "download.text_field (corpus hub: download.hub.text_field)")


def _no_field(where: str, field: str, names: list[str]) -> str:
    known = ", ".join(names) or "none"
    return (f"{where}: has no field {field!r} (there are: {known}); name the one with the text in "
            "download.text_field (corpus hub: download.hub.text_field)")


_KINDS = {".txt": "text", ".md": "text", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json",
          ".parquet": "parquet", ".csv": "csv"}
_READERS: dict[str, Callable[[str, BinaryIO, str, int], Iterator[Document]]] = {
    "text": _text, "jsonl": _jsonl, "json": _json, "csv": _csv, "parquet": _parquet,
}
