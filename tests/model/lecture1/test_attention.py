"""Lecture 1's heads against each other, GPT-2's attention and torch's."""

import torch
import torch.nn.functional as F

from reprogpt.model.gpt import CausalSelfAttention, Context
from reprogpt.model.lecture1.attention import Head, Heads, MultiHead
from tests.small_models import model_config


def test_exercise_1_heads_in_one_product_equal_the_loop_over_heads() -> None:
    cfg = model_config(n_head=4, n_embd=32, bias=False)
    loop, batched, gpt2 = MultiHead(cfg), Heads(cfg), CausalSelfAttention(cfg, layer=0)
    with torch.no_grad():
        rows = [torch.cat([getattr(head, part).weight for head in loop.heads])
                for part in ("query", "key", "value")]
        batched.c_attn.weight.copy_(torch.cat(rows))
        gpt2.c_attn.weight.copy_(torch.cat(rows))
        gpt2.c_proj.weight.copy_(torch.eye(32))  # the loop has no projection yet
    x = torch.randn(2, 8, 32, generator=torch.Generator().manual_seed(0))
    mask = torch.ones(8, 8, dtype=torch.bool).tril()
    torch.testing.assert_close(batched(x, mask), loop(x, mask))
    torch.testing.assert_close(gpt2(x, Context(None, None, None, None)), loop(x, mask))


def test_a_head_weighs_the_past_only_and_its_weights_sum_to_one() -> None:
    head = MultiHead(model_config(n_head=4, n_embd=32)).heads[0]
    mask = torch.ones(8, 8, dtype=torch.bool).tril()
    x = torch.randn(2, 8, 32)
    weights = head.weights(x, mask, x)  # type: ignore[operator]
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 8))
    assert weights[:, ~mask].abs().max() == 0


def test_a_head_is_an_encoder_or_attends_to_another_text() -> None:
    head = Head(32, 16)
    x, source = torch.randn(2, 5, 32), torch.randn(2, 7, 32)
    q, k, v = head.query(x), head.key(source), head.value(source)
    expected = F.scaled_dot_product_attention(q, k, v)
    everything = torch.ones(5, 7, dtype=torch.bool)
    torch.testing.assert_close(head(x, everything, source), expected)
    encoder = F.scaled_dot_product_attention(q, head.key(x), head.value(x))
    torch.testing.assert_close(head(x, torch.ones(5, 5, dtype=torch.bool)), encoder)
