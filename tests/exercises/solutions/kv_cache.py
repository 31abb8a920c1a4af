import torch


def attend(q, k, v, past):
    if past is not None:
        k, v = torch.cat([past[0], k], 2), torch.cat([past[1], v], 2)
    T, S = q.size(2), k.size(2)
    scores = q @ k.transpose(-2, -1) / q.size(-1) ** 0.5
    allowed = torch.ones(T, S, dtype=torch.bool).tril(S - T)
    weights = scores.masked_fill(~allowed, float("-inf")).softmax(-1)
    return weights @ v, (k, v)
