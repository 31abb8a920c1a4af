TRANSPOSED = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")
DROPPED = ("lm_head.weight", ".attn.bias", ".attn.masked_bias")


def load_gpt2(state):
    return {name.removeprefix("transformer."): t.t() if name.endswith(TRANSPOSED) else t
            for name, t in state.items() if not name.endswith(DROPPED)}
