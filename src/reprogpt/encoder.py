"""The fastest encoder at hand that gives tiktoken's ids."""

import functools
from collections.abc import Callable

import numpy as np

from reprogpt.tokenizers import EOT, GPT2_EOT, WORDS, code_points, gpt2_tokenizer, join_surrogates

Encode = Callable[[str], np.ndarray]

# Texts on which encoders that differ have been seen to differ: contractions, runs of white space,
# digits, scripts without spaces, combining marks, emoji, control characters, the special token.
_SAMPLE = (
    "I'll say it's we've THEY'RE don'ts 'tis ''s '", "a  b   c\n\n\nd \t e\u00a0\u3000f   ",
    "3.14159 1,000,000 \u0663\u0664 x2y3z", "中文分词、日本語のテキスト。한국어 ภาษาไทย",
    "e\u0301 \u0915\u094d\u0937 \U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001d54f",
    "\x00\x01\x7f\ufeff\ufffd<|endoftext|>", "hello" * 300, " " * 300 + "x", "", "\n", "\r\n\r\n ",
)


@functools.cache
def encoder(encoding: str, choice: str = "auto") -> tuple[Encode, str]:
    """A function from text to ids, and the fingerprint of the ids that it gives.

    ``encoding`` char gives code points (n,) uint32. For gpt2, ``choice`` is tiktoken, riptoken
    (an error when it is not installed or its ids differ), or auto: riptoken when it is there and
    agrees with tiktoken on a sample.
    """
    if encoding == "char":
        return code_points, "code points"
    tokenizer = gpt2_tokenizer()
    if choice != "tiktoken":
        fast = _riptoken()
        if fast is not None and all(np.array_equal(fast(text), tokenizer.encode(text))
                                    for text in _SAMPLE):
            return fast, tokenizer.fingerprint
        if choice == "riptoken":
            problem = "is not installed" if fast is None else "gives other ids than tiktoken"
            raise ValueError(f"params.yaml: runtime.encoder='riptoken' {problem}; "
                             "set it to auto, or install riptoken")
    return tokenizer.encode, tokenizer.fingerprint


def _riptoken() -> Encode | None:
    try:
        from riptoken import CoreBPE
    except ImportError:
        return None
    tokenizer = gpt2_tokenizer()
    core = CoreBPE(tokenizer.ranks, {EOT: GPT2_EOT}, WORDS)

    def encode(text: str) -> np.ndarray:
        try:
            ids = core.encode_ordinary(text)
        except UnicodeEncodeError:
            ids = core.encode_ordinary(join_surrogates(text))
        return np.array(ids, np.uint16)

    return encode
