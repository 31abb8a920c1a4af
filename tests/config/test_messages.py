"""A wrong param ends in one line with key, value, rule and fix."""

import datetime
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from reprogpt.config import Config
from reprogpt.errors import ConfigError
from tests.config.edited import BASE, MISSING, edited, hub

BAD = [
    ("runtime.nproc", "x", "=x must be a whole number or 'auto'; "),
    ("runtime.nproc", "auot", "did you mean auto?"),
    ("runtime.nproc", 2.0, "try 2"),
    ("runtime.compile", "yes", "must be true or false or 'auto'; try true"),
    ("runtime.device", "gpu", "must be auto, cpu, cuda, cuda:N or mps"),
    ("runtime.checkpoint_store", "gs://bucket", "must be a folder or s3://BUCKET/FOLDER; mount"),
    ("runtime.resume", "", "must be 16 hex digits, the name of a folder in runs/; copy one from"),
    ("train.lr", "6e-4", "=6e-4 must be a number; remove the quotes"),
    ("train.lr", 0, "=0 must be greater than 0; see presets/shakespeare.yaml"),
    ("train.lr", float("nan"), "=nan must be a finite number; see presets"),
    ("train.lr", float("inf"), "=inf must be a finite number; see presets"),
    ("train.lr", "nan", "=nan must be a number; see presets"),
    ("train.lr", None, "=null must be a number; see presets"),
    ("train.lr", MISSING, "train.lr is missing"),
    ("train.lr", int("9" * 400), "99... must be a number; see presets"),
    ("train.eval_interval", 10**20, "0 must be less than or equal to 1000000000000000; try 10000"),
    ("train.batch_tokens", 2**62, "must be less than or equal to 1073741824; try 1073741824"),
    ("sample.max_new_tokens", 10**10, "=10000000000 must be less than or equal to 1000000; try 1"),
    ("sample.temperature", 1e-300, "=1e-300 must be 0 or at least 0.001; try 0"),
    ("sample.repetition_penalty", 1e-300, "must be greater than or equal to 0.001; try 0.001"),
    ("train.lr", 1e300, "=1e+300 must be less than or equal to 10000"),
    ("runtime.timeout", 1e300, "must be less than or equal to 1000000; try 1000000"),
    ("sample.num_samples", 600_000, "=600000 must be less than or equal to 10000; try 10000"),
    ("model.n_layer", 10**12, "must be less than or equal to 1048576; try 1048576"),
    ("train.min_lr", 1.0, "must be at most lr"),
    ("train.warmup_steps", 10**6, "must be below max_steps"),
    ("train.batch_ramp", 3, "=3 must be a mapping; see presets"),
    ("train.batch_ramp", {"start_tokens": 64}, "train.batch_ramp.tokens is missing"),
    ("train.batch_ramp", {"start_tokens": 0, "tokens": 10**9},
     "start_tokens=0 must be greater than or equal to 1; try 1"),
    ("train.batch_ramp", {"start_tokens": 100, "tokens": 10**9},
     "train.batch_ramp.start_tokens=100 must be a multiple of model.block_size = 64; try 128"),
    ("train.batch_ramp", {"start_tokens": 1024, "tokens": 10**9},
     "train.batch_ramp.start_tokens=1024 must be at most train.batch_tokens = 512; try 64"),
    ("train.schedule", "cosin", "did you mean cosine?"),
    ("train.schedule", "COSINE", "did you mean cosine?"),
    ("optimizer", {}, "optimizer is not a param; did you mean train.optimizer?"),
    ("train.block_size", 8, "train.block_size is not a param; did you mean model.block_size?"),
    ("train.max_steps", True, "=true must be a whole number; see presets"),
    ("train.max_steps", 2.5, "=2.5 must be a whole number; try 2"),
    ("train.max_steps", -1, "try 0"),
    ("train.maxsteps", 3, "train.maxsteps is not a param; did you mean train.max_steps?"),
    ("train.learning_rate", 3, "did you mean train.lr?"),
    ("lr", 3, "did you mean train.lr?"),
    ("trian", {}, "did you mean train?"),
    ("download.a\x1eb", 1, r"download.'a\x1eb' is not a param"),
    ("download", {**BASE["download"], ("a",): 1}, "is not a param; remove it (there are: corpus, "),
    ("seed", datetime.date(2026, 1, 31), "seed=2026-01-31 must be a whole number; see presets"),
    ("download.corpus", datetime.date(2026, 1, 31), "=2026-01-31 must be 'shakespeare', "),
    ("tokenize.encoding", None, "=null must be 'gpt2', 'char' or 'bpe'; see presets"),
    ("download.files", [datetime.date(2026, 1, 31)], "files.0=2026-01-31 must be text; put quotes"),
    ("model", None, "model=null must be a mapping; see presets"),
    ("model", MISSING, "model is missing"),
    ("model.n_layer", "4", "remove the quotes"),
    ("model.bias", "on", "must be true or false; try true"),
    ("model.bias", 0, "must be true or false; try false"),
    ("model.dropout", 1.0, "=1.0 must be less than 1"),
    ("sample.prompts", [], "=[] must not be empty; see presets"),
    ("sample.prompts", "hi", "=hi must be a list; try [hi]"),
    ("sample.prompts", None, "=null must be a list; see presets"),
    ("sample.prompts", ["a", 3], "sample.prompts.1=3 must be text; put quotes around it"),
    ("sample.prompts", ["\ud800"], "sample.prompts.0="),
    ("sample.prompts_file", "\ud800", "must be a valid string, unable to parse"),
    ("sample.top_p", 1.5, "=1.5 must be less than or equal to 1; try 1"),
    ("evaluate.hellaswag_examples", 20_000, "try 10042"),
    ("download.hub", {"id": "x"}, "is missing"),
    ("download.hub", hub("main"), "hub.revision=main must be a commit hash of 40 hex digits, since "
     "branches and tags move; copy one from https://huggingface.co/datasets/a/b/commits/main"),
    ("download.hub", hub("87f09149"), "must be a commit hash of 40 hex digits"),
    ("download.hub", {**hub("main"), "id": "a||b"}, "download.hub.id=a||b must be the name of a "),
    ("download.corpus", "files", "must name at least one glob"),
    ("download.corpus", "shakespear", "download.corpus=shakespear must be 'shakespeare', "),
    ("model.architecture", "gtp", "did you mean gpt?"),
    ("runtime.nproc", 9, "=9 must be at most 8, the rows of train.batch_tokens; lower it"),
    ("model.architecture", "bigram", "must be char for model.architecture bigram"),
    ("train.muon_lr", 0.02, "=0.02 is read by optimizer muon only; leave it out"),
    ("train.decay_fraction", 0.5, "=0.5 is read by schedule wsd only; leave it out"),
    ("tokenize.val_tokens", 5, "cannot be both set or both null"),
    ("tokenize.val_fraction", None, "cannot be both set or both null"),
    ("tokenize.encoding", "bpe", "tokenize.vocab_size must be set when encoding is 'bpe'; e"),
    ("tokenize.vocab_size", 4096, "vocab_size=4096 is for encoding 'bpe', not 'gpt2'; remove it"),
    ("tokenize.vocab_size", 255, "=255 must be greater than or equal to 256; try 256"),
    ("tokenize.vocab_size", 65_536, "=65536 must be less than or equal to 65535; try 65535"),
]


