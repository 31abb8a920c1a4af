"""Generated problems: right by Python's own arithmetic, apart from each other, masked as said."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reprogpt.config import Config, TaskConfig, TokenizeConfig, merge, read_yaml
from reprogpt.data.arithmetic import (
    carries,
    held_out,
    parse,
    pose,
    problems,
    result,
    scratchpad,
    written_by_hand,
)
from reprogpt.data.corpora import download, task_documents
from reprogpt.encoding.tokenize_corpus import tokenize
from reprogpt.errors import ConfigError
from reprogpt.evaluation.arithmetic_accuracy import split
from reprogpt.model.loss import MASKED
from reprogpt.tokens.shards import TokenStream
from reprogpt.tokens.tokenizers import CharTokenizer
from reprogpt.training.loader import Loader
from tests.conftest import ROOT

PRESETS = ROOT / "presets"
INT = st.integers(-999, 999)


@given(a=st.integers(0, 999), b=st.integers(0, 999))
def test_a_sum_is_right_and_its_reverse_is_its_mirror(a: int, b: int) -> None:
    plain, mirrored = (pose("addition", TaskConfig(reverse=r), a, b, "+") for r in (False, True))
    assert plain.prompt == f"{a:03}+{b:03}="
    assert int(plain.answer) == a + b
    assert mirrored.answer == plain.answer[::-1]
    assert parse(plain.prompt) == (a, b, "+")


@given(a=INT, b=INT, operator=st.sampled_from("+-*/"), steps=st.booleans(), mirror=st.booleans())
def test_the_calculator_agrees_with_python(a: int, b: int, operator: str, steps: bool,
                                           mirror: bool) -> None:
    b = b or 1
    problem = pose("calculator", TaskConfig(scratchpad=steps, reverse=mirror), a, b, operator)
    assert parse(problem.prompt) == (a, b, operator)
    answer = problem.answer.rpartition("]")[2]
    expected = eval(f"({a}) {operator.replace('/', '//')} ({b})")
    assert int(answer[::-1] if mirror else answer) == expected
    assert problem.answer.startswith("[") == steps


@given(x=st.integers(0, 999), y=st.integers(1, 999), operator=st.sampled_from("+-*/"))
def test_every_step_is_true_and_together_they_give_the_result(x: int, y: int,
                                                              operator: str) -> None:
    steps = [step.split("=") for step in scratchpad(x, y, operator)]
    for sum_, value in steps:  # a number in a step may have a leading zero: 0 * 10 + 7
        assert eval(re.sub(r"\b0+(?=\d)", "", sum_).replace("/", "//")) == int(value)
    values = [int(value) for _, value in steps]
    if operator == "*":
        assert sum(value * 10**i for i, value in enumerate(values)) == x * y
    elif operator == "/":
        assert int("".join(map(str, values))) == x // y
    else:
        result = abs(x - y) if operator == "-" else x + y
        shown = "".join(str(v % 10) for v in reversed(values))
        assert int(("1" if values[-1] > 9 else "") + shown) == result


@given(a=st.integers(0, 10**6), b=st.integers(0, 10**6))
def test_carries_are_what_the_digit_sums_lose(a: int, b: int) -> None:
    def digits(n: int) -> int:
        return sum(map(int, str(n)))
    assert carries(a, b) == (digits(a) + digits(b) - digits(a + b)) // 9  # Kummer


@pytest.mark.parametrize("task", ["addition", "calculator"])
@pytest.mark.parametrize("steps", [False, True])
def test_a_corpus_is_the_same_each_time_and_its_two_sides_share_no_problem(
        task: str, steps: bool) -> None:
    cfg = TaskConfig(digits=2, examples=2000, held_out=0.2, scratchpad=steps)
    docs = list(task_documents(task, cfg))
    assert docs == list(task_documents(task, cfg))
    assert len(docs) == 2000
    assert len({len(d.text) for d in docs}) == 1  # type: ignore[arg-type]
    assert docs != list(task_documents(task, cfg.model_copy(update={"seed": 1})))
    sides: dict[str, set[str]] = {"train": set(), "val": set()}
    for problem in problems(task, cfg):
        sides["val" if held_out(problem, cfg) else "train"].add(problem.key)
    assert not sides["train"] & sides["val"]
    assert 300 < sum(d.split == "val" for d in docs) < 500


def test_too_many_examples_are_refused() -> None:
    with pytest.raises(ConfigError, match="task.examples=200 is more than there are"):
        list(problems("addition", TaskConfig(digits=1, examples=200)))


@pytest.mark.parametrize("digits", [1, 2, 3, 4])
@pytest.mark.parametrize("steps", [False, True])
def test_no_document_is_longer_than_the_rest(digits: int, steps: bool) -> None:
    cfg = TaskConfig(digits=digits, examples=300, scratchpad=steps)
    assert len({len(str(d.text)) for d in task_documents("calculator", cfg)}) == 1


def test_only_answers_are_trained_on(tmp_path: Path) -> None:
    values = merge(read_yaml(PRESETS / "shakespeare.yaml"),
                   {"download": {"corpus": "addition",
                                 "task": {"digits": 2, "examples": 500, "held_out": 0.2}}})
    cfg = Config.parse(values)
    download(cfg.download, tmp_path / "raw")
    tokenize(TokenizeConfig(encoding="char", shard_tokens=100_000, split="hash", val_fraction=0.1),
             tmp_path / "raw", tmp_path / "tokens")
    stream = TokenStream(tmp_path / "tokens", "train")
    loader = Loader(stream, 40, 10, seed=0, order="sequential")  # "12+34=046\n" is 10 long
    characters = CharTokenizer("\n+=0123456789")
    for step in range(3):
        batch = loader.batch(step)
        counted = batch.targets != MASKED
        assert counted.sum() == batch.valid == 4 * 4
        for idx, targets in zip(batch.idx, batch.targets, strict=True):
            line = characters.decode(idx.numpy())
            _, answer = split(line)
            assert line.endswith("\n")
            kept = targets[targets != MASKED].numpy()
            assert characters.decode(kept) == answer


@pytest.mark.parametrize(("text", "task", "values", "prompt", "answer"), [
    ("12+34", "addition", {"digits": 3}, "012+034=", "0046"),
    (" 7 + 8 = ", "addition", {"digits": 3, "reverse": True}, "007+008=", "5100"),
    ("-12*7", "calculator", {"digits": 2}, "-12*7=", "-84"),
    ("12 × −34", "calculator", {"digits": 2, "scratchpad": True}, "12*-34=",
     "[12*4=48,12*3=36]-408"),
    ("99÷7", "calculator", {"digits": 2, "reverse": True}, "99/7=", "41"),
])
def test_a_problem_written_by_hand_is_posed_as_the_task_does(text, task, values, prompt, answer):
    cfg = TaskConfig(**values)
    problem = written_by_hand(text, task, cfg)
    assert (problem.prompt, problem.answer) == (prompt, answer)
    operation = re.sub(r"\b0+(?=\d)", "", prompt.rstrip("=").replace("/", "//"))
    assert result(answer, cfg) == eval(operation)


def test_other_text_is_no_problem_and_an_unknown_problem_is_one_line():
    for text in ("hello", "12+", "12", "", "1+2+3", "1.5+2"):
        assert written_by_hand(text, "calculator", TaskConfig(digits=2)) is None
    for text, task, said in (("12-3", "addition", "a sum.*write 12[+]3"),
                             ("-1+2", "addition", "0 to 99"),
                             ("123+4", "calculator", "-99 to 99, as in download.task.digits = 2"),
                             ("5/0", "calculator", "not divide by 0")):
        with pytest.raises(ConfigError, match=said) as error:
            written_by_hand(text, task, TaskConfig(digits=2))
        assert "\n" not in str(error.value)
    assert result("no", TaskConfig()) is result("[1+2+0=3]", TaskConfig()) is None
