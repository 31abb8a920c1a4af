"""Readers: files of text to documents.

.txt and .md are one document each; .jsonl, .ndjson, .json, .csv, .tsv and .parquet hold one a row,
in a named field. All but .parquet may be compressed (.gz, .bz2, .xz, .zst).
"""

import bz2
import codecs
import csv
import gzip
import io
import json
import lzma
import os
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, cast

from reprogpt.data.raw_text import Document
from reprogpt.errors import ConfigError
from reprogpt.storage.files import TEXT_ENCODING
from reprogpt.storage.paths import matching
from reprogpt.tokens.shard_format import SUFFIXES as SHARDS

Row = tuple[str, Any]
"""Where a row is, for messages, and the row: a mapping from field to value."""
COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
OUTS = ("data/raw", "data/tokens", "data/init", "data/hellaswag")
"""What the stages before training write, which nobody means to train on."""
LARGEST_ARRAY = 4 << 30
"""Bytes of a .json array, which is parsed as a whole."""
LARGEST_CELL = 1 << 30
"""Bytes of a cell of a .csv: a document is longer than the default of 128 kB."""
_TEXT_CHUNK = 1 << 20
_ROWS = 64
"""Rows of a parquet file in memory at a time: documents may be long."""


def find(patterns: list[str], corpus: str = "files") -> tuple[dict[str, Path], list[str]]:
    """The files that download.files matches (name -> path), and the names of those of other kinds.

    ``corpus`` decides the kinds: `shards` of tokens, or text. Raises ConfigError for a pattern that
    matches no file, and for a file of another kind that is named without a glob.
    """
    shards = corpus == "shards"
    kinds = SHARDS if shards else (*_KINDS, *COMPRESSED)
    found = matching("download.files", patterns, outs=OUTS)
    others = [name for name in found if not (name.endswith(SHARDS) if shards else kind_of(name))]
    named = {str(Path(os.path.expanduser(pattern))) for pattern in patterns}  # noqa: PTH111
    for name in others:
        if name in named:
            raise ConfigError(f"params.yaml: download.files: {name!r} must be one of "
                              f"{' '.join(kinds)}; convert it, or leave it out")
    if len(others) == len(found):
        raise ConfigError(f"params.yaml: download.files={patterns} matches no file that can be "
                          f"read ({' '.join(kinds)}); correct the globs")
    return {name: path for name, path in found.items() if name not in others}, others


def kind_of(name: str) -> str | None:
    """The format of a file by its name: "jsonl" for a/b.jsonl.zst; None for one not read here."""
    suffixes = Path(name.lower()).suffixes
    if suffixes and suffixes[-1] in COMPRESSED:
        suffixes.pop()
    return _KINDS.get(suffixes[-1]) if suffixes else None


def read_file(name: str, opener: Callable[[], BinaryIO], field: str,
              first: int = 0) -> Iterator[Document]:
    """The documents of a file, from number ``first`` on. ``opener`` opens it, here or on the Hub.

    Raises ConfigError, naming the file and the row, for what is damaged, not of its format, not
    UTF-8, or lacks the ``field``.
    """
    kind = kind_of(name)
    assert kind, f"{name}: find() has left out the files that are not read"
    decompress = _DECOMPRESSORS.get(Path(name.lower()).suffix, lambda file: file)
    with opener() as file, _named_errors(name):
        if kind == "text":
            yield from islice([Document(_text(name, decompress(file)))], first, None)
        elif kind == "parquet":
            yield from _parquet(name, file, field, first)
        else:
            for where, row in islice(_ROW_READERS[kind](name, decompress(file)), first, None):
                yield Document(_field(where, row, field))


