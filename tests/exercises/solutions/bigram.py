import torch


def bigram_loss(table, idx, targets):
    log_p = table[idx].log_softmax(-1)
    return -log_p.gather(-1, targets[..., None]).mean()


def bigram_sample(table, start, n, generator):
    out = [start]
    for _ in range(n):
        p = table[out[-1]].softmax(-1)
        out.append(torch.multinomial(p, 1, generator=generator).item())
    return out
