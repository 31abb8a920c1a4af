"""Prefix trees: scores sequences that share prefixes, computing each shared token once.

A token of a tree attends to its ancestors only (by the mask) and has the position that it has in
its own row, so every row's nll is as if it were alone. Nodes are in preorder, where a node's
descendants are contiguous: the mask follows from the index of each node's last descendant.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reprogpt.evaluation.scoring import Head, tokens_at_once
from reprogpt.model.gpt import GPT
from reprogpt.model.kernels.packed_linear import packed
from reprogpt.runtime.device import copy_to
from reprogpt.runtime.distributed import Process
from reprogpt.runtime.progress import progress as bar


@dataclass(frozen=True)
class PrefixTree:
    """Rows as a tree. A node is a token; a scored token follows a node, and need not be one."""

    tokens: list[int]  # of each node, in preorder
    depths: list[int]  # number of ancestors of each node, which is its position
    last: list[int]  # index of each node's last descendant, its own where it has none
    nodes: list[int]  # for each scored token: the node that it follows,
    targets: list[int]  # the token,
    slots: list[int]  # and the index of the sum that its nll is added to


def build_trees(first_slot: int, context: Sequence[int], endings: Sequence[Sequence[int]],
                block_size: int) -> list[PrefixTree]:
    """Trees of a context and its endings: one, unless rows are truncated to different starts.

    Rows keep their last block_size + 1 tokens. The nll of ending k belongs to slot first_slot + k.
    """
    groups: dict[tuple[int, int], list[tuple[list[int], int]]] = {}
    for k, ending in enumerate(endings):
        start = max(0, len(context) + len(ending) - 1 - block_size)
        row = [*context, *ending][start:]
        if ending and len(row) > 1:  # a character tokenizer may drop all characters of either
            # Rows that keep nothing of the context share no token.
            group = (start, -1 if start < len(context) else k)
            groups.setdefault(group, []).append((row, first_slot + k))
    return [_build_tree(rows, max(1, len(context) - start))
            for (start, _), rows in groups.items()]


def _build_tree(rows: list[tuple[list[int], int]], prefix: int) -> PrefixTree:
    """The tree of (row, slot) pairs that share ``prefix`` tokens, which are not scored."""
    path = list(range(prefix))  # nodes of the previous row
    tree = PrefixTree(rows[0][0][:prefix], list(path), list(path), [], [], [])
    for row, slot in sorted(rows):  # so that a row shares most with the one before it
        shared = prefix
        while shared < min(len(path), len(row) - 1) and tree.tokens[path[shared]] == row[shared]:
            shared += 1
        new = range(len(tree.tokens), len(tree.tokens) + len(row) - 1 - shared)
        path = [*path[:shared], *new]
        tree.tokens.extend(row[shared:-1])
        tree.depths.extend(range(shared, len(row) - 1))
        tree.last.extend(new)
        for node in path:
            tree.last[node] = len(tree.tokens) - 1
        tree.nodes.extend(path[prefix - 1:])
        tree.targets.extend(row[prefix:])
        tree.slots.extend([slot] * (len(row) - prefix))
    return tree


def batches(trees: Sequence[PrefixTree], at_once: int) -> Iterator[list[PrefixTree]]:
    """Batches of trees of similar size, at most ``at_once`` tokens when padded to the longest.

    The longest come first, so that running out of memory happens at once. A batch that is half
    full ends where the next tree would be an eighth padding: matrix products lose less by fewer
    rows than by padding.
    """
    batch: list[PrefixTree] = []
    for tree in sorted(trees, key=lambda tree: len(tree.tokens), reverse=True):
        if batch:
            size = len(batch[0].tokens)
            full = (len(batch) + 1) * size > at_once
            padded = 8 * len(tree.tokens) < 7 * size and 2 * len(batch) * size > at_once
            if full or padded:
                yield batch
                batch = []
        batch.append(tree)
    if batch:
        yield batch


def score_pairs(model: GPT, pairs: Sequence[Sequence[list[int]]], process: Process,
                at_once: int | None = None) -> list[tuple[float, bool]]:
    """For each (context, ending): the ending's log-likelihood, and whether greedy decoding would
    write it. Neighbors with the same context, as a question's answers, share a tree.
    """
    trees: list[PrefixTree] = []
    slot, endings = 0, []
    for n, (context, ending) in enumerate(pairs):
        endings.append(ending)
        full = sum(map(len, endings)) >= model.cfg.block_size
        if full or n + 1 == len(pairs) or pairs[n + 1][0] != context:
            trees += build_trees(slot, context, endings, model.cfg.block_size)
            slot, endings = n + 1, []
    sums = score_trees(model, trees, slot, process, at_once, "tasks" if process.is_first else "",
                       greedy=True)
    nll, missed = sums.tolist()
    return [(-total, count == 0) for total, count in zip(nll, missed, strict=True)]


@torch.no_grad()
def score_trees(model: GPT, trees: Sequence[PrefixTree], slots: int, process: Process,
                at_once: int | None = None, name: str = "", greedy: bool = False) -> Tensor:
    """(2, slots) float64: the summed nll of each slot and, with ``greedy``, how many of its tokens
    greedy decoding would not choose. Trees are distributed over the processes; the result is the
    same on each.

    ``at_once``: tokens in a forward pass, None for the device's default. ``name``: the progress
    bar's, "" for none. Matrix products are in the model's dtype, sums in float32 or higher.
    """
    sums = torch.zeros(2, slots, dtype=torch.float64)
    model, head = packed(model, many_rows=True), Head.of(model)
    at_once = at_once or tokens_at_once(process.device)
    mine = list(batches(trees, at_once))[process.rank::process.world_size]
    # Results are copied from the device at the end, so that it computes while trees are laid out.
    scored = [score_batch(model, head, batch, process.device, greedy) for batch in
              bar(mine, name, unit=" batches", disable=not name, leave=False)]
    for where, nll, missed in scored:
        sums[0].index_add_(0, where, nll.cpu().double())
        if missed is not None:
            sums[1].index_add_(0, where, missed.cpu().double())
    return process.sum(sums)


def score_batch(model: GPT, head: Head, trees: Sequence[PrefixTree], device: torch.device,
                greedy: bool = False) -> tuple[Tensor, Tensor, Tensor | None]:
    """Scores a batch, per scored token: slots (N,) int64 on the CPU, nll (N,) float32 on the
    device, and with ``greedy`` (N,) bool, whether another token is more likely. ``head`` is the
    model's. Does not synchronize with the device."""
    sizes = np.array([len(t.tokens) for t in trees])
    columns = np.arange(sizes.max())
    real = columns < sizes[:, None]  # (B, T)

    def padded(values: Iterable[list[int]], padding: int | NDArray[np.int64] = 0) -> Tensor:
        table = np.full(real.shape, padding, dtype=np.int64)
        table[real] = _concatenated(values)
        return copy_to(torch.from_numpy(table), device)

    # Padding attends to itself, since a softmax over no keys is nan.
    last = padded((t.last for t in trees), padding=columns)
    node = torch.arange(len(columns), device=device)
    mask = (node <= node[:, None]) & (node[:, None] <= last[:, None, None])  # (B, 1, T, T)
    hidden = model(padded(t.tokens for t in trees), positions=padded(t.depths for t in trees),
                   mask=mask)
    first = np.repeat(np.arange(len(trees)) * len(columns), [len(t.nodes) for t in trees])
    # Several targets may follow one node: its log-normalizer is computed once.
    unique, back = np.unique(first + _concatenated(t.nodes for t in trees), return_inverse=True)
    x = hidden.flatten(0, 1)[copy_to(torch.from_numpy(unique), device)]
    back = copy_to(torch.from_numpy(back), device)
    targets = copy_to(torch.from_numpy(_concatenated(t.targets for t in trees)), device)
    likeliest = torch.empty(len(x), dtype=torch.int64, device=device) if greedy else None
    nll = head.log_normalizer(x, likeliest)[back] - head.target_logit(x[back], targets)
    missed = None if likeliest is None else likeliest[back] != targets
    return torch.from_numpy(_concatenated(t.slots for t in trees)), nll, missed


def _concatenated(lists: Iterable[list[int]]) -> NDArray[np.int64]:
    return np.fromiter(chain.from_iterable(lists), dtype=np.int64)
