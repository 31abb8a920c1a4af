"""Parts: limits, growth, and what is kept between runs."""

import json

import pytest

from reprogpt.data.collect import Budget, Source, collect
from reprogpt.data.raw_text import Document, read_part


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("REPROGPT_CACHE", str(tmp_path / "cache"))


class Counted:
    """A source that counts the documents asked of it."""

    def __init__(self, documents, name="source"):
        self.documents, self.asked = documents, []
        self.source = Source(name, name, self.read)

    def read(self, first):
        for number, text in list(enumerate(self.documents))[first:]:
            self.asked.append(number)
            yield Document(text)


def take(folder, *counted, part_bytes=100, **limits):
    parts = collect([c.source for c in counted], folder, Budget(**limits), part_bytes)
    return [document.text for part in parts for document in read_part(folder, part)]


@pytest.mark.parametrize("limits", [
    {}, {"bytes": 95}, {"bytes": 100}, {"bytes": 101}, {"bytes": 1}, {"documents": 1},
    {"documents": 3}, {"documents": 7}, {"documents": 12}, {"bytes": 250, "documents": 9},
])
def test_limits_take_the_first_whole_documents_and_the_cache_changes_nothing(tmp_path, limits):
    documents = [f"{n:02}" * (5 * n + 3) for n in range(12)]
    expected, size = [], 0
    for text in documents[:limits.get("documents")]:
        size += len(text)
        if size > limits.get("bytes", 10**9):
            break
        expected.append(text)
    if not expected:
        expected = [documents[0][:limits["bytes"]]]
    halves = [Counted(documents[:7], "one"), Counted(documents[7:], "two")]
    assert take(tmp_path / "a", *halves, **limits) == expected
    assert take(tmp_path / "b", *halves, **limits) == expected
    take(tmp_path / "c", *halves)
    assert take(tmp_path / "d", *halves, **limits) == expected


def test_growing_reads_only_what_is_new(tmp_path):
    counted = Counted([f"document {n:03} " * 5 for n in range(100)])
    take(tmp_path / "a", counted, bytes=650)
    counted.asked.clear()
    got = take(tmp_path / "b", counted, bytes=6500)
    assert min(counted.asked) == 10  # all of 65 bytes, in five finished parts
    assert got == counted.documents[:len(got)]
    take(tmp_path / "c", counted)
    counted.asked.clear()
    assert take(tmp_path / "d", counted) == counted.documents
    assert counted.asked == []
    same = (tmp_path / "c/part_000000.txt").stat().st_ino
    assert same == (tmp_path / "d/part_000000.txt").stat().st_ino


def test_a_document_that_the_limit_cut_is_whole_without_it(tmp_path):
    long = Counted(["x" * 500, "y"])
    assert take(tmp_path / "a", long, bytes=200) == ["x" * 200]  # longer than a part
    assert take(tmp_path / "b", long) == long.documents


def test_a_broken_download_leaves_its_finished_parts(tmp_path):
    class Breaks(Counted):
        def read(self, first):
            for document in super().read(first):
                if self.asked[-1] == 9 and not self.mended:
                    raise OSError("the line broke")
                yield document

    counted = Breaks([f"document {n:03} " * 5 for n in range(20)])
    counted.mended = False
    with pytest.raises(OSError, match="the line broke"):
        take(tmp_path / "a", counted)
    assert not list((tmp_path / "a").glob("*.json"))
    counted.mended, counted.asked = True, []
    assert take(tmp_path / "b", counted) == counted.documents
    assert min(counted.asked) == 8


def test_a_long_text_stays_a_stream(tmp_path):
    def pieces():
        for n in range(1000):
            yield f"piece {n} "

    source = Source("x", "", lambda first: iter([Document(pieces())]))
    (part,) = collect([source], tmp_path)
    (document,) = read_part(tmp_path, part)
    assert document.text == "".join(pieces())


def test_a_damaged_cached_part_is_made_anew(tmp_path):
    counted = Counted(["some text " * 20] * 3)
    expected = take(tmp_path / "a", counted)
    victim = next((tmp_path / "cache/raw").rglob("*.txt"))
    data = victim.read_bytes()
    victim.unlink()
    victim.write_bytes(b"X" + data[1:])
    assert take(tmp_path / "b", counted) == expected


@pytest.mark.parametrize("content", [b"{}", b"[]", b"7", b"", b"{", b"\xff", None])
@pytest.mark.parametrize("name", ["meta.json", "part.npy", "part.spans.npy"])
def test_a_cache_entry_that_does_not_parse_is_made_anew(tmp_path, name, content):
    masked = [Document("1+1=2", ((4, 5),)), Document("2+2=4", ((4, 5),))]
    source = Source("x", "x", lambda first: iter(masked[first:]))

    def read(folder):
        return [d for part in collect([source], folder) for d in read_part(folder, part)]

    assert read(tmp_path / "a") == masked
    (victim,) = (tmp_path / "cache/raw").rglob(name)
    victim.unlink()
    if content is not None:
        victim.write_bytes(content)
    assert read(tmp_path / "b") == masked
    assert read(tmp_path / "c") == masked
    assert victim.read_bytes() != content


@pytest.mark.parametrize("changes", [
    {"extra": None}, {"parts": [{}]}, {"parts": None},
    {"part": {"bytes": "10"}}, {"part": {"documents": None}}, {"part": {"documents": 3}},
    {"part": {"name": 7}}, {"part": {"masked": 0}}, {"part": {"sha256": "0"}},
])
def test_a_cache_entry_of_other_values_is_made_anew(tmp_path, changes):
    counted = Counted(["some text", "more"])
    assert take(tmp_path / "a", counted) == counted.documents
    (record,) = (tmp_path / "cache/raw").rglob("meta.json")
    saved = json.loads(record.read_bytes())
    saved["parts"][0] |= changes.pop("part", {})
    record.unlink()
    record.write_text(json.dumps(saved | changes))
    counted.asked.clear()
    assert take(tmp_path / "b", counted) == counted.documents
    assert counted.asked == [0, 1]
    assert take(tmp_path / "c", counted) == counted.documents
    assert counted.asked == [0, 1]


def test_a_limit_reads_no_more_of_a_long_text_than_it_takes(tmp_path):
    asked = []

    def chunks():
        for n in range(1000):
            asked.append(n)
            yield "x" * 99 + "ü"

    source = Source("x", "", lambda first: iter([Document(chunks())]))
    (part,) = collect([source], tmp_path, Budget(bytes=201))
    assert [d.text for d in read_part(tmp_path, part)] == ["x" * 99 + "ü" + "x" * 99]
    assert max(asked) == 1
