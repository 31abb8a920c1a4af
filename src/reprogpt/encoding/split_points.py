"""Where a text may be cut so that its parts, each encoded by itself, give the ids of the whole.

Three kinds of places, each looked for only where the one before it is not found:

1. Before a space or line break that follows a visible character: ordinary text has one in every
   line.
2. Where GPT-2's pattern ends a word whatever stands around: between letters, digits and marks.
   Which characters are which, tiktoken's own regular expressions say.
3. Within one word that does not end (a letter repeated, a genome, Han without a mark): where a
   token ends, found by encoding it window by window.

That the windows of a word give the ids of the word: let token t stand at the same place in the
encodings of two windows that overlap. Pairs are merged lowest rank first, leftmost first. Suppose
that merging the joined text were to cross an edge of t. Until it first does, both windows and t
develop by themselves; and the first pair to cross lies in one of the windows and is the lowest
there, so that window by itself would have merged it too, and t would be none of its tokens.
"""

import functools
import os
import unicodedata
from collections.abc import Callable, Iterator

import numpy as np

from reprogpt.errors import ConfigError
from reprogpt.tokens.tokenizers import code_points, gpt2_tokenizer, utf8_widths

WINDOW = 1 << 16
"""Bytes looked at, or encoded, at a time."""
_HEAD = 16  # bytes: more than what can stand between a safe cut and its word (`\n'll`)
_OVERLAP = 512  # bytes: four times GPT-2's longest token
_MARK, _LETTER, _NUMBER, _SPACE = range(4)
_CONTINUATION = bytes(range(0x80, 0xC0))
_MARKS = "。、，！？.,;:!?"

Read = Callable[[int, int], bytes]
"""Bytes [start, end) of a text."""


def stretches(file: int, begin: int, end: int, size: int, words: bool = True) -> Iterator[int]:
    """Where the stretches, of about ``size`` bytes, of a long text [begin, end) end.

    Without ``words`` any character may end one. Raises ConfigError, naming the byte, for a word
    that cannot be cut (none is known).
    """
    def read(start: int, stop: int) -> bytes:
        return os.pread(file, stop - start, start)

    while end - begin > size:
        goal = _character(read, begin + size, end)
        near = _character(read, goal + min(WINDOW, size), end)
        stop = safe_cut(file, goal, near) if words else goal
        if stop == near < end:
            places = begin + safe_cuts(read(begin, near))
            after = places[places >= goal]
            if not len(places):
                stop = _word_end(read, begin, end)
                for place, _ in encode_word(read, begin, stop, WINDOW):
                    if place - begin >= size and place < stop:
                        yield place
                        begin = place
            else:
                stop = int(after[0] if len(after) else places[-1])
        if stop < end:
            yield stop
        begin = stop
    yield end


def safe_cut(file: int, position: int, end: int) -> int:
    """The first place at or after ``position`` where the text may be cut; ``end`` if there is none.

    Both patterns hold for every text around them: in GPT-2's pattern white space only ever begins
    a match, and a run of letters never takes in punctuation.
    """
    while position < end:
        window = os.pread(file, min(WINDOW, end - position), position)
        text = window.decode("utf-8", "ignore")  # a character cut at either side does not matter
        lead = len(window) - len(window.lstrip(_CONTINUATION))
        for n in range(1, len(text)):
            before, after = text[n - 1], text[n]
            space = after in " \n" and not before.isspace()
            # Kana, Han and Hangul have no spaces; their letters are as old as Unicode.
            mark = (after in _MARKS and "\u3041" <= before <= "\ud7a3"
                    and unicodedata.category(before) == "Lo")
            if space or mark:
                return position + lead + len(text[:n].encode("utf-8"))
        position += max(1, len(window) - 8)  # overlap, so that no pair is missed
    return end


def safe_cuts(data: bytes) -> np.ndarray:
    """(cuts,) int64: all bytes, the first excepted, where these whole characters may be cut.

    Holds for every text around them.
    """
    points = code_points(data.decode("utf-8"))
    kinds: np.ndarray = _kinds()[points]
    before, after = kinds[:-1], kinds[1:]
    space = after == _SPACE
    beyond = np.append(after[1:], _SPACE) != _SPACE  # what follows is there, and no white space
    # White space ends its word, but for the last of a run, which stands alone or opens a word.
    cut = np.where(before == _SPACE, space & beyond, before != after)
    # An apostrophe with letters is a contraction, unless it goes on from a mark or a space.
    earlier = np.roll(points, 1)[:-1]
    earlier[:1] = ord("a")  # not known
    joined = (_kinds()[earlier] == _MARK) | (earlier == ord(" "))
    cut &= ~((points[:-1] == ord("'")) & (after == _LETTER) & ~joined)
    places = np.cumsum(utf8_widths(points), dtype=np.int64)
    return places[:-1][cut]


