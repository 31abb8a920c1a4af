"""Chunks: their bounds, their ids against tiktoken's of whole documents, their cache."""

import functools
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from reprogpt.data.raw_text import Document, read_meta
from reprogpt.encoding import chunks
from reprogpt.encoding.chunks import Settings, chunks_of, encode_chunk
from reprogpt.tokens.tokenizers import CharTokenizer, gpt2_tokenizer
from tests.encoding.small_corpora import raw, reference, repaired
from tests.encoding.test_encoder import PARTS

GPT2 = functools.partial(Settings, encoder="gigatoken", fingerprint="test", eot=True)
RUNS = st.lists(st.tuples(st.sampled_from([*PARTS, " the", "it's", "\n's", "7 ", " \n "]),
                          st.integers(1, 60)), max_size=10)
ANY = settings(max_examples=60, deadline=None,
               suppress_health_check=[HealthCheck.function_scoped_fixture])


@ANY
@given(texts=st.lists(RUNS.map(lambda runs: "".join(part * n for part, n in runs)), min_size=1,
                      max_size=5), size=st.integers(1, 300))
@example(texts=["a  b", "x \n y " * 9], size=1)
@example(texts=["x" * 30 + "  's it" * 20], size=3)
def test_chunks_of_any_documents_have_their_ids(tmp_path, texts, size):
    pytest.importorskip("gigatoken")
    folder = raw(tmp_path / "raw", texts, part_bytes=500)
    found = list(chunks_of(folder, read_meta(folder), chunk_bytes=size))
    settings_ = GPT2(folder)
    results = [encode_chunk(settings_, chunk) for chunk in found]
    ids = [i for encoded in results for i in encoded.load(settings_).tolist()]
    assert ids == [i for text in texts if text for i in reference(text)]
    for before, after in pairwise(found):
        if before.part == after.part:
            assert before.end == after.start
            assert after.first == before.last - (not after.opens)
    sizes = [int(b) for encoded in results for b in encoded.documents()[:, 1]]
    assert sum(sizes) == sum(len(text.encode()) for text in texts)
    assert sum(c.opens for c in found) + sum(c.last - c.first - 1 for c in found) == len(texts)


@ANY
@given(text=RUNS.map(lambda runs: "".join(part * n for part, n in runs)), at=st.integers(0, 10**6))
def test_a_text_may_be_divided_at_any_break(tmp_path, text, at):
    path = tmp_path / "text"
    path.write_bytes(text.encode() or b" ")
    end = len(text.encode())
    place = chunks._next_break(path, at % (end + 1), end)
    encode = gpt2_tokenizer().encoding.encode_ordinary
    left, right = text.encode()[:place].decode(), text.encode()[place:].decode()
    assert encode(left) + encode(right) == encode(text)


def test_a_document_without_a_break_is_one_chunk(tmp_path):
    folder = raw(tmp_path / "raw", ["日本語のテキスト、" * 500, "a b " * 500, "x\u3000" * 500])
    found = list(chunks_of(folder, read_meta(folder), chunk_bytes=100))
    counts = [sum(chunk.first == n for chunk in found) for n in range(3)]
    assert counts[0] == counts[2] == 1
    assert counts[1] > 9


def test_small_documents_share_a_chunk_and_a_boundary_separates(tmp_path):
    folder = raw(tmp_path / "raw", ["abcdef"] * 10)
    assert [(c.start, c.end) for c in chunks_of(folder, read_meta(folder), chunk_bytes=25)] == [
        (0, 24), (24, 48), (48, 60)]
    found = list(chunks_of(folder, read_meta(folder), (0, 9), chunk_bytes=25))
    assert [(c.start, c.end, c.first, c.last, c.opens) for c in found] == [
        (0, 6, 0, 1, True), (6, 9, 1, 2, True), (9, 12, 1, 2, False), (12, 36, 2, 6, True),
        (36, 60, 6, 10, True)]


def test_a_result_is_known_by_its_content_alone(tmp_path, monkeypatch):
    made, real = [], chunks._encode
    monkeypatch.setattr(chunks, "_encode", lambda *a: made.append(1) or real(*a))
    a = raw(tmp_path / "a", ["first", "same text", "last"])
    b = raw(tmp_path / "b", ["another corpus", "first", "same text", "last"])
    first = encode_chunk(GPT2(a), next(chunks_of(a, read_meta(a))))
    second = list(chunks_of(b, read_meta(b), chunk_bytes=18))[1]
    assert encode_chunk(GPT2(b), second).key == first.key
    assert len(made) == 1
    first.drop()
    assert first.load(GPT2(a)).tolist() == [i for t in ("first", "same text", "last")
                                            for i in reference(t)]
    assert len(made) == 2
    others = [Settings(a, "gigatoken", "test"), Settings(a, "gigatoken", "other", True)]
    assert len({first.key, *(encode_chunk(s, first.chunk).key for s in others)}) == 3


def test_masks_by_character_are_those_of_plain_strings(tmp_path):
    texts = ["12+30=42\n", "é日🙂+1=?ab\n", "9+9=18\n"]
    spans = [((6, 9),), ((1, 2), (5, 9)), ()]
    folder = raw(tmp_path / "raw", [Document(t, s) for t, s in zip(texts, spans)])
    chunk = next(chunks_of(folder, read_meta(folder)))
    points = Settings(folder, "char", "code points")
    wanted = [any(a <= n < b for a, b in s) for t, s in zip(texts, spans) for n in range(len(t))]
    assert encode_chunk(points, chunk).load(points, "mask").tolist() == wanted
    tokenizer = CharTokenizer("0123456789+=\n日b", "drop")
    known = Settings(folder, "char", tokenizer.fingerprint, characters=tokenizer)
    result = encode_chunk(known, chunk)
    kept = [c in tokenizer.characters for c in "".join(texts)]
    assert result.load(known, "mask").tolist() == np.array(wanted)[kept].tolist()
    assert tokenizer.decode(result.load(known)) == "".join(np.array(list("".join(texts)))[kept])


def test_surrogates_are_repaired_as_tiktoken_does(tmp_path):
    text = "\ud83d\ude00 pair, lone \ud800 and \udfff"
    folder = raw(tmp_path / "raw", [text])
    result = encode_chunk(GPT2(folder), next(chunks_of(folder, read_meta(folder))))
    assert result.load(GPT2(folder)).tolist() == reference(text) == reference(repaired(text))
