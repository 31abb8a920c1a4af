"""Prefix trees: their nodes, and batches of them."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from reprogpt.evaluation.prefix_trees import batches, build_trees, score_batch
from reprogpt.evaluation.scoring import Head
from tests.small_models import random_model

torch.set_num_threads(1)
ids = st.integers(0, 3)


def test_what_rows_share_is_computed_once():
    tree, = build_trees(0, [1, 2, 3], [[4, 5, 6], [4, 5, 7], [4, 8, 9], [6, 1, 1]], 12)
    # the context; 4, 5 and 4, 8 and 6, 1: nothing follows an ending's last token
    assert tree.tokens == [1, 2, 3, 4, 5, 8, 6, 1]
    assert tree.depths == [0, 1, 2, 3, 4, 4, 3, 4]
    # a node is seen from itself to its last descendant
    assert [tree.tokens[i] for i in tree.last] == [1, 1, 1, 8, 5, 8, 1, 1]


def test_nodes_are_in_preorder_whatever_the_order_of_endings():
    tree, = build_trees(0, [1], [[4, 5, 0], [6, 1, 0], [4, 8, 0]], 12)
    assert tree.tokens == [1, 4, 5, 8, 6, 1]
    assert tree.last == [5, 3, 2, 3, 5, 5]
    scored = {slot: [(tree.tokens[node], target) for node, target, s in
                     zip(tree.nodes, tree.targets, tree.slots) if s == slot] for slot in range(3)}
    assert scored == {0: [(1, 4), (4, 5), (5, 0)], 1: [(1, 6), (6, 1), (1, 0)],
                      2: [(1, 4), (4, 8), (8, 0)]}


@given(st.lists(st.integers(1, 40), min_size=1, max_size=30), st.integers(1, 200))
def test_batches_hold_every_tree_once_and_fit(sizes, eval_tokens):
    trees = [build_trees(i, [1] * n, [[1, 2], [2, 3]], 50)[0] for i, n in enumerate(sizes)]
    packed = list(batches(trees, eval_tokens))
    slots = [tree.slots[0] for batch in packed for tree in batch]
    assert sorted(slots) == list(range(len(sizes)))
    for batch in packed:
        longest = max(len(tree.tokens) for tree in batch)
        assert len(batch) == 1 or len(batch) * longest <= eval_tokens


@given(st.lists(ids, min_size=1, max_size=6),
       st.lists(st.lists(ids, min_size=1, max_size=6), min_size=1, max_size=5))
def test_a_tree_has_every_row_and_every_prefix_once(context, endings):
    tree, = build_trees(0, context, endings, 50)
    rows = [(*context, *ending) for ending in endings]
    ancestors = [[a for a in range(n) if tree.last[a] >= n] for n in range(len(tree.tokens))]
    assert [len(a) for a in ancestors] == tree.depths
    prefixes = [tuple(tree.tokens[a] for a in [*above, n]) for n, above in enumerate(ancestors)]
    expected = {row[:n] for row in rows for n in range(1, len(row))}
    assert sorted(prefixes) == sorted(expected)
    scored = {k: [] for k in range(len(rows))}
    for node, target, slot in zip(tree.nodes, tree.targets, tree.slots):
        scored[slot].append((prefixes[node], target))
    for k, row in enumerate(rows):
        assert scored[k] == [(row[:n], row[n]) for n in range(len(context), len(row))]


def test_a_batch_gives_the_nll_of_every_scored_token():
    model = random_model(10, scale=0.3)
    trees = [*build_trees(0, [1, 2], [[3, 4, 5], [3, 6]], 12), *build_trees(2, [7], [[8, 9]], 12)]
    slots, nll, _ = score_batch(model, Head.of(model), trees, torch.device("cpu"))
    rows = {0: [1, 2, 3, 4, 5], 1: [1, 2, 3, 6], 2: [7, 8, 9]}
    for slot, row in rows.items():
        log_p = model.logits(model(torch.tensor([row]))).log_softmax(-1)[0]
        start = 1 if slot == 2 else 2
        expected = [-log_p[n - 1, row[n]] for n in range(start, len(row))]
        torch.testing.assert_close(nll[slots == slot], torch.stack(expected))
