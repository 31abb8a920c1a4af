"""GPT-2's names and ours, on tensors alone."""

from pathlib import Path

import pytest
import torch

from reprogpt.config import ModelConfig
from reprogpt.formats.gpt2_names import from_config, from_gpt2, is_gpt2, to_config, to_gpt2
from tests.small_models import model_config, random_model

HERE = Path("m")


@pytest.mark.parametrize("bias", [True, False])
def test_tensors_come_back_as_they_were(bias: bool) -> None:
    ours = {name: p.detach() for name, p in random_model(65, bias=bias).named_parameters()}
    gpt2 = to_gpt2(ours, bias)
    assert gpt2["transformer.h.0.attn.c_attn.weight"].shape == (16, 48)  # (in, out)
    assert gpt2["transformer.h.0.attn.c_attn.bias"].shape == (48,)
    back = from_gpt2(gpt2, bias, HERE)
    assert back.keys() == ours.keys()
    assert all(torch.equal(back[name], ours[name]) for name in ours)


def test_a_bias_in_a_model_without_biases_is_refused() -> None:
    ours = {name: p.detach() for name, p in random_model(65, bias=False).named_parameters()}
    gpt2 = to_gpt2(ours, bias=False)
    gpt2["transformer.ln_f.bias"] = torch.ones(16)
    with pytest.raises(ValueError, match=r"m: .* bias false, but ln_f.bias is not zero"):
        from_gpt2(gpt2, False, HERE)


def test_a_config_comes_back_as_it_was() -> None:
    for at in ("all", "embedding", "attention", "residual"):
        cfg = model_config(dropout=0.25, bias=False, dropout_at=at)
        assert from_config(to_config(cfg, 65, None), HERE) == cfg
        assert is_gpt2(cfg) and to_config(cfg, 65, None)["attn_pdrop"] == (
            0.25 if at in ("all", "attention") else 0.0)
    assert to_config(cfg, 65, None)["eos_token_id"] is None
    assert to_config(cfg, 50257, 50256)["eos_token_id"] == 50256


@pytest.mark.parametrize("changes", [
    {"n_layer": None}, {"n_layer": True}, {"n_layer": 10**9}, {"n_layer": -1}, {"n_head": 3},
    {"n_head": 0}, {"n_embd": 0}, {"resid_pdrop": None}, {"resid_pdrop": "x"}, {"reprogpt": []},
    {"reprogpt": {"bias": "yes"}}, {"n_positions": 0},
])
def test_an_absurd_config_is_one_line_that_names_the_file(changes: dict) -> None:
    with pytest.raises(ValueError, match=r"^m/config.json: \S+ [^\n]*; [^\n]*$"):
        from_config(to_config(model_config(), 65, None) | changes, HERE)


@pytest.mark.parametrize(("changes", "is_one"), [
    ({}, True), ({"dropout": 0.1}, True), ({"norm": "rmsnorm"}, False),
    ({"position": "rope"}, False), ({"n_kv_head": 1}, False), ({"norm_position": "post"}, False),
])
def test_a_switch_makes_it_another_model(changes: dict, is_one: bool) -> None:
    cfg = ModelConfig(**{**model_config().model_dump(), **changes})
    assert is_gpt2(cfg) == is_one
    assert to_config(cfg, 65, None)["model_type"] == ("gpt2" if is_one else "reprogpt")


def test_tensors_of_odd_shapes_and_names_are_left_to_the_check_of_shapes() -> None:
    odd = {"h.0.attn.c_attn.weight": torch.ones(2, 3, 4), "h.0.mlp.c_fc.weight": torch.ones(())}
    back = from_gpt2(odd | {"lm_head.weight": torch.ones(2, 2)}, True, HERE)
    assert {name: tuple(tensor.shape) for name, tensor in back.items()} == {
        "h.0.attn.c_attn.weight": (4, 3, 2), "h.0.mlp.c_fc.weight": ()}
