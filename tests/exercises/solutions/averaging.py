import torch


def average_loop(x):
    out = torch.zeros_like(x)
    for b in range(x.size(0)):
        for t in range(x.size(1)):
            out[b, t] = x[b, :t + 1].mean(0)
    return out


def average_product(x):
    weights = torch.tril(torch.ones(x.size(1), x.size(1)))
    weights = weights / weights.sum(1, keepdim=True)
    return weights @ x


def average_softmax(x):
    past = torch.tril(torch.ones(x.size(1), x.size(1)))
    scores = torch.zeros_like(past).masked_fill(past == 0, float("-inf"))
    return scores.softmax(1) @ x
