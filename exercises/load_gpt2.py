"""Exercise 6: load a GPT-2 state dict.

Lecture 2, "loading the huggingface/GPT-2 parameters".
"""

from torch import Tensor


def load_gpt2(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """transformers' GPT-2 state dict -> the state dict of this library's GPT.

    - names lose the prefix ``transformer.``
    - ``lm_head.weight`` goes: it is wte.weight, tied
    - ``*.attn.bias`` and ``*.attn.masked_bias`` go: they are the causal mask, not parameters
    - four matrices of every block are transposed from (in, out), as Conv1D has them, to (out, in),
      as nn.Linear has them: ``attn.c_attn``, ``attn.c_proj``, ``mlp.c_fc``, ``mlp.c_proj``
    """
    raise NotImplementedError
