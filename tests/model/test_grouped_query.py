"""Grouped-query attention: torch's, its parameters, its cache, and Muon's part of it."""

import pytest
import torch
import torch.nn.functional as F

from reprogpt.generation.kv_cache import KVCache
from reprogpt.model.gpt import CausalSelfAttention, Context
from reprogpt.training.optimizer import build_optimizer
from tests.model.test_gpt import VOCAB, model_config, tiny
from tests.model.test_switches import ids
from tests.training.test_muon import recipe


@pytest.mark.parametrize("n_kv_head", [1, 2, 4])
@pytest.mark.parametrize("in_blocks", [True, False])
def test_attention_is_torchs_with_enable_gqa(n_kv_head: int, in_blocks: bool) -> None:
    attn = CausalSelfAttention(model_config(n_kv_head=n_kv_head), 0)
    x = torch.randn(2, 9, 32, requires_grad=True)
    widths = [32, 8 * n_kv_head, 8 * n_kv_head]
    q, k, v = (part.view(2, 9, -1, 8).transpose(1, 2) for part in attn.c_attn(x).split(widths, -1))
    y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    expected = attn.c_proj(y.transpose(1, 2).reshape(2, 9, 32))
    ours = attn(x, Context(in_blocks=in_blocks))
    torch.testing.assert_close(ours, expected, atol=1e-6, rtol=1e-5)
    weights, g = [*attn.parameters(), x], torch.randn_like(ours)
    torch.testing.assert_close(torch.autograd.grad(ours, weights, g),
                               torch.autograd.grad(expected, weights, g), atol=1e-5, rtol=1e-4)


def test_as_many_heads_as_of_queries_is_multi_head_attention_bit_for_bit() -> None:
    assert torch.equal(tiny(n_kv_head=4)(ids()), tiny()(ids()))


def test_the_cache_holds_the_shared_heads_alone() -> None:
    model, cache = tiny(n_kv_head=1).eval(), KVCache(3, 16)
    model(ids(2, 5), cache=cache)
    assert cache._layers[0].shape == (2, 2, 1, 16, 8)


def test_parameters_and_flops_by_hand() -> None:
    model = tiny(n_kv_head=2, bias=False, value_embeds=True)
    matrices = 3 * (32 * (32 + 2 * 16) + 32 * 32 + 8 * 32 * 32)
    tables = VOCAB * 32 + 16 * 32 + VOCAB * 16  # wte, wpe, one value embedding
    vectors = 7 * 32 + 2 * 2  # gains, and value_mix of two layers
    assert model.num_parameters() == matrices + tables + vectors
    assert model.flops_per_token(16) == 6 * (matrices + VOCAB * 32 + vectors) + 12 * 3 * 16 * 32


def test_muon_orthogonalizes_matrices_of_ks_size() -> None:
    model = tiny(n_kv_head=2, bias=False)
    optimizer, p = build_optimizer(model, recipe(muon_lr=1.0, weight_decay=0.0)), \
        model.h[0].attn.c_attn.weight
    before = p.detach().clone()
    for q in model.parameters():
        q.grad = torch.randn_like(q)
    optimizer.step()
    update = (p.detach() - before).view(4, 16, 32)  # two of q, k, v
    spread = torch.linalg.svdvals(update) / torch.linalg.svdvals(update).amax()
    assert spread.min() > 0.5
