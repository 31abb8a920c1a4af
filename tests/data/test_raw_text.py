"""Raw parts: what is written is read, by name and by byte; meta.json judges them."""

import json

import numpy as np
import pytest

from reprogpt.data.raw_text import (
    Document,
    Meta,
    check_part,
    read_index,
    read_meta,
    read_part,
    read_spans,
    utf8,
    write_meta,
    write_part,
)

DOCUMENTS = [Document("1+1=2\n", ((4, 6),), "train"), Document("", (), None),
             Document(("ü", "2=", "ü2\n"), ((0, 1), (3, 5)), "val")]


def test_a_part_holds_text_ends_splits_and_spans(tmp_path):
    part = write_part(tmp_path, "p", iter(DOCUMENTS))
    assert (tmp_path / "p.txt").read_text() == "1+1=2\nü2=ü2\n"
    assert read_index(tmp_path, part).tolist() == [[6, 1], [6, 0], [14, 2]]
    assert read_spans(tmp_path, part).tolist() == [[0, 4, 6], [2, 0, 1], [2, 3, 5]]
    assert read_index(tmp_path, part).dtype == read_spans(tmp_path, part).dtype == np.int64
    got = list(read_part(tmp_path, part))
    assert [(d.text, d.spans, d.split) for d in got] == [
        ("".join(d.texts()), d.spans, d.split) for d in DOCUMENTS]
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(part.files)


def test_a_part_ends_with_the_document_that_fills_it(tmp_path):
    documents = iter([Document(text) for text in ("aaaa", "bbbb", "cccc", "dd")])
    parts = [write_part(tmp_path, name, documents, 8) for name in "xyz"]
    assert [(p.documents, p.bytes) for p in parts[:2]] == [(2, 8), (2, 6)]
    assert parts[2] is None
    assert not (tmp_path / "z.txt").exists()
    assert read_spans(tmp_path, parts[0]) is None
    empty = write_part(tmp_path, "masked", iter([Document("x", ())]))
    assert read_spans(tmp_path, empty).shape == (0, 3)


def test_a_source_that_fails_leaves_nothing(tmp_path):
    def documents():
        yield Document("a")
        raise OSError("lost")

    with pytest.raises(OSError, match="lost"):
        write_part(tmp_path, "x", documents())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["plain ü 🙂", "\ud83d\ude42", "lone \ud800 end", ""])
def test_surrogates_are_repaired_as_by_tiktoken(text):
    import tiktoken

    encoding = tiktoken.Encoding("bytes", pat_str=r".+|\s+", special_tokens={},
                                 mergeable_ranks={bytes([n]): n for n in range(256)})
    assert utf8(text) == encoding.decode_bytes(encoding.encode_ordinary(text))


def test_meta_is_read_back_and_judges_the_parts(tmp_path):
    part = write_part(tmp_path, "part_000000", iter(DOCUMENTS))
    meta = Meta("name", "1", (part,), {"more": [1]})
    write_meta(tmp_path, meta)
    assert read_meta(tmp_path) == meta
    assert (meta.documents, meta.bytes, meta.masked) == (3, 14, True)
    saved = json.loads((tmp_path / "meta.json").read_text())
    assert (saved["documents"], saved["bytes"]) == (3, 14)
    for wrong in ({**saved, "version": 2}, {**saved, "parts": [{"name": "x"}]}, {"version": 1}, []):
        (tmp_path / "meta.json").write_text(json.dumps(wrong))
        with pytest.raises(ValueError, match=r"meta\.json: is not a raw corpus .*run the stage d"):
            read_meta(tmp_path)
    (tmp_path / "meta.json").unlink()
    with pytest.raises(ValueError, match="does not exist; run the stage download"):
        read_meta(tmp_path)


@pytest.mark.parametrize("damage", ["flip", "cut", "gone"])
@pytest.mark.parametrize("file", ["p.txt", "p.npy", "p.spans.npy"])
def test_a_part_with_another_byte_is_refused(tmp_path, file, damage):
    part = write_part(tmp_path, "p", iter(DOCUMENTS))
    check_part(tmp_path, part)
    content = bytearray((tmp_path / file).read_bytes())
    content[-3] ^= 1
    (tmp_path / file).write_bytes(content if damage == "flip" else content[:-1])
    if damage == "gone":
        (tmp_path / file).unlink()
    with pytest.raises(ValueError, match=f"{file}.*run the stage download again"):
        check_part(tmp_path, part)