@functools.cache
def _kinds() -> np.ndarray:
    """(code points,) uint8: what each is to GPT-2's pattern, asked of tiktoken itself: its ids of
    the single bytes of all that matches are the characters that match."""
    import tiktoken

    bytes_only = {bytes([byte]): byte for byte in range(256)}
    # The planes from 4 on have no letters, numbers or white space.
    text = "".join(map(chr, [*range(0xD800), *range(0xE000, 0x40000)]))
    kinds = np.full(0x110000, _MARK, np.uint8)
    for kind, pattern in ((_LETTER, r"\p{L}+"), (_NUMBER, r"\p{N}+"), (_SPACE, r"\s+")):
        probe = tiktoken.Encoding("probe", pat_str=pattern, mergeable_ranks=bytes_only,
                                  special_tokens={})
        kinds[code_points(bytes(probe.encode_ordinary(text)).decode("utf-8"))] = kind
    return kinds


def encode_long(data: bytes) -> np.ndarray:
    """tiktoken's ids (n,) uint16 of a text, of which it is given no more than a window at a time.

    (It takes 60 bytes of memory and more for every byte of a word, and ever longer for each.)
    """
    ids: list[np.ndarray] = []
    begin = 0
    cuts = np.append(safe_cuts(data), len(data))
    while begin < len(data):
        place = int(np.searchsorted(cuts, begin + WINDOW, "right"))
        stop = int(cuts[max(place - 1, 0)])
        if stop > begin:
            ids.append(gpt2_tokenizer().encode(data[begin:stop].decode("utf-8")))
        else:
            stop = int(cuts[place])
            try:
                ids += [part for _, part in encode_word(lambda a, b: data[a:b], begin, stop,
                                                        WINDOW)]
            except ConfigError:
                ids.append(gpt2_tokenizer().encode(data[begin:stop].decode("utf-8")))
        begin = stop
    return np.concatenate(ids)


def encode_word(read: Read, begin: int, end: int, window: int) -> Iterator[tuple[int, np.ndarray]]:
    """The ids of one long word [begin, end) bit by bit, each with the byte where it ends: where a
    character and a token end. ``window``: bytes, at least 512.

    The word may have before it what stands between a safe cut and a word. Raises ConfigError
    where two windows share no token.
    """
    start, ids = begin, _ids(read, begin, _character(read, begin + window, end))
    while True:
        places = _places(start, ids)
        if places[-1] == end:
            yield end, ids
            return
        place, following = _next(read, start, places, ids, begin + _HEAD, end, window)
        yield place, ids[:np.searchsorted(places, place)]
        start, ids = place, following


def _next(read: Read, start: int, places: np.ndarray, ids: np.ndarray, least: int, end: int,
          window: int) -> tuple[int, np.ndarray]:
    """The ids from a place within those of a window that begins at ``start``, and that place."""
    overlap = min(_OVERLAP, window // 4)
    while overlap < 2 * window:
        at = max(int(np.searchsorted(places, places[-1] - overlap)), 1)
        overlap *= 2
        first = next((n for n in range(at, len(ids)) if places[n] >= least
                      and _whole(read, int(places[n]))), None)
        if first is None:
            continue
        begin = int(places[first])
        more = _ids(read, begin, _character(read, begin + window, end))
        those = _places(begin, more)
        common, here, there = np.intersect1d(places[first:-1], those[:-1], assume_unique=True,
                                             return_indices=True)
        for place, a, b in zip(common.tolist(), here.tolist(), there.tolist(), strict=True):
            if ids[first + a] == more[b] and _whole(read, place):
                return place, more[b:]
    raise ConfigError(f"the word of {end - least + _HEAD} bytes at byte {least - _HEAD} cannot be "
                      "cut without changing tiktoken's ids; put a space into it, or leave its "
                      "document out")


def _ids(read: Read, begin: int, end: int) -> np.ndarray:
    return gpt2_tokenizer().encode(read(begin, end).decode("utf-8"))


def _places(start: int, ids: np.ndarray) -> np.ndarray:
    """(ids + 1,) int64: the byte where each begins, and where the last ends."""
    return start + np.append(0, np.cumsum(token_sizes()[ids]))


@functools.cache
def token_sizes() -> np.ndarray:
    """Bytes of each of GPT-2's tokens: (50257,)."""
    return gpt2_tokenizer().token_bytes()


def _word_end(read: Read, begin: int, end: int) -> int:
    """The first safe cut after ``begin``."""
    position = begin
    while position < end:
        stop = _character(read, position + (WINDOW << 4), end)
        places = safe_cuts(read(position, stop))
        if len(places):
            return position + int(places[0])
        if stop == end:
            return end
        position = _character(read, stop - _HEAD, end)  # overlap, so that no cut is missed
    return end


def _whole(read: Read, position: int) -> bool:
    """A character begins there."""
    return read(position, position + 1)[0] & 0xC0 != 0x80


def _character(read: Read, position: int, end: int) -> int:
    """The first character that begins at or after a position."""
    if position >= end:
        return end
    ahead = read(position, min(position + 4, end))
    return position + len(ahead) - len(ahead.lstrip(_CONTINUATION))
