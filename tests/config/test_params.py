"""params.yaml is checked at the border: what is wrong is said in one line, with the fix."""

import copy
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from reprogpt.config import ARCHITECTURES, CORPORA, Config, merge, read_yaml
from reprogpt.errors import ConfigError
from reprogpt.storage.files import write_json
from tests.conftest import ROOT

BASE = read_yaml(ROOT / "presets/shakespeare.yaml")
MISSING = object()


def edited(key: str, value: Any) -> dict[str, Any]:
    """The default params with one dotted key set, or taken out."""
    values = copy.deepcopy(BASE)
    *path, last = key.split(".")
    section = values
    for part in path:
        section = section[part]
    if value is MISSING:
        del section[last]
    else:
        section[last] = value
    return values


def hub(revision: str) -> dict[str, Any]:
    return {"id": "a/b", "config": None, "split": "train", "text_field": "text",
            "revision": revision}


BAD = [
    ("runtime.nproc", "x", "=x must be a whole number >= 1, or auto"),
    ("runtime.nproc", "auot", "did you mean auto?"),
    ("runtime.nproc", 2.0, "try 2"),
    ("runtime.compile", "yes", "must be true or false, or auto"),
    ("runtime.device", "gpu", "must be auto, cpu, cuda, cuda:N or mps"),
    ("train.lr", "6e-4", "must be a number > 0; remove the quotes"),
    ("train.lr", 0, "must be a number > 0"),
    ("train.lr", float("nan"), "=nan must be a number > 0; write a finite number"),
    ("train.lr", float("inf"), "=inf must be a number > 0; write a finite number"),
    ("train.lr", "nan", "=nan must be a number > 0; write a finite number"),
    ("train.lr", None, "=null must be a number > 0"),
    ("train.lr", MISSING, "train.lr is missing"),
    ("train.lr", int("9" * 400), "99... must be a number > 0; write one of fewer digits"),
    ("train.eval_interval", 10**20, "must be a whole number >= 1 and <= 4_611_686_018_427_387_904; "
     "try 4611686018427387904"),
    ("model.window", 10**30, "1 and <= 4_611_686_018_427_387_904, or null; try 46116860184273879"),
    ("train.min_lr", 1.0, "must be at most lr"),
    ("train.warmup_steps", 10**6, "must be below max_steps"),
    ("train.batch_ramp", 3, "must be a mapping with start_tokens and tokens, or null"),
    ("train.batch_ramp", {"start_tokens": 64}, "train.batch_ramp.tokens is missing"),
    ("train.batch_ramp", {"start_tokens": 0, "tokens": 10**9}, "start_tokens=0 must be a whole "),
    ("train.batch_ramp", {"start_tokens": 100, "tokens": 10**9},
     "train.batch_ramp.start_tokens=100 must be a multiple of model.block_size = 64; try 128"),
    ("train.batch_ramp", {"start_tokens": 1024, "tokens": 10**9},
     "train.batch_ramp.start_tokens=1024 must be at most train.batch_tokens = 512, to which"),
    ("train.schedule", "cosin", "did you mean cosine?"),
    ("train.schedule", "COSINE", "did you mean cosine?"),
    ("optimizer", {}, "optimizer is not a param; did you mean train.optimizer?"),
    ("train.block_size", 8, "train.block_size is not a param; did you mean model.block_size?"),
    ("train.max_steps", True, "must be a whole number >= 0"),
    ("train.max_steps", -1, "try 0"),
    ("train.maxsteps", 3, "train.maxsteps is not a param; did you mean train.max_steps?"),
    ("train.learning_rate", 3, "did you mean train.lr?"),
    ("lr", 3, "did you mean train.lr?"),
    ("trian", {}, "did you mean train?"),
    ("download.a\x1eb", 1, r"download.'a\x1eb' is not a param"),
    ("model", None, "must be a mapping with architecture"),
    ("model", MISSING, "model is missing"),
    ("model.n_layer", "4", "remove the quotes"),
    ("model.bias", "on", "must be true or false; try true"),
    ("model.bias", 0, "must be true or false; try false"),
    ("model.n_layer", 10**12, "must make at most 1e+13 parameters"),
    ("model.dropout", 1.0, "must be a number >= 0 and < 1"),
    ("sample.prompts", [], "must be a list of at least 1 text"),
    ("sample.prompts", "hi", "try [hi]"),
    ("sample.prompts", None, "=null must be a list of at least 1 text; see presets"),
    ("sample.prompts", ["a", 3], "sample.prompts.1=3 must be text; put quotes around it"),
    ("sample.prompts", ["\ud800"], "must be text that UTF-8 can hold"),
    ("sample.prompts_file", "\ud800", "must be text that UTF-8 can hold"),
    ("sample.top_p", 1.5, "must be a number > 0 and <= 1, or null; try 1"),
    ("evaluate.hellaswag_examples", 20_000, "try 10042"),
    ("download.hub", {"id": "x"}, "is missing"),
    ("download.hub", hub("main"), "hub.revision=main must be a commit hash of 40 hex digits, since "
     "branches and tags move; copy one from https://huggingface.co/datasets/a/b/commits/main"),
    ("download.hub", hub("87f09149"), "must be a commit hash of 40 hex digits"),
    ("sample.num_samples", 10**9, "=1000000000 must leave the keys and values of all samples, "
     "0.4 MB for one of each prompt, below 16 GB; try 43690"),
    ("download.hub", {**hub("main"), "id": "a||b"}, "download.hub.id=a||b must be the name of a "),
    ("download.corpus", "files", "must name at least one glob"),
    ("download.corpus", "shakespear", "download.corpus=shakespear must be shakespeare, "),
    ("model.architecture", "gtp", "did you mean gpt?"),
    ("runtime.nproc", 9, "=9 must be at most 8, the rows of train.batch_tokens; lower it"),
    ("model.architecture", "bigram", "must be char for model.architecture bigram"),
    ("train.muon_lr", 0.02, "=0.02 is read by optimizer muon alone; leave it out"),
    ("train.decay_fraction", 0.5, "=0.5 is read by schedule wsd alone"),
    ("tokenize.val_tokens", 5, "cannot be both set or both null"),
    ("tokenize.val_fraction", None, "cannot be both set or both null"),
]