@contextmanager
def _named_errors(name: str) -> Iterator[None]:
    """Turns the errors of decoders and parsers into ConfigErrors that name the file."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise ConfigError(f"{name}: is not UTF-8 ({error.reason}); convert it, e.g. with "
                          "iconv") from None
    except csv.Error as error:
        raise ConfigError(f"{name}: is not CSV ({error}); correct it") from None
    except ConfigError:
        raise
    except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError) as error:
        # pyarrow raises OSError or ValueError for damaged data. Errors of the disk have an errno,
        # and those of the network have a type of their own.
        if isinstance(error, OSError) and (
                error.errno or type(error) not in (OSError, gzip.BadGzipFile)):
            raise
        reason = " ".join(str(error).split())
        raise ConfigError(f"{name}: is damaged or cut short ({reason}); get it again") from None


def _zstd(file: BinaryIO) -> BinaryIO:
    import pyarrow as pa

    return cast(BinaryIO, io.BufferedReader(pa.CompressedInputStream(file, "zstd")))


_DECOMPRESSORS: dict[str, Callable[[BinaryIO], Any]] = {
    ".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open, ".zst": _zstd,
}


def _text(name: str, file: BinaryIO) -> Iterator[str]:
    """A text file in chunks, its line ends untouched, without a byte order mark."""
    decoder = codecs.getincrementaldecoder(TEXT_ENCODING)()
    with _named_errors(name):  # the chunks are asked for outside of read_file
        while chunk := file.read(_TEXT_CHUNK):
            yield decoder.decode(chunk)
        yield decoder.decode(b"", final=True)


def _jsonl(name: str, file: BinaryIO) -> Iterator[Row]:
    for number, line in enumerate(file, 1):
        if line.strip():
            yield f"{name}, line {number}", _parsed(f"{name}, line {number}", line)


def _json(name: str, file: BinaryIO) -> Iterator[Row]:
    """One array of objects, or one object a line, as is common under this suffix, too."""
    data = file.read(LARGEST_ARRAY + 1).removeprefix(codecs.BOM_UTF8)
    if len(data) > LARGEST_ARRAY:
        raise ConfigError(f"{name}: must have at most {LARGEST_ARRAY >> 20} MB, since an array is "
                          "parsed as a whole; make it .jsonl, an object a line")
    if data.lstrip().startswith(b"["):
        yield from _rows(name, _parsed(name, data))
    else:
        yield from _jsonl(name, io.BytesIO(data))


def _csv(name: str, file: BinaryIO) -> Iterator[Row]:
    csv.field_size_limit(LARGEST_CELL)
    text = io.TextIOWrapper(file, encoding=TEXT_ENCODING, newline="")
    yield from _rows(name, csv.DictReader(text, delimiter="\t" if kind_of(name) == "tsv" else ","))


def _rows(name: str, rows: Iterable[Any]) -> Iterator[Row]:
    return ((f"{name}, row {number}", row) for number, row in enumerate(rows, 1))


def _parquet(name: str, file: BinaryIO, field: str, first: int) -> Iterator[Document]:
    """The documents from number ``first`` on, without reading the row groups before it."""
    import pyarrow.parquet as pq

    if Path(name.lower()).suffix in COMPRESSED:
        raise ConfigError(f"{name}: a parquet file is read in parts and cannot be compressed as a "
                          "whole; unpack it")
    table = pq.ParquetFile(file)
    _field(name, dict.fromkeys(table.schema_arrow.names), field)  # raises if it is not there
    start = 0
    for group in range(table.num_row_groups):
        rows = table.metadata.row_group(group).num_rows
        skipped = min(max(0, first - start), rows)
        if skipped < rows:
            texts = (text for batch in table.iter_batches(_ROWS, [group], [field])
                     for text in batch.column(0).to_pylist())
            for number, text in islice(enumerate(texts, start + 1), skipped, None):
                yield Document(_field(f"{name}, row {number}", {field: text}, field))
        start += rows


def _parsed(where: str, data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{where}: is not JSON ({error}); correct it") from None


def _field(where: str, row: Any, field: str) -> str:
    """The text in a row's field; null is the empty text."""
    fix = "name the one with the text in download.text_field (corpus hub: download.hub.text_field)"
    if not isinstance(row, dict) or field not in row:
        names = ", ".join(map(str, row)) if isinstance(row, dict) else ""
        raise ConfigError(f"{where}: has no field {field!r} (there are: {names or 'none'}); {fix}")
    text = row[field]
    if not isinstance(text, str | None):
        raise ConfigError(f"{where}: the field {field!r} must be text, not {type(text).__name__}; "
                          f"{fix}")
    return text or ""


_KINDS = {".txt": "text", ".md": "text", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json",
          ".parquet": "parquet", ".csv": "csv", ".tsv": "tsv"}
_ROW_READERS: dict[str, Callable[[str, BinaryIO], Iterator[Row]]] = {
    "jsonl": _jsonl, "json": _json, "csv": _csv, "tsv": _csv,
}
