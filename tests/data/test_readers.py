"""Every format of file, plain and compressed, whole and damaged."""

import bz2
import codecs
import csv
import gzip
import io
import json
import lzma

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from reprogpt.data import readers
from reprogpt.data.readers import read_file
from reprogpt.errors import ConfigError

TEXTS = ["first, with \"quotes\"\r\nand lines\n", "zweiter — ünï 🙂", "", "x" * 200_000, "last"]


def as_jsonl() -> bytes:
    return b"\n".join(json.dumps({"n": 1, "body": t}).encode() for t in TEXTS) + b"\n\n"


def as_json() -> bytes:
    return json.dumps([{"body": t} for t in TEXTS]).encode()


def as_csv() -> bytes:
    out = io.StringIO(newline="")
    writer = csv.writer(out)
    writer.writerows([["n", "body"], *([1, t] for t in TEXTS)])
    return out.getvalue().encode()


def as_parquet() -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.table({"n": [1] * len(TEXTS), "body": TEXTS}), out, row_group_size=2)
    return out.getvalue()


def parquet_of(values: list) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.table({"body": values}), out)
    return out.getvalue()


def spoilt_parquet() -> bytes:
    data = bytearray(parquet_of(["some text " * 1000] * 50))
    data[20:60] = b"\xff" * 40
    return bytes(data)


def as_tsv() -> bytes:
    out = io.StringIO(newline="")
    writer = csv.writer(out, delimiter="\t")
    writer.writerows([["n", "body"], *([1, t] for t in TEXTS)])
    return codecs.BOM_UTF8 + out.getvalue().encode()


FORMATS = {"a.jsonl": as_jsonl, "a.json": as_json, "a.csv": as_csv, "a.tsv": as_tsv,
           "a.parquet": as_parquet}
PACKED = {"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress,
          ".zst": zstandard.compress}


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("packed", PACKED)
@pytest.mark.parametrize("first", [0, 1, 3, 5])
def test_rows_of_every_format(name, packed, first):
    if name == "a.parquet" and packed:
        pytest.skip("parquet packs its own columns")
    data = FORMATS[name]()
    data = PACKED[packed](data)
    got = read_file(name + packed, lambda: io.BytesIO(data), "body", first)
    assert [d.text for d in got] == TEXTS[first:]


@pytest.mark.parametrize("name", ["a.txt", "a.md", "a.txt.gz", "A.TXT.zst"])
def test_a_text_file_is_one_document_unchanged(name, monkeypatch):
    monkeypatch.setattr("reprogpt.data.readers._TEXT_CHUNK", 5)  # characters get cut in two
    text = "tabs\tCRLF\r\nüñí 🙂 no end of line"
    data = text.encode("utf-8-sig")
    if name.lower().endswith(".gz"):
        data = gzip.compress(data)
    if name.lower().endswith(".zst"):
        data = zstandard.compress(data)
    got = ["".join(d.texts()) for d in read_file(name, lambda: io.BytesIO(data), "")]
    assert got == [text]


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.json", "a.csv", "a.tsv"])
def test_a_byte_order_mark_is_no_text(name):
    data = {"a.txt": b"x", "a.jsonl": b'{"body": "x"}', "a.json": b'[{"body": "x"}]',
            "a.csv": b"body\nx\n", "a.tsv": b"body\tn\nx\t1\n"}[name]
    got = read_file(name, lambda: io.BytesIO(codecs.BOM_UTF8 + data), "body")
    assert ["".join(d.texts()) for d in got] == ["x"]


@pytest.mark.parametrize("start", [codecs.BOM_UTF8, b" " * 100 + b"\n"])
def test_an_array_may_have_something_before_it(start):
    got = read_file("a.json", lambda: io.BytesIO(start + b'[{"body": "x"}]'), "body")
    assert [d.text for d in got] == ["x"]


