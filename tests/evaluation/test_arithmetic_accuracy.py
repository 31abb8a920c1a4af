"""Exact-match accuracy, with a model that is known to be wrong where a digit is carried."""

import numpy as np
import pytest
import torch

from reprogpt.config import TaskConfig
from reprogpt.data.arithmetic import carries, parse, problems
from reprogpt.evaluation.arithmetic_accuracy import accuracy, split
from reprogpt.tokens.tokenizers import CharTokenizer, bpe_tokenizer


class Oracle:
    """Stands in for a model: knows the sums, and gets those with a carry wrong."""

    def __init__(self, tokenizer: CharTokenizer) -> None:
        self.tokenizer, self.head_weight = tokenizer, torch.zeros(1)
        self.cfg = type("cfg", (), {"block_size": 10, "n_layer": 1})
        self.vocab_size = tokenizer.n_vocab

    def __call__(self, idx: torch.Tensor, **_: object) -> torch.Tensor:
        out = torch.zeros(*idx.shape, self.vocab_size)
        for row, ids in zip(out, idx, strict=True):
            prompt, written = split(self.tokenizer.decode(ids.numpy()))
            a, b, _ = parse(prompt)
            answer = f"{a + b + (carries(a, b) > 0):03d}\n"
            row[-1, int(self.tokenizer.encode(answer[len(written)])[0])] = 1.0
        return out

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        return x


class Text:
    """A split of a corpus, from a string."""

    def __init__(self, ids: np.ndarray) -> None:
        self.ids, self.n_tokens = ids, len(ids)

    def read(self, start: int, count: int) -> np.ndarray:
        return self.ids[start:start + count]

    def read_mask(self, start: int, count: int) -> None:
        return None


def test_accuracy_counts_exact_answers_by_group() -> None:
    tokenizer = CharTokenizer("\n+=0123456789")
    cfg = TaskConfig(digits=2, examples=300)
    sums = list(problems("addition", cfg))
    text = "".join(p.prompt + p.answer + "\n" for p in sums)
    found = accuracy("addition", Oracle(tokenizer), tokenizer,  # type: ignore[arg-type]
                     Text(tokenizer.encode(text)))
    free = [carries(p.a, p.b) == 0 for p in sums]
    assert found["problems"] == 300
    assert found["accuracy"] == pytest.approx(np.mean(free), abs=1e-4)
    assert found["carries"]["0"] == 1.0
    assert found["carries"]["1"] == found["carries"]["2"] == 0.0
    assert set(found["digits"]) == {"1", "2"}
    one = [free for p, free in zip(sums, free, strict=True) if max(p.a, p.b) < 10]
    assert [row["kind"] for row in found["solved"]] == ["1-digit +", "2-digit +"]
    assert found["solved"][0]["solved"] == pytest.approx(np.mean(one), abs=1e-4)


def test_byte_pairs_put_an_end_of_text_before_every_problem() -> None:
    tokenizer = bpe_tokenizer([])
    sums = list(problems("addition", TaskConfig(digits=1, examples=20)))
    ids = [i for p in sums for i in (tokenizer.eot, *tokenizer.encode(p.prompt + p.answer + "\n"))]
    oracle = Oracle(tokenizer)  # type: ignore[arg-type]
    found = accuracy("addition", oracle, tokenizer,  # type: ignore[arg-type]
                     Text(np.array(ids)))
    assert found["problems"] == 20


def test_a_prompt_ends_at_the_first_equals_sign():
    assert split("12+3=15") == ("12+3=", "15")
    assert split("1*2=[2*1=2]2") == ("1*2=", "[2*1=2]2")
