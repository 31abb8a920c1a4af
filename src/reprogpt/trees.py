"""Rows that share their beginnings, scored as trees: what they share is computed once.

Each token of a tree sees its own ancestors only (the attention mask) and sits at the position that
it has in its row, so every row is scored as if it were alone. Trees of similar size share a batch.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from reprogpt.model import GPT
from reprogpt.scoring import Head


@dataclass
class Tree:
    """Rows that share their beginnings. Node n holds a token; its parent comes before it."""

    tokens: list[int]
    trunk: int
    """The first ``trunk`` nodes are one line, each the parent of the next."""
    parents: list[int] = field(default_factory=list)
    """Parents of the nodes after the trunk."""
    depths: list[int] = field(default_factory=list)
    """Positions of the nodes after the trunk."""
    scored: list[tuple[int, int, int]] = field(default_factory=list)
    """(node, the token that should follow it, the sum to which its nll belongs)"""

    def sees(self) -> np.ndarray:
        """(n, n) bool: may node i look at node j, that is, is j its ancestor or itself?"""
        n = len(self.tokens)
        mask = np.eye(n, dtype=bool)
        mask[:self.trunk, :self.trunk] = np.tri(self.trunk, dtype=bool)
        for node, parent in enumerate(self.parents, self.trunk):
            mask[node] |= mask[parent]
        return mask


def grow(first_slot: int, context: Sequence[int], endings: Sequence[Sequence[int]],
         block_size: int) -> list[Tree]:
    """The trees of a context and its endings: one, unless rows were cut at different places.

    A row of n + 1 tokens needs n positions, since nothing follows the last. Ending k is summed
    in slot first_slot + k.
    """
    by_start: dict[int, list[int]] = {}
    for k, ending in enumerate(endings):
        if ending:  # a character model may know no character of it
            start = max(0, len(context) + len(ending) - 1 - block_size)
            by_start.setdefault(start, []).append(k)
    trees = []
    for start, chosen in by_start.items():
        rows = [[*context, *endings[k]][start:] for k in chosen]
        trunk = max(1, len(context) - start)  # an ending longer than the block loses more
        tree = Tree(rows[0][:trunk], trunk)
        if trunk > len(context) - start:  # the rows share no token at all
            trees += [_line(first_slot + k, row) for k, row in zip(chosen, rows, strict=True)
                      if len(row) > 1]
            continue
        children: dict[tuple[int, int], int] = {}
        for k, row in zip(chosen, rows, strict=True):
            node = trunk - 1
            for depth, token in enumerate(row[trunk:], trunk):
                tree.scored.append((node, token, first_slot + k))
                if depth == len(row) - 1:
                    break
                if (node, token) not in children:
                    children[node, token] = len(tree.tokens)
                    tree.tokens.append(token)
                    tree.parents.append(node)
                    tree.depths.append(depth)
                node = children[node, token]
        trees.append(tree)
    return trees


def _line(slot: int, row: list[int]) -> Tree:
    scored = [(node, token, slot) for node, token in enumerate(row[1:])]
    return Tree(row[:-1], len(row) - 1, scored=scored)


def batches(trees: Sequence[Tree], eval_tokens: int) -> Iterator[list[Tree]]:
    """Trees of similar size together, as many as fill eval_tokens when padded to the longest.

    The longest come first: a batch that does not fit in memory fails at once. A batch that is half
    full ends where the next tree would be an eighth padding: matrix products lose less by fewer
    rows than by empty ones.
    """
    batch: list[Tree] = []
    for tree in sorted(trees, key=lambda t: (t.depths != [], len(t.tokens)), reverse=True):
        if batch:
            size = len(batch[0].tokens)
            full = (len(batch) + 1) * size > eval_tokens
            empty = 8 * len(tree.tokens) < 7 * size and 2 * len(batch) * size > eval_tokens
            if full or empty or (batch[0].depths != []) != (tree.depths != []):
                yield batch
                batch = []
        batch.append(tree)
    if batch:
        yield batch


def score_batch(model: GPT, head: Head, trees: Sequence[Tree], device: torch.device
                ) -> tuple[Tensor, Tensor]:
    """(slots, nll) of every scored token of a batch; ``head`` is the model's."""
    rows, width = len(trees), max(len(t.tokens) for t in trees)
    idx = np.zeros((rows, width), dtype=np.int64)
    for b, tree in enumerate(trees):
        idx[b, :len(tree.tokens)] = tree.tokens
    tokens = torch.from_numpy(idx).to(device)
    if any(tree.depths for tree in trees):
        positions = np.zeros((rows, width), dtype=np.int64)
        sees = np.broadcast_to(np.eye(width, dtype=bool), (rows, 1, width, width)).copy()
        for b, tree in enumerate(trees):
            n = len(tree.tokens)
            positions[b, :n] = [*range(tree.trunk), *tree.depths]
            sees[b, 0, :n, :n] = tree.sees()
        hidden = model(tokens, positions=torch.from_numpy(positions).to(device),
                       mask=torch.from_numpy(sees).to(device))
    else:  # lines only: the padding lies in their future, which no position sees
        hidden = model(tokens)
    nodes, targets, slots = torch.tensor(
        [(b * width + node, token, slot) for b, t in enumerate(trees)
         for node, token, slot in t.scored]).unbind(1)
    # Endings meet in their parents: normalize each hidden state once, however many follow it.
    unique, back = nodes.unique(return_inverse=True)
    x = hidden.flatten(0, 1)[unique.to(device)]
    norm, back = head.log_normalizer(x), back.to(device)
    return slots, norm[back] - head.target_logit(x[back], targets.to(device))
