"""Published HellaSwag scores of GPT-2 and GPT-3, to compare a model with.

Published validation losses are not here, since they are on other text than ours.
"""

import math
from dataclasses import dataclass

METRICS = ("acc", "acc_norm", "lm_eval_acc", "lm_eval_acc_norm")
"""HellaSwag's accuracies: hellaswag.py says what they are."""
CHANCE = 0.25
"""Accuracy of guessing among four endings."""


@dataclass(frozen=True)
class Reference:
    """A published model and its HellaSwag scores, named as in hellaswag.py."""

    name: str
    parameters: float
    scores: dict[str, float]


# 124M and 1558M: the head of build-nanogpt's hellaswag.py, which quotes its own figures (acc,
# acc_norm) and lm-evaluation-harness's (lm_eval_*). Between them: `hella2_baseline` of its
# play.ipynb, where 124M has 0.2945 and 1558M 0.4889 (github.com/karpathy/build-nanogpt).
GPT2 = (
    Reference("GPT-2 124M", 124.4e6, {"acc": 0.2859, "acc_norm": 0.2955, "lm_eval_acc": 0.2892,
                                      "lm_eval_acc_norm": 0.3114}),
    Reference("GPT-2 355M", 354.8e6, {"acc_norm": 0.3752}),
    Reference("GPT-2 774M", 774.0e6, {"acc_norm": 0.4320}),
    Reference("GPT-2 1558M", 1557.6e6, {"acc": 0.3842, "acc_norm": 0.4893, "lm_eval_acc": 0.4004,
                                        "lm_eval_acc_norm": 0.5089}),
)
# "Language Models are Few-Shot Learners" (Brown et al., 2020, arXiv:2005.14165), table H.1,
# zero-shot, sizes of table 2.1. Likelihood per token, as acc_norm, with a prompt of its own. The
# four smallest are also `hella3_baseline` of build-nanogpt's play.ipynb, 1.3B and above are in the
# table of GPT-J's model card (huggingface.co/EleutherAI/gpt-j-6b): checked against both.
GPT3 = tuple(Reference(f"GPT-3 {name}", size, {"acc_norm": score}) for name, size, score in (
    ("125M", 125e6, 0.337), ("350M", 350e6, 0.436), ("760M", 760e6, 0.510),
    ("1.3B", 1.3e9, 0.547), ("2.7B", 2.7e9, 0.628), ("6.7B", 6.7e9, 0.674),
    ("13B", 13e9, 0.709), ("175B", 175e9, 0.789)))


def nearest(parameters: int) -> dict[str, Reference]:
    """The published GPT-2 and GPT-3 nearest in size, by ratio: {"gpt2": ..., "gpt3": ...}."""
    def distance(reference: Reference) -> float:
        return abs(math.log(reference.parameters / max(1, parameters)))

    return {"gpt2": min(GPT2, key=distance), "gpt3": min(GPT3, key=distance)}
