"""tiktoken's ids for whole batches of documents, each distinct word encoded once.

Most of the time of an encoder goes into finding words and merging the same ones again. Here numpy
finds the words of GPT-2's pattern in plain ASCII, for a batch of documents at once, and looks them
up in a hash table; tiktoken encodes those that are not in it yet. A stretch with any other
character is not taken apart but looked up (or given to tiktoken) as it stands: from a safe cut to
the next, where GPT-2's pattern splits whatever stands around (see cuts.py).

Keys are the bytes themselves and their number, so two words are never taken for one another. What
the words of ASCII text are by the pattern
'(?:[sdmt]|ll|ve|re)| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+ :

- a run of letters, of digits, or of other visible characters, with one space before it if there
  is one;
- a run of white space less its last character, if something follows in the document; that last
  character by itself, if it is not a space that the next word took;
- an apostrophe that no space or other mark precedes, with s, d, m, t, ll, ve or re after it.
"""

import itertools
import re
from collections.abc import Callable, Iterable

import numpy as np

from reprogpt.encoding.split_points import WINDOW, safe_cuts

_LETTER, _DIGIT, _MARK, _SPACE, _BORDER = 1, 2, 3, 4, 5
BORDER = 0xFF  # stands between documents; no byte of UTF-8
_SHORT = 15  # bytes of a key: two 64-bit words, less one byte for its length
_PROBES = 4
_CHUNK = 1 << 18  # bytes at a time: the arrays made of them stay in the processor's cache
_SAFE = re.compile(rb"[!-~][ \n]")
_COUNT_BITS = 24  # of an entry: how many ids it has; the rest is its place in the pool
_REMEMBERED = 64  # bytes: a longer stretch will hardly come again


def _classes() -> np.ndarray:
    table = np.full(256, _MARK, np.uint8)
    for low, high in ("az", "AZ"):
        table[ord(low):ord(high) + 1] = _LETTER
    table[ord("0"):ord("9") + 1] = _DIGIT
    table[list(b"\t\n\v\f\r ")] = _SPACE
    table[BORDER] = _BORDER
    return table


_CLASS = _classes()
_MASK = np.array([(1 << 8 * n) - 1 for n in range(9)], np.uint64)


