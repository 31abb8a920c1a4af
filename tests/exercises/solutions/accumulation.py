import torch.nn.functional as F


def accumulate(model, idx, targets, micro_batch):
    valid, total = (targets != -1).sum(), 0.0
    for start in range(0, len(idx), micro_batch):
        part = slice(start, start + micro_batch)
        loss = F.cross_entropy(model(idx[part]).flatten(0, 1), targets[part].flatten(),
                               ignore_index=-1, reduction="sum") / valid
        loss.backward()
        total = total + loss.detach()
    return total
