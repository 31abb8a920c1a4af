import torch


def top_k(logits, k):
    kept, places = logits.topk(k)
    return torch.full_like(logits, float("-inf")).scatter(1, places, kept)


def top_p(logits, p):
    ranked, places = logits.sort(descending=True)
    probability = ranked.softmax(-1)
    before = probability.cumsum(-1) - probability
    kept = ranked.masked_fill(before >= p, float("-inf"))
    return torch.empty_like(logits).scatter(1, places, kept)
