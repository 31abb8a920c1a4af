def ddp_batch(tokens, step, B, T, rank, world_size):
    start = (step * world_size + rank) * B * T
    part = tokens[start:start + B * T + 1]
    return part[:-1].view(B, T), part[1:].view(B, T)
