"""The sections model and train: rules between their params."""

import re
from typing import Any

import pytest

from reprogpt.config import ARCHITECTURES, Config, merge
from reprogpt.errors import ConfigError
from tests.config.edited import edited


@pytest.mark.parametrize(("key", "value", "said"), [
    ("qk_norm", True, "model.qk_norm=true must be false for architecture multihead"),
    ("window", 8, "model.window=8 must be null for architecture multihead"),
    ("dropout", 0.5, "model.dropout=0.5 must be 0.0 for architecture multihead"),
    ("bias", False, "model.bias=false must be true for architecture multihead"),
])
def test_a_rung_has_no_switches(key: str, value: Any, said: str) -> None:
    values = merge(edited("model.architecture", "multihead"), {"tokenize": {"encoding": "char"}})
    Config.parse(values)
    with pytest.raises(ConfigError, match=re.escape(said)):
        Config.parse(merge(values, {"model": {key: value}}))


def test_every_architecture_can_be_built() -> None:
    from reprogpt.model.lecture1.models import RUNGS

    assert list(ARCHITECTURES) == ["gpt", *RUNGS]


def test_n_kv_head_must_divide_n_head() -> None:
    with pytest.raises(ConfigError) as error:
        Config.parse(edited("model.n_kv_head", 3), source="params.yaml")
    assert str(error.value) == "params.yaml: model.n_kv_head=3 must divide n_head = 4; try 2"


def test_long_layers_need_a_window() -> None:
    with pytest.raises(ConfigError, match=r"model.long_every=2 .*; set model.window"):
        Config.parse(edited("model.long_every", 2))


def test_n_embd_must_be_a_multiple_of_n_head() -> None:
    values = edited("model.n_head", 3)
    values["model"]["n_embd"] = 128
    with pytest.raises(ConfigError) as error:
        Config.parse(values, source="params.yaml")
    assert str(error.value) == ("params.yaml: model.n_embd=128 must be a multiple of n_head = 3; "
                                "try 129")
