"""Value embeddings: which layers have them, and what a layer does with them."""

import pytest
import torch

from reprogpt.model.switches import ValueEmbeds, has_value_embed
from tests.model.test_gpt import model_config
from tests.model.test_switches import ids, stirred


@pytest.mark.parametrize(("n_layer", "served"), [
    (1, []), (2, [0, 0]), (5, [0, 1, None, 0, 1]), (8, [0, 1, 2, None, None, 0, 1, 2])])
def test_a_table_serves_a_first_and_a_last_layer(n_layer: int, served: list[int | None]) -> None:
    cfg = model_config(n_layer=n_layer, value_embeds=True)
    tables, idx = ValueEmbeds(cfg, 128), ids()
    for layer, embed in enumerate(tables(idx)):
        table = served[layer] if served else None
        assert has_value_embed(cfg, layer) == (table is not None)
        if table is None:
            assert embed is None
        else:
            assert torch.equal(embed, tables[table].weight[idx])


def test_value_embeds_and_x0_by_hand() -> None:
    """One layer's attention to itself alone is its value: half its own, half its token's."""
    model = stirred(value_embeds=True, x0_skip=True, n_layer=2, window=1)
    idx, block = ids(1, 4), model.h[0]
    x0 = model.wte(idx) + model.wpe(torch.arange(4))
    x = block.x0_mix[0] * x0 + block.x0_mix[1] * x0
    v = block.attn.c_attn(block.ln_1(x))[..., 64:]
    mixed = block.attn.value_mix[0] * v + block.attn.value_mix[1] * model.value_embeds[0](idx)
    x = x + block.attn.c_proj(mixed)
    x = x + block.mlp(block.ln_2(x))
    seen = []
    block.register_forward_hook(lambda module, args, out: seen.append(out))
    model(idx)
    torch.testing.assert_close(seen[0], x, atol=1e-5, rtol=1e-4)