@pytest.mark.parametrize(("name", "data", "message"), [
    ("a.jsonl", b'{"body": "x"}\n{"body": ', r"a\.jsonl, line 2: is not JSON"),
    ("a.jsonl", b'{"text": "x"}', r"line 1: has no field 'body' \(there are: text\)"),
    ("a.jsonl", b'{"body": 7}', r"the field 'body' must be text, not int"),
    ("a.jsonl", b"[" * 100_000, r"line 1: is not JSON \(maximum recursion"),
    ("a.json", b"[" * 100_000, r"a\.json: is not JSON \(maximum recursion"),
    ("a.parquet", parquet_of([None, 2]), r"row 2: the field 'body' must be text, not int; name"),
    ("a.parquet", parquet_of([b"\xff"]), r"row 1: the field 'body' must be text, not bytes; name "),
    ("a.parquet", parquet_of([["a", "b"]]), r"the field 'body' must be text, not list; name"),
    ("a.parquet", spoilt_parquet(), r"a\.parquet: is damaged or cut short \(Couldn't des"),
    ("a.parquet", as_parquet()[:-9], r"a\.parquet: is damaged or cut short \(.*; get it again"),
    ("a.csv", b"n,text\n1,x\n", r"has no field 'body' \(there are: n, text\)"),
    ("a.parquet", b"PAR1 no more", r"a\.parquet: is damaged or cut short"),
    ("a.txt", b"caf\xe9", r"a\.txt: is not UTF-8 \(unexpected end"),
    ("a.txt", b"caf\xe9 au lait", r"a\.txt: is not UTF-8 \(invalid continuation byte\)"),
    ("a.jsonl.zst", zstandard.compress(as_jsonl())[:-9], r"a\.jsonl\.zst: is damaged or cut"),
    ("a.txt.zst", b"no zstandard", r"a\.txt\.zst: is damaged or cut short"),
    ("a.txt.bz2", b"no bzip2", r"a\.txt\.bz2: is damaged or cut short"),
    ("a.txt.bz2", bz2.compress(b"x" * 999)[:-12], r"a\.txt\.bz2: is damaged or cut short"),
    ("a.txt.xz", b"no xz", r"a\.txt\.xz: is damaged or cut short"),
    ("a.txt.xz", lzma.compress(b"x" * 999)[:-12], r"a\.txt\.xz: is damaged or cut short"),
    ("a.txt.gz", b"no gzip", r"a\.txt\.gz: is damaged or cut short"),
    ("a.txt.gz", gzip.compress(b"x" * 999, mtime=0)[:-12], r"is damaged or cut short"),
])
def test_a_bad_file_is_named_with_the_place(name, data, message):
    def read_all():
        for document in read_file(name, lambda: io.BytesIO(data), "body"):
            list(document.texts())

    with pytest.raises(ConfigError, match=message) as caught:
        read_all()
    assert "\n" not in str(caught.value)


def test_row_groups_before_the_first_row_are_not_read():
    out = io.BytesIO()
    rows = [f"{n} " * 1000 for n in range(1000)]
    pq.write_table(pa.table({"body": rows}), out, row_group_size=100, use_dictionary=False,
                   compression="none")

    class Counting(io.BytesIO):
        count = 0

        def read(self, size=-1):
            data = super().read(size)
            self.count += len(data)
            return data

    file = Counting(out.getvalue())
    assert [d.text for d in read_file("a.parquet", lambda: file, "body", 950)] == rows[950:]
    assert file.count < 0.2 * len(out.getvalue())


def test_null_is_the_empty_text():
    for name, data in (("a.parquet", parquet_of(["x", None])),
                       ("a.jsonl", b'{"body": "x"}\n{"body": null}')):
        assert [d.text for d in read_file(name, lambda data=data: io.BytesIO(data), "body")
                ] == ["x", ""]


def test_an_array_is_as_large_as_memory_allows_at_most(monkeypatch):
    monkeypatch.setattr(readers, "LARGEST_ARRAY", 40)
    with pytest.raises(ConfigError, match=r"a.json: must have at most .* make it .jsonl"):
        list(read_file("a.json", lambda: io.BytesIO(b'[{"text": "' + b"x" * 99 + b'"}]'), "text"))
