"""A sliding window by hand, by gradients, and in a tree of texts."""

import torch

from reprogpt.model.gpt import Context
from reprogpt.model.switches import sliding_window
from tests.model.test_gpt import VOCAB
from tests.model.test_switches import ids, stirred

CPU = torch.device("cpu")


def test_by_hand() -> None:
    whole = sliding_window(2, 4, 0, None, None, CPU)
    assert whole.int().tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1]]
    assert torch.equal(sliding_window(2, 1, 3, None, None, CPU), whole[3:])
    mask = torch.ones(4, 4, dtype=torch.bool).tril()
    mask[:, 1] = False
    assert torch.equal(sliding_window(2, 4, 0, mask, None, CPU), whole & mask)
    positions = torch.tensor([[0, 1, 2, 1]])
    by_position = sliding_window(2, 4, 0, torch.ones(4, 4, dtype=torch.bool), positions, CPU)
    assert by_position[0, 0].int().tolist() == [[1, 1, 1, 1], [1, 1, 1, 1], [0, 1, 1, 1],
                                                [1, 1, 1, 1]]


def test_a_window_is_seen_by_gradients() -> None:
    model = stirred(window=5, n_layer=1)
    x = model.wte(ids(1)).detach().requires_grad_()
    model.wte.forward = lambda idx: x  # type: ignore[method-assign]
    (model(ids(1))[0, 9] * torch.arange(32.0)).sum().backward()
    assert x.grad is not None
    seen = x.grad[0].abs().sum(-1) > 0
    assert seen.nonzero()[:, 0].tolist() == [5, 6, 7, 8, 9]


def test_a_window_goes_by_positions_where_they_are_not_the_columns() -> None:
    """A tree of two branches, as HellaSwag scores its endings: each branch sees the trunk."""
    model = stirred(window=4)
    trunk, a, b = ids(1, 6), ids(1, 3) + 1 - 1, (ids(1, 3) + 7) % VOCAB
    idx = torch.cat([trunk, a, b], 1)
    positions = torch.tensor([0, 1, 2, 3, 4, 5, 6, 7, 8, 6, 7, 8])
    mask = torch.ones(12, 12, dtype=torch.bool).tril()
    mask[9:, 6:9] = False
    whole = model(idx, positions=positions[None], mask=mask)
    torch.testing.assert_close(whole[:, 9:], model(torch.cat([trunk, b], 1))[:, 6:],
                               atol=1e-5, rtol=1e-4)


def test_every_second_layer_attends_to_all_positions() -> None:
    """By gradients: which positions' input a layer's output depends on."""
    model = stirred(window=3, long_every=2, n_layer=4)
    for in_blocks in (True, False):
        for layer, block in enumerate(model.h):
            x = torch.randn(1, 12, 32, requires_grad=True)
            visible = sliding_window(3, 12, 0, None, None, CPU)
            context = Context(window_mask=visible, in_blocks=in_blocks)
            (block.attn(x, context)[0, 9] * torch.arange(32.0)).sum().backward()
            assert x.grad is not None
            seen = (x.grad[0].abs().sum(-1) > 0).nonzero()[:, 0].tolist()
            assert seen == (list(range(10)) if layer in (1, 3) else [7, 8, 9])