class WordTable:
    """``encode(data, ends)`` as below, by ``encode_text`` (tiktoken's encode_ordinary)."""

    def __init__(self, encode_text: Callable[[str], Iterable[int]], eot: int, bits: int = 19,
                 encode_word: Callable[[bytes], Iterable[int]] | None = None,
                 encode_long: Callable[[bytes], np.ndarray] | None = None):
        """``encode_word`` merges one word of the pattern without looking for words in it;
        ``encode_long`` encodes a text of more than a window."""
        self._encode_text, self._eot, self._bits = encode_text, eot, bits
        self._encode_word = encode_word or (lambda key: encode_text(key.decode("utf-8")))
        self._encode_long = encode_long or (
            lambda key: np.fromiter(encode_text(key.decode("utf-8")), np.uint16))
        self._clear()

    def _clear(self) -> None:
        size = 1 << self._bits
        self._low = np.zeros(size, np.uint64)
        self._high = np.zeros(size, np.uint64)  # 0: free, since it holds a length
        self._where = np.zeros(size, np.int64)  # place in the pool, number of ids
        self._held = 0
        self._pool = np.zeros(1 << 16, np.uint16)
        self._pool[0] = self._eot
        self._filled = 1
        self._long: dict[bytes, int] = {}

    def encode(self, data: bytes, ends: np.ndarray, eot: bool) -> tuple[np.ndarray, np.ndarray]:
        """Documents that end at bytes ``ends`` (n,) of ``data`` -> ids uint16, and (n,) int64:
        how many of them each document has. With ``eot``, <|endoftext|> begins every document
        that is not empty.
        """
        counts = np.zeros(len(ends), np.int64)
        chunks = [np.zeros(0, np.uint16)]
        start = 0
        while start < len(data):
            stop = _chunk_end(data, start, ends)
            first, last = np.searchsorted(ends, start, "right"), np.searchsorted(ends, stop) + 1
            inner = np.minimum(ends[first:last], stop) - start
            opens = start == (ends[first - 1] if first else 0)
            ids, numbers = self._encode(data[start:stop], inner, eot, opens)
            chunks.append(ids)
            counts[first:last] += numbers
            start = stop
        return np.concatenate(chunks), counts

    def _encode(self, data: bytes, ends: np.ndarray, eot: bool,
                opens: bool) -> tuple[np.ndarray, np.ndarray]:
        """The same for one chunk; without ``opens`` its first document began before it."""
        text = _with_borders(data, ends)
        starts = _word_starts(text)
        sizes = np.diff(starts, append=len(text))
        borders = text[starts] == BORDER
        where = self._find(text, starts, sizes, borders)
        separated = (np.diff(ends, prepend=0) > 0) & eot
        separated[0] &= opens
        where[borders] = separated  # one id at place 0, where the pool has <|endoftext|>
        counts = where & ((1 << _COUNT_BITS) - 1)
        stops = np.cumsum(counts)
        shift = np.repeat((where >> _COUNT_BITS) - (stops - counts), counts)
        ids = self._pool[shift + np.arange(stops[-1])]
        return ids, np.add.reduceat(counts, np.flatnonzero(borders))

    def _find(self, text: np.ndarray, starts: np.ndarray, sizes: np.ndarray,
              borders: np.ndarray) -> np.ndarray:
        """(words,) int64: where the ids of each are in the pool; borders are left open."""
        if (self._held > 1 << (self._bits - 1) or len(self._long) > 1 << 16
                or self._filled > 1 << 22):
            self._clear()
        padded = np.zeros(len(text) + 16, np.uint8)
        padded[:len(text)] = text
        eights = np.ndarray(len(text) + 8, "<u8", padded.data, strides=(1,))
        low = eights[starts] & _MASK[np.minimum(sizes, 8)]
        high = eights[starts + 8] & _MASK[np.clip(sizes - 8, 0, 7)]
        high |= np.minimum(sizes, 255).astype(np.uint64) << np.uint64(56)
        where, missing = self._look_up(low, high)
        missing &= ~borders
        new = np.flatnonzero(missing & (sizes <= _SHORT))
        if len(new):
            self._learn(text, starts, sizes, low, high, new)
            where[new], still = self._look_up(low[new], high[new])
            missing[new] = still
        for n in np.flatnonzero(missing):  # long ones, and those that found no free slot
            where[n] = self._look_up_long(text[starts[n]:starts[n] + sizes[n]].tobytes())
        return where

    def _mix(self, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        mixed = low * np.uint64(0x9E3779B97F4A7C15) ^ high * np.uint64(0xC2B2AE3D27D4EB4F)
        mixed ^= mixed >> np.uint64(29)
        mixed *= np.uint64(0xBF58476D1CE4E5B9)
        return mixed

    def _slots(self, mixed: np.ndarray) -> np.ndarray:
        return (mixed >> np.uint64(64 - self._bits)).astype(np.int64)

    def _look_up(self, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Places in the pool, and which of the words have none."""
        slots = self._slots(self._mix(low, high))
        where = self._where[slots]
        missing = (self._low[slots] != low) | (self._high[slots] != high)
        left = np.flatnonzero(missing)
        for step in range(1, _PROBES):
            if not len(left):
                break
            near = (slots[left] + step) & ((1 << self._bits) - 1)
            found = (self._low[near] == low[left]) & (self._high[near] == high[left])
            where[left[found]] = self._where[near[found]]
            missing[left[found]] = False
            left = left[~found]
        return where, missing

    def _learn(self, text: np.ndarray, starts: np.ndarray, sizes: np.ndarray, low: np.ndarray,
               high: np.ndarray, new: np.ndarray) -> None:
        mixed = self._mix(low[new], high[new])
        # Of two words with one hash, the other is not learned, and looked up as a long one is.
        _, firsts = np.unique(mixed, return_index=True)
        words, slots = new[firsts], self._slots(mixed[firsts])
        for step in range(_PROBES):
            places = (slots + step) & ((1 << self._bits) - 1)
            free = np.flatnonzero(self._high[places] == 0)
            _, one_each = np.unique(places[free], return_index=True)
            chosen = free[one_each]
            at, learned = places[chosen], words[chosen]
            self._low[at], self._high[at] = low[learned], high[learned]
            self._where[at] = self._store([text[b:b + s].tobytes() for b, s in zip(
                starts[learned].tolist(), sizes[learned].tolist(), strict=True)])
            self._held += len(chosen)
            words, slots = np.delete(words, chosen), np.delete(slots, chosen)

    def _store(self, keys: list[bytes]) -> np.ndarray:
        """Encodes words into the pool: (keys,) int64 places."""
        ids = [list(self._encode_word(key) if _is_word(key) else
                    self._encode_text(key.decode("utf-8"))) for key in keys]
        counts = np.fromiter(map(len, ids), np.int64, len(ids))
        flat = np.fromiter(itertools.chain.from_iterable(ids), np.uint16, int(counts.sum()))
        return self._keep(flat, counts)

    def _keep(self, flat: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """Puts the ids of words, and how many each has, into the pool."""
        while self._filled + len(flat) > len(self._pool):
            self._pool = np.concatenate([self._pool, np.zeros_like(self._pool)])
        self._pool[self._filled:self._filled + len(flat)] = flat
        places = self._filled + np.cumsum(counts) - counts
        self._filled += len(flat)
        return places << _COUNT_BITS | counts

    def _look_up_long(self, key: bytes) -> int:
        where = self._long.get(key)
        if where is None:
            if len(key) > WINDOW:
                ids = self._encode_long(key)
                return int(self._keep(ids, np.array([len(ids)]))[0])
            where = int(self._store([key])[0])
            if len(key) <= _REMEMBERED:
                self._long[key] = where
        return where


def _is_word(key: bytes) -> bool:
    """Not a stretch that was kept whole."""
    return key.isascii() and b"\x7f" not in key


def _chunk_end(data: bytes, start: int, ends: np.ndarray) -> int:
    """Where the chunk that begins at ``start`` ends: after whole documents, or at a safe cut."""
    if len(data) - start <= _CHUNK:
        return len(data)
    before = int(np.searchsorted(ends, start + _CHUNK, "right"))
    if before and ends[before - 1] > start:
        return int(ends[before - 1])
    end = int(ends[before])
    found = _SAFE.search(data, start + _CHUNK, min(end, start + 2 * _CHUNK))
    if found:
        return found.start() + 1
    first, last = (_character(data, min(n, end)) for n in (start + _CHUNK, start + 2 * _CHUNK))
    places = safe_cuts(data[first:last])
    return first + int(places[0]) if len(places) else end


def _character(data: bytes, position: int) -> int:
    """The first character that begins at or after a position."""
    while position < len(data) and data[position] & 0xC0 == 0x80:
        position += 1
    return position


def _with_borders(data: bytes, ends: np.ndarray) -> np.ndarray:
    """The documents as (bytes + documents,) uint8, each with BORDER before it."""
    starts = ends - np.diff(ends, prepend=0)
    return np.insert(np.frombuffer(data, np.uint8), starts, BORDER)


def _word_starts(text: np.ndarray) -> np.ndarray:
    """Where a word (or border, or stretch with other than ASCII) begins: (words,) int64."""
    classes = _CLASS[text]
    changes = np.flatnonzero(classes[1:] != classes[:-1]) + 1
    begins = np.concatenate(([0], changes))
    ends = np.concatenate((changes, [len(text)]))
    kinds = classes[begins]
    is_start = np.zeros(len(text) + 1, bool)
    spaces, border = kinds == _SPACE, kinds == _BORDER
    # Words take one space before them; the text begins with a border, so begins - 1 is valid.
    spaced = (text[begins - 1] == 32) & ~spaces & ~border
    spaced[0] = False
    is_start[(begins - spaced)[~spaces & ~border]] = True
    is_start[:-1] |= classes == _BORDER
    last = np.append(border[1:], True)  # white space that ends its document is one word
    is_start[begins[spaces & (last | (ends - begins > 1))]] = True
    is_start[(ends - 1)[spaces & ~last & (text[ends - 1] != 32)]] = True
    _contractions(text, begins, ends, kinds, spaced, is_start)
    _keep_whole(text, is_start)
    return np.flatnonzero(is_start[:-1])


def _contractions(text: np.ndarray, begins: np.ndarray, ends: np.ndarray, kinds: np.ndarray,
                  spaced: np.ndarray, is_start: np.ndarray) -> None:
    alone = (kinds == _MARK) & (ends - begins == 1) & (text[begins] == ord("'")) & ~spaced
    alone[:-1] &= kinds[1:] == _LETTER
    alone[-1] = False
    runs = np.flatnonzero(alone)
    at = begins[runs]
    stop = ends[runs + 1]  # of the letters
    one = text[at + 1]
    two = np.where(stop - at > 2, text[np.minimum(at + 2, len(text) - 1)], 0)
    short = np.isin(one, np.frombuffer(b"sdmt", np.uint8))
    pair = one.astype(np.int64) << 8 | two
    long = np.isin(pair, [int.from_bytes(p, "big") for p in (b"ll", b"ve", b"re")])
    size = np.where(short, 2, 3)
    hit = short | long
    is_start[at[hit] + 1] = False
    after = (at + size)[hit]
    is_start[after[after < stop[hit]]] = True


def _keep_whole(text: np.ndarray, is_start: np.ndarray) -> None:
    """Every stretch with a byte that is not ASCII, from one safe cut to the next, is one word."""
    other = np.flatnonzero((text > 0x7E) & (text != BORDER))  # 0x7F too: not visible
    if not len(other):
        return
    visible = (text > 0x20) & (text < 0x7F)
    cut = np.zeros(len(text) + 1, bool)
    cut[1:-1] = visible[:-1] & ((text[1:] == 32) | (text[1:] == 10))
    border = text == BORDER
    cut[:-1] |= border
    cut[1:] |= border
    cut[-1] = True
    cuts = np.flatnonzero(cut)
    stretch = np.unique(np.searchsorted(cuts, other, "right"))
    begins, ends = cuts[stretch - 1], cuts[stretch]
    level = np.zeros(len(text) + 2, np.int8)
    level[begins] += 1
    level[ends] -= 1
    is_start &= np.cumsum(level[:-1], dtype=np.int8) == 0
    is_start[begins] = True
