from collections import Counter
from itertools import pairwise


def merge(ids, pair, new):
    out, i = [], 0
    while i < len(ids):
        found = tuple(ids[i:i + 2]) == pair
        out.append(new if found else ids[i])
        i += 2 if found else 1
    return out


def train(text, n):
    ids, merges = list(text), {}
    for new in range(256, 256 + n):
        counts = Counter(pairwise(ids))
        pair = max(counts, key=counts.get)
        merges[pair] = new
        ids = merge(ids, pair, new)
    return merges


def encode(text, merges):
    ids = list(text)
    while known := [pair for pair in pairwise(ids) if pair in merges]:
        pair = min(known, key=merges.get)
        ids = merge(ids, pair, merges[pair])
    return ids