# Names that are the same in every process, or two of them cannot share the tests.
NAMES = [f"{key}={'missing' if value is MISSING else ascii(value)[:40]}" for key, value, _ in BAD]


@pytest.mark.parametrize(("key", "value", "said"), [
    ("qk_norm", True, "model.qk_norm=true is a switch of model.architecture gpt, which multihead "
     "has not; leave it out"),
    ("dropout", 0.5, "model.dropout=0.5 must be 0.0: multihead drops nothing"),
    ("bias", False, "model.bias=false must be true"),
])
def test_a_rung_has_no_switches(key: str, value: Any, said: str) -> None:
    values = merge(edited("model.architecture", "multihead"), {"tokenize": {"encoding": "char"}})
    Config.parse(values)
    with pytest.raises(ConfigError, match=re.escape(said)):
        Config.parse(merge(values, {"model": {key: value}}))


@pytest.mark.parametrize(("key", "value", "said"), BAD, ids=NAMES)
def test_what_is_wrong_is_said_in_one_line(key: str, value: Any, said: str) -> None:
    with pytest.raises(ConfigError) as error:
        Config.parse(edited(key, value), source="params.yaml")
    message = str(error.value)
    assert message.startswith("params.yaml: ")
    assert said in message
    last = key.split(".")[-1]
    assert last in message or repr(last) in message
    assert len(message.splitlines()) == 1


def test_a_commit_is_taken_and_fineweb_edus_is_one() -> None:
    from reprogpt.data.corpora import FINEWEB_EDU

    given = Config.parse(edited("download.hub", FINEWEB_EDU.model_dump()))
    assert given.download.hub == FINEWEB_EDU


def test_the_names_taken_are_the_names_there_are() -> None:
    from reprogpt.data.corpora import ADOPTED
    from reprogpt.data.corpora import CORPORA as OPENED
    from reprogpt.model.lecture1.models import RUNGS

    assert list(ARCHITECTURES) == ["gpt", *RUNGS]
    assert set(CORPORA) == {*OPENED, ADOPTED}


def test_n_embd_must_be_a_multiple_of_n_head() -> None:
    values = edited("model.n_head", 3)
    values["model"]["n_embd"] = 128
    with pytest.raises(ConfigError) as error:
        Config.parse(values, source="params.yaml")
    assert str(error.value) == ("params.yaml: model.n_embd=128 must be a multiple of n_head = 3; "
                                "try 129")


