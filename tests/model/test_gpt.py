"""The network against transformers' GPT-2, torch, and what is known of the released sizes."""

import math

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from reprogpt.config import ModelConfig
from reprogpt.model.dropout import row_keys
from reprogpt.model.gpt import GPT, padded_vocab
from reprogpt.model.loss import nll
from reprogpt.model.registry import build_model

TINY = {"architecture": "gpt", "n_layer": 3, "n_head": 4, "n_embd": 32, "block_size": 16,
        "dropout": 0.0, "bias": True, "init_from": None}
VOCAB = 101


def model_config(**changes: object) -> ModelConfig:
    return ModelConfig.model_validate(TINY | changes)


def tiny(**changes: object) -> GPT:
    model = build_model(model_config(**changes), VOCAB)
    model.init_weights(torch.Generator().manual_seed(0))
    return model


def oracle_of(model: GPT) -> GPT2LMHeadModel:
    """transformers' GPT-2 with the same weights, dropout off."""
    cfg = model.cfg
    oracle = GPT2LMHeadModel(GPT2Config(
        vocab_size=VOCAB, n_positions=cfg.block_size, n_embd=cfg.n_embd, n_layer=cfg.n_layer,
        n_head=cfg.n_head, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0))
    state = {}
    for name, value in model.state_dict().items():
        conv = name.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight"))
        rows = value[:VOCAB] if name == "wte.weight" else value
        state[f"transformer.{name}"] = rows.t() if conv else rows
    state["lm_head.weight"] = state["transformer.wte.weight"]
    oracle.load_state_dict(state)
    return oracle


def test_logits_and_gradients_equal_transformers() -> None:
    model = tiny()
    with torch.no_grad():  # biases and gains that are not at their initial value
        for p in model.parameters():
            p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(1)) * 0.05)
    oracle = oracle_of(model)
    idx = torch.randint(VOCAB, (2, 16), generator=torch.Generator().manual_seed(2))
    targets = torch.randint(VOCAB, (2, 16), generator=torch.Generator().manual_seed(3))

    theirs = oracle(idx).logits
    ours = model.logits(model(idx))
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)

    nll(model(idx), model.head_weight, targets, VOCAB).backward()
    torch.nn.functional.cross_entropy(theirs.view(-1, VOCAB), targets.view(-1),
                                      reduction="sum").backward()
    pairs = dict(oracle.transformer.named_parameters())
    for name, p in model.named_parameters():
        conv = name.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight"))
        theirs_grad = pairs[name].grad
        assert theirs_grad is not None and p.grad is not None
        ours_grad = p.grad[:VOCAB] if name == "wte.weight" else p.grad
        torch.testing.assert_close(ours_grad, theirs_grad.t() if conv else theirs_grad,
                                   atol=1e-4, rtol=1e-4)


def test_no_position_sees_a_later_one() -> None:
    model = tiny()
    x = model.wte(torch.randint(VOCAB, (1, 16))).detach().requires_grad_()
    model.wte.forward = lambda idx: x  # type: ignore[method-assign]
    y = model(torch.zeros(1, 16, dtype=torch.int64))[0, 7]
    (y * torch.arange(32.0)).sum().backward()  # weighted: a LayerNorm's plain sum is constant
    assert x.grad is not None
    assert x.grad[0, 8:].abs().max() == 0
    assert (x.grad[0, :8].abs().sum(-1) > 0).all()


def test_padding_of_the_vocabulary_gets_no_probability_and_no_gradient() -> None:
    model = tiny()
    idx = torch.randint(VOCAB, (2, 16))
    assert model.logits(model(idx)).shape == (2, 16, VOCAB)
    nll(model(idx), model.head_weight, idx, VOCAB).backward()
    assert model.wte.weight.shape[0] == padded_vocab(VOCAB) == 128
    assert model.wte.weight.grad is not None
    assert model.wte.weight.grad[VOCAB:].abs().max() == 0


def test_initial_weights_are_gpt2s() -> None:
    model = build_model(model_config(n_embd=256, n_layer=8, block_size=64), 500)
    model.init_weights(torch.Generator().manual_seed(0))
    assert model.h[3].mlp.c_fc.weight.std().item() == pytest.approx(0.02, rel=0.02)
    for layer in (model.h[0].attn, model.h[7].mlp):
        assert layer.c_proj.weight.std().item() == pytest.approx(0.02 / math.sqrt(16), rel=0.02)
    assert model.wpe.weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert model.h[0].attn.c_attn.bias.abs().max() == 0
    assert model.h[0].ln_1.weight.min() == model.h[0].ln_1.weight.max() == 1


def test_the_initial_loss_is_that_of_guessing() -> None:
    model = build_model(model_config(n_embd=128, n_layer=2, block_size=64), 50257)
    model.init_weights(torch.Generator().manual_seed(0))
    idx = torch.randint(50257, (2, 65), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        loss = nll(model(idx[:, :-1]), model.head_weight, idx[:, 1:], 50257) / 128
    assert 10.8 < loss < 11.0  # ln(50257) = 10.82


@pytest.mark.parametrize(("n_layer", "n_head", "n_embd", "parameters"), [
    (12, 12, 768, 124_439_808), (24, 16, 1024, 354_823_168),
    (36, 20, 1280, 774_030_080), (48, 25, 1600, 1_557_611_200)])
def test_the_released_sizes_have_their_parameters(n_layer: int, n_head: int, n_embd: int,
                                                  parameters: int) -> None:
    with torch.device("meta"):
        model = build_model(model_config(n_layer=n_layer, n_head=n_head, n_embd=n_embd,
                                         block_size=1024), 50257)
    assert model.num_parameters() == parameters


def test_one_key_in_a_batch_concerns_one_row() -> None:
    model = tiny(dropout=0.2)
    idx = torch.randint(VOCAB, (3, 16))
    dropout_keys = row_keys(7, 3, torch.arange(3))
    whole = model(idx, dropout_keys)
    for row in range(3):
        alone = model(idx[row:row + 1], dropout_keys[row:row + 1])
        torch.testing.assert_close(whole[row:row + 1], alone)
    assert not torch.allclose(whole, model(idx))
    assert not torch.allclose(whole, model(idx, row_keys(7, 4, torch.arange(3))))


def test_without_dropout_keys_change_nothing() -> None:
    model = tiny()
    idx = torch.randint(VOCAB, (2, 16))
    assert torch.equal(model(idx, row_keys(7, 3, torch.arange(2))), model(idx))
