"""Exercise 15: byte pair merges.

Lecture 1, "tokenization", and lecture 2, "sampling init, prefix tokens, tokenization", use GPT-2's
merges by tiktoken. Here they are made: "Neural Machine Translation of Rare Words with Subword
Units" (Sennrich et al., 2016), on bytes.
"""


def merge(ids: list[int], pair: tuple[int, int], new: int) -> list[int]:
    """ids with each occurrence of ``pair`` replaced by ``new``, from left to right:
    [1, 1, 1] with the pair (1, 1) becomes [new, 1]."""
    raise NotImplementedError


def train(text: bytes, n: int) -> dict[tuple[int, int], int]:
    """The first n merges of a text: pair -> new id, which are 256, 257, ...

    Start with the bytes as ids. n times: count all adjacent pairs, take the most frequent one (of
    several, the one that occurs first), and merge it everywhere.
    """
    raise NotImplementedError


def encode(text: bytes, merges: dict[tuple[int, int], int]) -> list[int]:
    """A text's ids: its bytes, and then as long as any adjacent pair is in ``merges``, the one that
    was learned first (the lowest new id) is merged."""
    raise NotImplementedError
