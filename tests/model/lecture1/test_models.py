"""Lecture 1's models: each is what its name says, and has the methods of GPT."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from reprogpt.config import ModelConfig
from reprogpt.evaluation.hellaswag import Prompt, score_prompts
from reprogpt.formats.huggingface import load_model, save_model
from reprogpt.generation.generate import generate
from reprogpt.model.dropout import row_keys
from reprogpt.model.gpt import GPT
from reprogpt.model.lecture1.models import RUNGS
from reprogpt.model.loss import MASKED, nll
from reprogpt.model.registry import build_model
from reprogpt.runtime.distributed import Process
from tests.evaluation.test_hellaswag import one_row_at_a_time

VOCAB = 65
SMALL = {"architecture": "head", "n_layer": 3, "n_head": 4, "n_embd": 32, "block_size": 8,
         "dropout": 0.0, "bias": True, "init_from": None}
ATTENDING = [name for name in RUNGS if name != "bigram"]


def config(**changes: object) -> ModelConfig:
    return ModelConfig.model_validate(SMALL | changes)


def rung(name: str, **changes: object) -> GPT:
    model = build_model(config(architecture=name, **changes), VOCAB)
    model.init_weights(torch.Generator().manual_seed(0))
    return model


def tokens(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randint(VOCAB, shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", ATTENDING)
def test_no_position_sees_a_later_one(name: str) -> None:
    model = rung(name)
    x = model.wte(tokens(1, 8)).detach().requires_grad_()
    model.wte.forward = lambda idx: x  # type: ignore[method-assign]
    model.logits(model(torch.zeros(1, 8, dtype=torch.int64)))[0, 4, 7].backward()
    assert x.grad is not None
    assert x.grad[0, 5:].abs().max() == 0
    assert (x.grad[0, :5].abs().sum(-1) > 0).all()


@pytest.mark.parametrize("name", RUNGS)
def test_the_head_is_what_logits_are_and_the_loss_is_theirs(name: str) -> None:
    model = rung(name)
    idx, targets = tokens(2, 8), tokens(2, 8, seed=2)
    targets[0, 3] = MASKED
    x = model(idx)
    logits = model.logits(x)
    assert logits.shape == (2, 8, VOCAB)
    torch.testing.assert_close(F.linear(x, model.head_weight), logits)
    expected = F.cross_entropy(logits.view(-1, VOCAB), targets.view(-1), ignore_index=MASKED,
                               reduction="sum")
    for rows in (None, 5):
        torch.testing.assert_close(nll(x, model.head_weight, targets, VOCAB, rows), expected)


@pytest.mark.parametrize("name", RUNGS)
def test_every_parameter_learns(name: str) -> None:
    model = rung(name)
    idx = tokens(8, 8)
    nll(model(idx), model.head_weight, idx.roll(-1, 1), VOCAB, 16).backward()
    for parameter_name, p in model.named_parameters():
        assert p.grad is not None, parameter_name
        assert p.grad.abs().max() > 0, parameter_name


def test_the_bigram_is_its_table() -> None:
    model = rung("bigram")
    idx = tokens(3, 8)
    torch.testing.assert_close(model.logits(model(idx)), model.wte.weight[idx])
    assert model.num_parameters() == VOCAB * VOCAB


@pytest.mark.parametrize("name", RUNGS)
def test_a_rung_is_saved_and_opened_again(name: str, tmp_path: Path) -> None:
    model = rung(name)
    save_model(tmp_path / "model", model, model.cfg, None)
    again, cfg = load_model(tmp_path / "model")
    assert cfg.architecture == name
    assert again.num_parameters() == model.num_parameters()
    idx = tokens(2, 8)
    assert torch.equal(again.logits(again(idx)), model.logits(model(idx)))


@pytest.mark.parametrize("name", RUNGS)
def test_a_rung_writes_the_same_alone_and_in_company(name: str) -> None:
    model = rung(name)
    prompts = [[1, 2, 3], [4], [5, 6, 7, 8, 9, 10, 11, 12, 13, 14]]
    together = generate(model, prompts, 12, seeds=[1, 2, 3])
    for prompt, seed, text in zip(prompts, (1, 2, 3), together, strict=True):
        assert generate(model, [prompt], 12, seeds=[seed])[0] == text


@pytest.mark.parametrize("name", RUNGS)
def test_a_rung_scores_endings_as_one_tree_longer_than_its_block(name: str) -> None:
    model = rung(name)
    prompt = Prompt([1, 2, 3], [[4, 5], [4, 6, 7], [8, 9, 10], [11, 12, 13]], [1] * 4)
    alone = Process(0, 1, torch.device("cpu"))
    with torch.no_grad():
        expected = [one_row_at_a_time(model, prompt)]
    sums = score_prompts(model, [prompt], alone)
    np.testing.assert_allclose(sums, expected, rtol=1e-5, atol=1e-5)


def test_the_finished_network_has_the_lectures_parameters() -> None:
    with torch.device("meta"):
        model = build_model(config(architecture="dropout", n_layer=6, n_head=6, n_embd=384,
                                   block_size=256, dropout=0.2), VOCAB)
    assert model.num_parameters() == 10_788_929


def test_flops_count_what_multiplies() -> None:
    assert rung("bigram").flops_per_token(8) == 0
    # three 32 x 32 matrices and a head of 32 x 65 + 65, forward and twice backward; q.k and w.v
    assert rung("head").flops_per_token(8) == 6 * (3 * 32 * 32 + 33 * 65) + 12 * 8 * 32
    assert rung("average").flops_per_token(8) == 6 * 33 * 65 + 6 * 8 * 32
    multihead, blocks = rung("multihead"), rung("blocks")
    assert multihead.flops_per_token(8) == rung("head").flops_per_token(8)
    layer = 3 * 32 * 32 + 33 * 32
    assert blocks.flops_per_token(8) == 3 * (6 * layer + 12 * 8 * 32) + 6 * 33 * 65


def test_weights_begin_as_torchs_defaults() -> None:
    model = rung("residual", n_embd=256)
    fresh = torch.nn.Linear(256, 1024)
    for name, p in model.named_parameters():
        if name.endswith("mlp.0.weight"):
            assert p.abs().max() <= 1 / math.sqrt(256)
            assert p.std().item() == pytest.approx(fresh.weight.std().item(), rel=0.02)
    assert model.wte.weight.std().item() == pytest.approx(1.0, rel=0.05)
    again = rung("residual", n_embd=256)
    assert torch.equal(again.lm_head.weight, model.lm_head.weight)


def test_dropout_concerns_its_own_row_and_only_training() -> None:
    model = rung("dropout", dropout=0.3)
    idx = tokens(3, 8)
    dropout_keys = row_keys(7, 3, torch.arange(3))
    whole = model(idx, dropout_keys)
    for row in range(3):
        alone = model(idx[row:row + 1], dropout_keys[row:row + 1])
        torch.testing.assert_close(whole[row:row + 1], alone)
    assert not torch.allclose(whole, model(idx))
    assert torch.equal(model(idx), model(idx))
    model = rung("dropout", dropout=0.0)
    assert torch.equal(model(idx, dropout_keys), model(idx))


def test_the_layernorm_rung_is_the_dropout_rung_without_dropout() -> None:
    plain, careful = rung("layernorm"), rung("dropout")
    careful.load_state_dict(plain.state_dict())
    idx = tokens(2, 8)
    torch.testing.assert_close(careful(idx), plain(idx))
