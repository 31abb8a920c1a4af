"""Where a block normalizes: torch's encoder layer as the oracle, and no norms at all."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from reprogpt.model.gpt import Block, Context
from tests.model.test_gpt import model_config
from tests.model.test_switches import ids, stirred


@pytest.mark.parametrize("norm_position", ["pre", "post"])
def test_a_block_is_torchs_encoder_layer_with_a_causal_mask(norm_position: str) -> None:
    ours = Block(model_config(norm_position=norm_position), 0)
    theirs = nn.TransformerEncoderLayer(
        32, 4, 128, dropout=0.0, activation=partial(F.gelu, approximate="tanh"),
        batch_first=True, norm_first=norm_position == "pre")
    names = {"attn.c_attn.": "self_attn.in_proj_", "attn.c_proj.": "self_attn.out_proj.",
             "mlp.c_fc.": "linear1.", "mlp.c_proj.": "linear2.", "ln_1.": "norm1.",
             "ln_2.": "norm2."}
    with torch.no_grad():
        for p in ours.parameters():
            p.add_(torch.randn_like(p) * 0.1)
    theirs.load_state_dict({names[name.removesuffix("weight").removesuffix("bias")]
                            + name.rpartition(".")[2]: p for name, p in ours.named_parameters()})
    x = torch.randn(2, 8, 32)
    mask = nn.Transformer.generate_square_subsequent_mask(8)
    torch.testing.assert_close(ours(x, Context(in_blocks=True)), theirs(x, mask),
                               atol=1e-5, rtol=1e-4)


def test_post_normalizes_the_last_hidden_state_once() -> None:
    model = stirred(norm_position="post")
    with torch.no_grad():
        model.h[-1].ln_2.weight.fill_(1.0)
        model.h[-1].ln_2.bias.zero_()
        x = model(ids())
    torch.testing.assert_close(x.mean(-1), torch.zeros(2, 16), atol=1e-5, rtol=0)
    torch.testing.assert_close(x.var(-1, correction=0), torch.ones(2, 16), atol=1e-3, rtol=0)
    assert not any(name.startswith("ln_f") for name, _ in model.named_parameters())


def test_none_has_no_norm_anywhere() -> None:
    model = stirred(norm_position="none", n_layer=1)
    assert not any("ln_" in name for name, _ in model.named_parameters())
    with torch.no_grad():
        block, x = model.h[0], model.wte(ids()) + model.wpe.weight
        x = x + block.attn(x, Context())
        torch.testing.assert_close(model(ids()), x + block.mlp(x), atol=1e-5, rtol=1e-4)
