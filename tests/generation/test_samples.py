"""Prompts from the params, and the page of samples."""

import pytest
import torch

from reprogpt.config import SampleConfig
from reprogpt.errors import ConfigError
from reprogpt.formats import huggingface as hf
from reprogpt.generation.samples import page, read_prompts, write
from tests.small_models import random_model
from tests.small_project import TOKENIZER, trained_project

torch.set_num_threads(1)


def sampling(**changes) -> SampleConfig:
    return SampleConfig(**{"prompts": ["It was", "the `best`"], "num_samples": 2,
                           "max_new_tokens": 8, "temperature": 0.8, "top_k": 20, "top_p": None,
                           **changes})


@pytest.fixture
def root(tmp_path):
    return trained_project(tmp_path)


def test_the_page_of_samples_has_every_prompt_sample_and_seed(root):
    model, _ = hf.load_model(root / "models/gpt")
    samples = write(model, TOKENIZER, sampling(), seed=5)
    text = page("Samples: x", sampling(), 5, samples)
    assert text.startswith("# Samples: x\n\nTemperature 0.8, top-k 20, at most 8 tokens.\n")
    assert text.count("\n## ") == 2
    for prompt, rows in zip(["It was", "the `best`"], samples):
        assert len(rows) == 2
        for row in rows:
            assert (prompt + row).rstrip() in text
    assert text.count("Sample 1 of 2, seed 5:") == text.count("Sample 2 of 2, seed 6:") == 2


def test_a_sample_can_not_break_out_of_its_block():
    text = page("x", sampling(prompts=["``` \n# not a heading"]), 0, [["a", "b"]])
    assert "````text" in text
    assert "\n## ```` ``` # not a heading ````\n" in text


def test_prompts_also_come_from_a_file(tmp_path):
    (tmp_path / "p.txt").write_text("one\n\ntwo é\n", encoding="utf-8")
    cfg = sampling(prompts_file=str(tmp_path / "p.txt"))
    assert read_prompts(cfg) == ["It was", "the `best`", "one", "two é"]
    with pytest.raises(ConfigError, match="prompts_file"):
        read_prompts(sampling(prompts_file=str(tmp_path / "none.txt")))
    with pytest.raises(ConfigError, match=r"sample.prompts_file='a\\x00b' must be a UTF-8"):
        read_prompts(sampling(prompts_file="a\0b"))


def test_prompts_that_a_character_model_cannot_read_are_named(tmp_path):
    model = random_model(TOKENIZER.n_vocab)
    with pytest.raises(ConfigError, match=r"'~'.*not among the"):
        write(model, TOKENIZER, sampling(prompts=["~"]), 0)
    assert len(write(model, TOKENIZER, sampling(prompts=[""]), 0)[0]) == 2
    (tmp_path / "p.txt").write_text("It was\n~\n")
    with pytest.raises(ConfigError, match=r"yaml: sample.prompts_file='.*p.txt': '~': the char"):
        write(model, TOKENIZER, sampling(prompts_file=str(tmp_path / "p.txt")), 0)
