"""Losses and attention weights against torch's own operations."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from reprogpt.errors import ConfigError
from reprogpt.evaluation.model_views import (
    attention_weights,
    loss_by_position,
    passage,
    window_nll,
)
from reprogpt.tokens.shards import TokenStream
from tests.small_models import random_ids, random_model
from tests.tiny_runs import write_tokens

T = 12


@pytest.fixture(scope="module")
def model():
    return random_model(29, block_size=T)


def by_torch(model, stream, start):
    """The nll of the window's targets, from logits."""
    ids = torch.from_numpy(stream.read(start, T + 1).astype(np.int64))
    with torch.no_grad():
        logits = model.logits(model(ids[None, :-1]))[0]
    return F.cross_entropy(logits, ids[1:], reduction="none").numpy()


@pytest.mark.parametrize("masked", [False, True])
def test_nll_of_windows_is_that_of_their_logits(tmp_path, model, masked):
    stream = TokenStream(write_tokens(tmp_path, masked=masked), "val")
    starts = [0, 5, 600]
    nll = window_nll(model, stream, starts, T)
    for row, start in zip(nll, starts):
        wanted = by_torch(model, stream, start)
        if masked:
            wanted[stream.read_mask(start + 1, T) == 0] = np.nan
        assert row == pytest.approx(wanted, abs=1e-4, nan_ok=True)
    assert np.isnan(nll).any() == masked


@pytest.mark.parametrize("length", [30, 10**6])
def test_a_passage_is_predicted_from_half_a_window_at_least(tmp_path, model, length):
    stream = TokenStream(write_tokens(tmp_path), "val")
    ids, nll = passage(model, stream, T, length)
    assert len(ids) == len(nll) >= min(length, stream.n_tokens - 2 * T)
    everything = stream.read(0, stream.n_tokens)
    first = next(k for k in range(len(everything)) if (everything[k:k + len(ids)] == ids).all())
    for k in (0, 5, 6, len(ids) - 1):  # the window that predicts token k ends its half of 6
        start = first - T // 2 - 1 + k // 6 * 6
        assert nll[k] == pytest.approx(by_torch(model, stream, start)[T // 2 + k % 6], abs=1e-4)


def test_a_split_of_one_window_gives_its_second_half(tmp_path):
    stream = TokenStream(write_tokens(tmp_path), "val")
    size = stream.n_tokens - 1
    ids, nll = passage(random_model(29, block_size=size), stream, size, 400)
    assert len(nll) == size // 2
    assert ids.tolist() == stream.read(size + 1 - size // 2, size // 2).tolist()


def test_positions_are_averaged_over_ranges():
    nll = np.tile(np.arange(1.0, 65), (10, 1))
    nll[:, 0] = [0.0, 2.0] * 5
    nll[0, 1] = np.nan
    points = loss_by_position(nll)
    assert points[0] == (1.0, 1.0, pytest.approx(10**-0.5))
    assert points[1][:2] == (2.0, 2.0)
    assert all(at == pytest.approx(mean) for at, mean, _ in points)  # the mean of a range
    assert points[-1][0] > 55


@pytest.mark.parametrize("switches", [{}, {"position": "rope", "qk_norm": True}, {"window": 3},
                                      {"n_kv_head": 1}], ids=str)
def test_weights_times_values_are_what_the_attention_layer_returns(switches):
    model = random_model(29, block_size=T, scale=0.5, **switches)
    seen = {}
    for layer, block in enumerate(model.h):
        block.attn.register_forward_hook(
            lambda module, given, y, layer=layer: seen.__setitem__(layer, (given[0], y)))
    ids = random_ids(29, 9, rows=1)
    with torch.no_grad():
        model(ids)
        plain = dict(seen)
        weights = torch.from_numpy(attention_weights(model, ids[0].tolist()))
        assert weights.shape == (2, 2, 9, 9)
        assert weights.sum(-1) == pytest.approx(np.ones((2, 2, 9)), abs=1e-5)
        assert not weights.triu(1).any()
        for layer, (x, y) in plain.items():
            attn = model.h[layer].attn
            v = attn.c_attn(x)[0].split(attn.widths, -1)[2].view(9, -1, 8).transpose(0, 1)
            mixed = attn.c_proj((weights[layer] @ v).transpose(0, 1).reshape(9, 16))
            torch.testing.assert_close(mixed, y[0], atol=1e-5, rtol=1e-4)


def test_a_prompt_beyond_the_context_is_refused(model):
    with pytest.raises(ConfigError, match=rf"--prompt .*{T + 1}.*{T}.*shorten"):
        attention_weights(model, [0] * (T + 1))


def test_a_model_of_lecture_1_is_refused():
    model = random_model(29, architecture="head", n_layer=1, n_head=1)
    with pytest.raises(ConfigError, match="--prompt .*architecture gpt, not head"):
        attention_weights(model, [1, 2])
