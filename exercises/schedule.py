"""Exercise 8: the learning-rate schedule.

Lecture 2, "learning rate scheduler: warmup + cosine decay".
"""


def lr_at(step: int, max_lr: float, min_lr: float, warmup_steps: int, max_steps: int) -> float:
    """The learning rate of step 0, 1, 2, ...

    - step < warmup_steps: max_lr * (step + 1) / warmup_steps
    - then half a cosine from max_lr at warmup_steps to min_lr at max_steps:
      min_lr + 0.5 * (1 + cos(pi * done)) * (max_lr - min_lr), done from 0 to 1
    - from max_steps on: min_lr
    """
    raise NotImplementedError
