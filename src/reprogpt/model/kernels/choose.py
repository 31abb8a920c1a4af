"""Every choice between torch's own operation and a faster one of this folder.

A choice depends on device, dtype and size alone, never on a measurement: a run that is repeated
takes the same path.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from reprogpt.model.kernels.attention import masked_attention
from reprogpt.model.kernels.fused_backward import RMSNorm, SquaredReLU
from reprogpt.model.kernels.gelu import GeluBfloat16, gelu_by_sigmoid
from reprogpt.runtime.device import computes_bfloat16

LONGEST = 1024
"""Largest number of keys a query may see for attention in blocks: the weights saved for backward
take 2 MB a row of 1024 positions and head in float32."""
LOGIT_BYTES = {"cpu": 1024 * 50304 * 2, "cuda": 16384 * 50304 * 2}
"""Size of the logits that exist at a time when the loss is computed in chunks: 1024 and 16384 rows
of GPT-2's vocabulary in bfloat16. Fewer rows make narrower products."""


def gelu(x: Tensor) -> Tensor:
    """GPT-2's GELU, F.gelu(x, approximate="tanh"): x (...) -> (...)."""
    if x.device.type == "cpu" and torch.compiler.is_compiling():
        return gelu_by_sigmoid(x)
    if x.device.type == "cpu" and x.dtype == torch.bfloat16 and x.requires_grad:
        y: Tensor = GeluBfloat16.apply(x)
        return y
    return F.gelu(x, approximate="tanh")


def squared_relu(x: Tensor) -> Tensor:
    """relu(x)^2 (So et al., 2021: Primer): x (...) -> (...)."""
    if _trains_eagerly_on_cpu(x):
        y: Tensor = SquaredReLU.apply(x)
        return y
    return F.relu(x).square()


def rms_norm(x: Tensor, gain: Tensor | None = None,
             eps: float = torch.finfo(torch.float32).eps) -> Tensor:
    """F.rms_norm over the channels: x (..., C), gain (C,) -> (..., C)."""
    if _trains_eagerly_on_cpu(x):
        y: Tensor = RMSNorm.apply(x, gain, eps)
        return y
    return F.rms_norm(x, x.shape[-1:], gain, eps)


def _trains_eagerly_on_cpu(x: Tensor) -> bool:
    return (x.device.type == "cpu" and x.requires_grad and not torch.compiler.is_compiling()
            and x.dtype in (torch.float32, torch.bfloat16))


def attention_in_blocks(device: torch.device, keys: int, dropout: bool) -> bool:
    """Whether kernels.attention.causal_attention computes causal self-attention in which a query
    sees at most ``keys`` keys. With dropout always: torch's has no keyed dropout."""
    return dropout or (device.type == "cpu" and keys <= LONGEST)


def scaled_dot_product_attention(q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None,
                                 is_causal: bool = False) -> Tensor:
    """torch's function: q (B, n_head, T, D), k, v (B, n_head, S, D) -> (B, n_head, T, D), with
    ``attn_mask`` (.., T, S) bool True where a query may attend to a key."""
    # Without gradients torch's fused kernel takes twice as long as the formula.
    low = q.device.type == "cpu" and q.dtype == torch.bfloat16
    if attn_mask is not None and low and not torch.is_grad_enabled():
        return masked_attention(q, k, v, attn_mask)
    return F.scaled_dot_product_attention(q, k, v, attn_mask, is_causal=is_causal)


def loss_chunk_rows(head_rows: int, device: torch.device, dtype: torch.dtype, compiled: bool,
                    sharded: bool) -> int | None:
    """Rows of logits (head_rows wide) to compute at a time in loss.nll; None: all, by torch's loss.

    On a GPU chunks need Triton (loss_triton.py), which a run that compiles nothing may lack. They
    compute gradients of a sum, which leave float16's range; torch's scaled mean does not.
    """
    if device.type == "cuda" and (sharded or not compiled or dtype == torch.float16):
        return None
    size = LOGIT_BYTES.get(device.type)
    return None if size is None else size // (head_rows * dtype.itemsize)


def packing_pays(weight: Tensor, many_rows: bool) -> bool:
    """Whether packed_linear's products with ``weight`` are faster than torch's.

    On a CPU: for a few rows always, in float32; for many rows (``many_rows``) only on processors
    with bfloat16, by 15% in either precision: on those without it MKL was faster.
    """
    needed = ("_reorder_linear_weight", "_linear_pointwise")  # private to torch's compiler
    if (weight.device.type != "cpu" or weight.dtype not in (torch.float32, torch.bfloat16)
            or not torch.backends.mkldnn.is_available()
            or not all(hasattr(torch.ops.mkldnn, name) for name in needed)):
        return False
    few = weight.dtype == torch.float32 and not many_rows
    return few or computes_bfloat16(weight.device)
