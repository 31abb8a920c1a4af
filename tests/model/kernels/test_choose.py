"""Which path is taken where; and whichever it is, the values are those of torch."""

import pytest
import torch
import torch.nn.functional as F

from reprogpt.model.kernels import choose
from reprogpt.model.kernels.choose import (
    attention_in_blocks,
    gelu,
    loss_chunk_rows,
    packing_pays,
    scaled_dot_product_attention,
)

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("training", [False, True])
def test_gelu_is_torchs(dtype: torch.dtype, training: bool) -> None:
    x = torch.linspace(-6, 6, 999).to(dtype).requires_grad_(training)
    y = gelu(x)
    by_function = y.grad_fn is not None and "GeluBfloat16" in y.grad_fn.name()
    assert by_function == (training and dtype == torch.bfloat16)
    bits = 2**-8 if dtype == torch.bfloat16 else 1e-6
    torch.testing.assert_close(y, F.gelu(x, approximate="tanh"), rtol=bits, atol=1e-6)


def test_compiled_gelu_is_torchs() -> None:
    x, grad = torch.linspace(-6, 6, 999, requires_grad=True), torch.linspace(1, 2, 999)
    ours = torch.compile(gelu, backend="aot_eager")(x)
    theirs = F.gelu(x, approximate="tanh")
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    a, b = (torch.autograd.grad(y, x, grad)[0] for y in (ours, theirs))
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("device", "keys", "dropout", "expected"), [
    (CPU, choose.LONGEST, False, True), (CPU, choose.LONGEST + 1, False, False),
    (CPU, choose.LONGEST + 1, True, True), (CUDA, 64, False, False), (CUDA, 64, True, True)])
def test_attention_goes_in_blocks_on_a_cpu_and_with_dropout(
    device: torch.device, keys: int, dropout: bool, expected: bool
) -> None:
    assert attention_in_blocks(device, keys, dropout) is expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_under_a_mask_or_none_is_torchs(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 2, 3, 9, 8, generator=generator).to(dtype)
    mask = torch.ones(9, 9, dtype=torch.bool).tril()
    error = 1e-5 if dtype == torch.float32 else 2e-2
    expected = F.scaled_dot_product_attention(*(x.double() for x in (q, k, v)), mask)
    with torch.no_grad():
        for found in (scaled_dot_product_attention(q, k, v, mask),
                      scaled_dot_product_attention(q, k, v, is_causal=True)):
            torch.testing.assert_close(found.double(), expected, atol=error, rtol=error)


@pytest.mark.parametrize(("device", "dtype", "compiled", "sharded", "expected"), [
    (CPU, torch.float32, False, False, 512), (CPU, torch.bfloat16, True, True, 1024),
    (CUDA, torch.bfloat16, True, False, 16384), (CUDA, torch.bfloat16, False, False, None),
    (CUDA, torch.bfloat16, True, True, None), (CUDA, torch.float16, True, False, None),
    (torch.device("mps"), torch.float32, False, False, None)])
def test_rows_of_logits_at_a_time(device: torch.device, dtype: torch.dtype, compiled: bool,
                                  sharded: bool, expected: int | None) -> None:
    assert loss_chunk_rows(50304, device, dtype, compiled, sharded) == expected


def test_packing_is_for_floats_on_a_cpu() -> None:
    assert not packing_pays(torch.empty(4, 4, dtype=torch.float64), many_rows=False)
    assert not packing_pays(torch.empty(4, 4, device="meta"), many_rows=False)
