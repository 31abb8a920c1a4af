"""Embeddings of n-grams: by hand, causal, the same in batches, trees and caches."""

import pytest
import torch
from torch import Tensor

from reprogpt.generation.generate import generate
from reprogpt.generation.kv_cache import KVCache
from reprogpt.model.gpt import GPT
from reprogpt.model.ngram_embeds import PRIME, tokens_before
from tests.small_models import random_ids, random_model


def model(**changes: object) -> GPT:
    found = random_model(ngram_rows=[101, 83, 97], **changes)
    for table in found.ngram_embeds:  # the tables begin at 0
        torch.nn.init.normal_(table.weight, generator=torch.Generator().manual_seed(5))
    return found


def test_begins_as_the_model_without() -> None:
    plain, with_tables = random_model(seed=3), random_model(seed=3, ngram_rows=[101, 83, 97])
    with_tables.init_weights(torch.Generator().manual_seed(3))
    plain.init_weights(torch.Generator().manual_seed(3))
    idx = random_ids(70, 8)
    assert torch.equal(plain(idx), with_tables(idx))


def test_by_hand() -> None:
    gpt = model(position="rope")
    row = [3, 9, 9, 1]
    expected = []
    for t, number in enumerate(row):
        x = gpt.wte.weight[number]
        for n, (table, rows) in enumerate(zip(gpt.ngram_embeds, (101, 83, 97), strict=True), 1):
            number = (number * PRIME) ^ (row[t - n] + 1 if t >= n else 0)
            x = x + table.weight[number % rows]
        expected.append(x)
    seen: list[Tensor] = []
    gpt.h[0].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    gpt(torch.tensor([row]))
    assert torch.allclose(seen[0][0], torch.stack(expected), atol=1e-6)


def test_no_position_sees_a_later_token() -> None:
    gpt = model()
    idx = random_ids(70, 8, rows=1)
    changed = idx.clone()
    changed[0, 5] = (changed[0, 5] + 1) % 70
    a, b = gpt(idx), gpt(changed)
    assert torch.equal(a[:, :5], b[:, :5])
    for t in (5, 6, 7):
        assert not torch.equal(a[:, t], b[:, t])


def test_a_causal_mask_says_what_no_mask_says() -> None:
    idx = random_ids(70, 6, rows=3)
    causal = torch.ones(6, 6, dtype=torch.bool).tril()
    for a, b in zip(tokens_before(idx, 3), tokens_before(idx, 3, mask=causal), strict=True):
        assert torch.equal(a, b)


def test_a_tree_s_branches_follow_their_own_parent() -> None:
    """The tree of 10 20 30 and 10 20 40 50: its nodes are 10, 20, 30, 40, 50."""
    idx, positions = torch.tensor([[10, 20, 30, 40, 50]]), torch.tensor([[0, 1, 2, 2, 3]])
    ancestors = [[0], [0, 1], [0, 1, 2], [0, 1, 3], [0, 1, 3, 4]]
    mask = torch.zeros(1, 1, 5, 5, dtype=torch.bool)
    for node, seen in enumerate(ancestors):
        mask[0, 0, node, seen] = True
    one, two = tokens_before(idx, 2, positions, mask)
    assert (one - 1).tolist() == [[-1, 10, 20, 20, 40]]
    assert (two - 1).tolist() == [[-1, -1, 10, 10, 20]]


@pytest.mark.parametrize("prompts", [[[1, 2, 3, 4]], [[7], [1, 2], [5, 6, 5, 6, 5]]])
def test_a_cache_knows_the_tokens_before(prompts: list[list[int]]) -> None:
    gpt = model(block_size=16)
    cached, plain = (generate(gpt, prompts, 12, temperature=0, use_cache=use)
                     for use in (True, False))
    assert cached == plain


@pytest.mark.parametrize("split", [1, 3, 7])
def test_prefill_in_two_parts(split: int) -> None:
    gpt, idx = model(), random_ids(70, 8)
    cache = KVCache(gpt.cfg.n_layer, 8)
    first = gpt(idx[:, :split], cache=cache)
    causal = torch.ones(8, 8, dtype=torch.bool).tril()
    second = gpt(idx[:, split:], positions=torch.arange(split, 8), mask=causal[split:], cache=cache)
    assert torch.allclose(torch.cat([first, second], 1), gpt(idx), atol=1e-5)
