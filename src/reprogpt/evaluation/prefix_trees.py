"""Rows that share their beginnings, scored as trees: what they share is computed once.

Each token of a tree sees its own ancestors only (the attention mask) and sits at the position that
it has in its row, so every row is scored as if it were alone. Trees of similar size share a batch.

Nodes are in preorder: a node's descendants follow it without a gap, so where the last of them is
says of all nodes at once who sees whom, and the mask is made on the device, by two comparisons.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reprogpt.evaluation.scoring import Head
from reprogpt.model.gpt import GPT
from reprogpt.runtime.device import copy_to


@dataclass(frozen=True)
class Tree:
    """Rows that share their beginnings: nodes in preorder that hold a token each, and the tokens
    that follow nodes and are scored."""

    tokens: list[int]
    depths: list[int]
    """How many ancestors a node has: its token's position."""
    last: list[int]
    """The last descendant of a node, itself where it has none."""
    nodes: list[int]
    """Which node a scored token follows..."""
    targets: list[int]
    """...which token that is..."""
    slots: list[int]
    """...and the sum to which its nll belongs."""

    @property
    def branches(self) -> bool:
        """Whether some node does not see all before it."""
        return min(self.last) < len(self.last) - 1


def grow(first_slot: int, context: Sequence[int], endings: Sequence[Sequence[int]],
         block_size: int) -> list[Tree]:
    """The trees of a context and its endings: one, unless rows were cut at different places.

    A row of n + 1 tokens needs n positions, since nothing follows the last. Ending k is summed
    in slot first_slot + k.
    """
    alike: dict[tuple[int, int], list[tuple[list[int], int]]] = {}
    for k, ending in enumerate(endings):
        start = max(0, len(context) + len(ending) - 1 - block_size)
        row = [*context, *ending][start:]
        if ending and len(row) > 1:  # a character model may know no character of either
            # Where nothing of the context is left, the rows share no token.
            group = (start, -1 if start < len(context) else k)
            alike.setdefault(group, []).append((row, first_slot + k))
    return [_tree(rows, max(1, len(context) - start)) for (start, _), rows in alike.items()]


def _tree(rows: list[tuple[list[int], int]], trunk: int) -> Tree:
    """The tree of (row, slot) pairs whose first ``trunk`` tokens, not scored, are the same."""
    tokens, parents = rows[0][0][:trunk], list(range(-1, trunk - 1))
    tree = Tree(tokens, list(range(trunk)), [], [], [], [])
    children: dict[tuple[int, int], int] = {}
    for row, slot in sorted(rows):  # by which a node's descendants follow it without a gap
        path = [trunk - 1]
        for depth, token in enumerate(row[trunk:-1], trunk):
            step = path[-1], token
            if step not in children:
                children[step] = len(tokens)
                tokens.append(token)
                parents.append(path[-1])
                tree.depths.append(depth)
            path.append(children[step])
        tree.nodes.extend(path)
        tree.targets.extend(row[trunk:])
        tree.slots.extend([slot] * len(path))
    tree.last.extend(range(len(tokens)))
    for node in range(len(tokens) - 1, 0, -1):
        tree.last[parents[node]] = max(tree.last[parents[node]], tree.last[node])
    return tree


def batches(trees: Sequence[Tree], at_once: int) -> Iterator[list[Tree]]:
    """Trees of similar size together, as many as fill at_once when padded to the longest.

    The longest come first: a batch that does not fit in memory fails at once. A batch that is half
    full ends where the next tree would be an eighth padding: matrix products lose less by fewer
    rows than by empty ones.
    """
    batch: list[Tree] = []
    for tree in sorted(trees, key=lambda t: (t.branches, len(t.tokens)), reverse=True):
        if batch:
            size = len(batch[0].tokens)
            full = (len(batch) + 1) * size > at_once
            empty = 8 * len(tree.tokens) < 7 * size and 2 * len(batch) * size > at_once
            if full or empty or batch[0].branches != tree.branches:
                yield batch
                batch = []
        batch.append(tree)
    if batch:
        yield batch


def score_batch(model: GPT, head: Head, trees: Sequence[Tree], device: torch.device
                ) -> tuple[Tensor, Tensor]:
    """(slots, nll) of every scored token of a batch, nll float32 on the device; ``head`` is the
    model's. Nothing waits for the device."""
    sizes = np.array([len(t.tokens) for t in trees])
    columns = np.arange(sizes.max())
    real = columns < sizes[:, None]  # (rows, width)

    def table(values: Iterable[list[int]], padding: int | NDArray[np.int64] = 0) -> Tensor:
        filled = np.full(real.shape, padding, dtype=np.int64)
        filled[real] = _joined(values)
        return copy_to(torch.from_numpy(filled), device)

    idx = table(t.tokens for t in trees)
    if any(t.branches for t in trees):
        # Padding sees itself alone: a softmax over nothing would be nan.
        last = table((t.last for t in trees), padding=columns)
        node = torch.arange(len(columns), device=device)
        mask = (node <= node[:, None]) & (node[:, None] <= last[:, None, None])  # (rows, 1, n, n)
        hidden = model(idx, positions=table(t.depths for t in trees), mask=mask)
    else:  # lines only: the padding lies in their future, which no position sees
        hidden = model(idx)
    first = np.repeat(np.arange(len(trees)) * len(columns), [len(t.nodes) for t in trees])
    # Endings meet in their parents: normalize each hidden state once, however many follow it.
    unique, back = np.unique(first + _joined(t.nodes for t in trees), return_inverse=True)
    x = hidden.flatten(0, 1)[copy_to(torch.from_numpy(unique), device)]
    back = copy_to(torch.from_numpy(back), device)
    targets = copy_to(torch.from_numpy(_joined(t.targets for t in trees)), device)
    nll = head.log_normalizer(x)[back] - head.target_logit(x[back], targets)
    return torch.from_numpy(_joined(t.slots for t in trees)), nll


def _joined(lists: Iterable[list[int]]) -> NDArray[np.int64]:
    return np.fromiter(chain.from_iterable(lists), dtype=np.int64)