def test_batch_tokens_must_be_a_multiple_of_block_size() -> None:
    values = edited("train.batch_tokens", 1000)
    values["model"]["block_size"] = 64
    with pytest.raises(ConfigError) as error:
        Config.parse(values, source="params.yaml")
    assert str(error.value) == ("params.yaml: train.batch_tokens=1000 must be a multiple of "
                                "model.block_size = 64; try 1024")


def test_the_number_of_further_problems_is_told() -> None:
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
def test_any_value_is_taken_or_refused_in_one_line(key: str, value: Any) -> None:
    try:
        Config.parse(edited(key, value), source="params.yaml")
    except ConfigError as error:
        assert str(error).startswith("params.yaml: ")
        assert len(str(error).splitlines()) == 1


def test_a_config_cannot_be_changed() -> None:
    config = Config.parse(BASE)
    with pytest.raises(ValidationError):
        config.train.lr = 1.0  # type: ignore[misc]


def test_six_e_minus_four_is_a_number(tmp_path: Path) -> None:
    text = (ROOT / "presets/shakespeare.yaml").read_text()
    lines = [line if not line.startswith("  lr:") else "  lr: 6e-4" for line in text.splitlines()]
    lines = [line if not line.startswith("  min_lr:") else "  min_lr: 6e-5" for line in lines]
    (tmp_path / "params.yaml").write_text("\n".join(lines) + "\n")
    assert Config.load(tmp_path / "params.yaml").train.lr == 6e-4


class TestFingerprint:
    CONTENTS = (("manifest", "aa"), ("src/model.py", "bb"))

    def of(self, key: str = "seed", value: Any = 1337) -> str:
        return Config.parse(edited(key, value)).fingerprint(self.CONTENTS)

    @pytest.mark.parametrize(("key", "value"), [
        ("train.lr", 0.0005), ("model.n_layer", 3), ("seed", 1), ("train.max_steps", 7_000)])
    def test_covers_what_decides_the_weights(self, key: str, value: Any) -> None:
        assert self.of(key, value) != self.of()

    @pytest.mark.parametrize(("key", "value"), [
        ("runtime.nproc", 4), ("runtime.micro_batch", 2), ("sample.temperature", 0.1),
        ("evaluate.hellaswag_examples", 3), ("download.max_bytes", 9)])
    def test_covers_nothing_else(self, key: str, value: Any) -> None:
        assert self.of(key, value) == self.of()

    def test_a_switch_that_is_off_is_left_out(self) -> None:
        assert self.of("train.max_loss_spike", None) == self.of()
        assert self.of("train.max_loss_spike", 3.0) != self.of()

    def test_covers_the_contents_in_any_order(self) -> None:
        config = Config.parse(BASE)
        assert config.fingerprint(self.CONTENTS) == config.fingerprint(reversed(self.CONTENTS))
        assert config.fingerprint(self.CONTENTS) != config.fingerprint(self.CONTENTS[:1])

    def test_is_sixteen_hex_digits(self) -> None:
        assert len(self.of()) == 16
        int(self.of(), 16)


def test_params_yaml_spells_out_every_value_that_is_no_switch() -> None:
    """A section read from params.yaml needs no default: what runs is what the file says."""
    for name, field in Config.model_fields.items():
        assert field.is_required(), name


def test_what_params_leave_out_means_what_it_always_meant() -> None:
    """A default is in no lock and in no fingerprint: changed, it would make old results lie. A new
    meaning wants a new name. Added one: UPDATE_GOLDEN=1 python -m pytest tests/test_config.py"""
    golden = ROOT / "tests/golden/defaults.json"
    found = {f"{section}.{key}": repr(field.get_default(call_default_factory=True))
             for section, model in sections(Config) for key, field in model.model_fields.items()
             if not field.is_required()}
    if os.environ.get("UPDATE_GOLDEN"):
        write_json(golden, dict(sorted(found.items())))
    assert len(found) > 30
    assert found == json.loads(golden.read_text())


def sections(model: type[BaseModel]) -> Iterator[tuple[str, type[BaseModel]]]:
    """Every section below ``model``, by its class's name."""
    for field in model.model_fields.values():
        for kind in (field.annotation, *get_args(field.annotation)):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield kind.__name__, kind
                yield from sections(kind)
