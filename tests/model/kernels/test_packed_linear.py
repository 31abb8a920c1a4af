"""Packed products against torch's in float64; an inference copy against its model."""

import pytest
import torch
import torch.nn.functional as F

from reprogpt.model.kernels.choose import packing_pays
from reprogpt.model.kernels.packed_linear import Packed, packed
from tests.small_models import random_ids, random_model

pytestmark = pytest.mark.skipif(not packing_pays(torch.empty(8, 8), many_rows=False),
                                reason="torch has no oneDNN here")


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("gelu", [False, True])
def test_a_packed_product_is_torchs(bias: bool, gelu: bool) -> None:
    weight, b = torch.randn(40, 24), torch.randn(40) if bias else None
    x = torch.randn(2, 3, 24)
    expected = F.linear(x.double(), weight.double(), b.double() if b is not None else None)
    expected = F.gelu(expected, approximate="tanh") if gelu else expected
    torch.testing.assert_close(Packed(weight, b, gelu)(x).double(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("switches", [{}, {"activation": "gelu"}, {"activation": "swiglu"},
                                      {"tied_head": False, "logit_softcap": 5.0}])
def test_a_packed_copy_computes_what_its_model_does(switches: dict[str, object]) -> None:
    model, idx = random_model(scale=0.3, **switches), random_ids(70, 12)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    copy = packed(model)
    assert isinstance(copy.h[0].attn.c_attn, Packed)
    torch.testing.assert_close(copy.logits(copy(idx)), model.logits(model(idx)),
                               atol=1e-5, rtol=1e-5)
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_under_autocast_the_model_itself_is_used() -> None:
    model = random_model()
    with torch.autocast("cpu", torch.bfloat16):
        assert packed(model) is model
