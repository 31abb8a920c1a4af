"""The KV cache's buffers, filled in parts, one fixed column at a time, and with rows repeated."""

import torch

from reprogpt.generation.kv_cache import FixedStep, KVCache
from tests.small_models import random_ids, random_model

torch.set_num_threads(1)


def keys(T: int, seed: int, rows: int = 2) -> torch.Tensor:
    return torch.randn(rows, 3, T, 4, generator=torch.Generator().manual_seed(seed))


def test_what_was_appended_is_returned():
    cache = KVCache(n_layer=2, capacity=6)
    for layer in (0, 1):
        cache.append(layer, keys(3, 0), keys(3, 1))
    assert cache.length == 3
    for layer in (0, 1):
        k, v = cache.append(layer, keys(2, 2), keys(2, 3))
        assert torch.equal(k, torch.cat((keys(3, 0), keys(2, 2)), 2))
        assert torch.equal(v, torch.cat((keys(3, 1), keys(2, 3)), 2))
    assert cache.length == 5


def test_a_fixed_cache_writes_one_column_and_returns_all():
    cache = KVCache(n_layer=1, capacity=6)
    cache.append(0, keys(3, 0), keys(3, 1))
    assert cache.length == 3
    cache.column = torch.tensor([3])
    k, v = cache.append(0, keys(1, 2), keys(1, 3))
    zeros = torch.zeros(2, 3, 2, 4)
    assert torch.equal(k, torch.cat((keys(3, 0), keys(1, 2), zeros), 2))
    assert torch.equal(v, torch.cat((keys(3, 1), keys(1, 3), zeros), 2))
    again, _ = cache.append(0, keys(1, 4), keys(1, 5))
    assert again.data_ptr() == k.data_ptr()


def test_rows_are_repeated():
    cache = KVCache(n_layer=1, capacity=4)
    cache.append(0, keys(3, 0), keys(3, 1))
    cache.repeat(torch.tensor([1, 0, 1]))
    k, _ = cache.append(0, keys(1, 2, rows=3), keys(1, 3, rows=3))
    assert torch.equal(k[:, :, :3], keys(3, 0)[[1, 0, 1]])


def test_a_fixed_step_gives_the_logits_of_the_whole_row():
    model = random_model(70, scale=0.3)
    idx = random_ids(70, 8)
    with torch.inference_mode():
        cache = KVCache(model.cfg.n_layer, 8)
        model(idx[:, :5], cache=cache)
        step = FixedStep(model, cache, pads=torch.zeros(2, dtype=torch.int64))
        for n in range(5, 8):
            expected = model.logits(model(idx[:, :n + 1]))[:, -1]
            torch.testing.assert_close(step(idx[:, n:n + 1]), expected)