# Names that are the same in every process, or two of them cannot share the tests.
NAMES = [f"{key}={'missing' if value is MISSING else ascii(value)[:40]}" for key, value, _ in BAD]


@pytest.mark.parametrize(("key", "value", "said"), BAD, ids=NAMES)
def test_a_wrong_param_is_refused_in_one_line(key: str, value: Any, said: str) -> None:
    with pytest.raises(ConfigError) as error:
        Config.parse(edited(key, value), source="params.yaml")
    message = str(error.value)
    assert message.startswith("params.yaml: ")
    assert said in message
    last = key.split(".")[-1]
    assert last in message or repr(last) in message
    assert len(message.splitlines()) == 1


def test_a_trained_vocabulary_has_rules_of_its_own() -> None:
    bpe = {**BASE["tokenize"], "encoding": "bpe", "vocab_size": 65_535}
    assert Config.parse({**BASE, "tokenize": bpe}).tokenize.vocab_size == 65_535
    by_tokens = {**bpe, "split": "first", "val_fraction": None, "val_tokens": 5}
    with pytest.raises(ConfigError, match="val_tokens=5 cannot be used.*val_fraction instead"):
        Config.parse({**BASE, "tokenize": by_tokens})
    bigram = {**BASE["model"], "architecture": "bigram"}
    with pytest.raises(ConfigError, match=r"vocab_size=65535 must be at most 8192.*bigram"):
        Config.parse({**BASE, "tokenize": bpe, "model": bigram})


def test_the_message_counts_further_problems() -> None:
    values = edited("train.lr", "x")
    values["model"]["n_layer"] = 0
    with pytest.raises(ConfigError, match=r"\(and 1 more\)$"):
        Config.parse(values)


def _keys(values: dict[str, Any], prefix: str = "") -> list[str]:
    return [f"{prefix}{k}" for k in values] + [
        inner for k, v in values.items() if isinstance(v, dict) for inner in _keys(v, f"{k}.")]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner,
                                                                max_size=3),
    max_leaves=5,
)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(_keys(BASE)), JSON)
@example("download", {"\r": None})
@example("sample.prompts", "\r")
def test_any_value_is_accepted_or_refused_in_one_line(key: str, value: Any) -> None:
    try:
        Config.parse(edited(key, value), source="params.yaml")
    except ConfigError as error:
        assert str(error).startswith("params.yaml: ")
        assert len(str(error).splitlines()) == 1


def test_a_misspelt_key_is_one_problem() -> None:
    """Although the key that was meant is missing, too."""
    values = edited("train.lr", MISSING)
    values["train"]["learning_rate"] = 1e-3
    with pytest.raises(ConfigError, match=r"did you mean train.lr\?$"):
        Config.parse(values)
    values["sample"]["top_k"] = "x"
    with pytest.raises(ConfigError, match=r"did you mean train.lr\? \(and 1 more\)$"):
        Config.parse(values)
