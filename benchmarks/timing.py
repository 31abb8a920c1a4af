"""Milliseconds of an operation on a device."""

import time
from collections.abc import Callable
from itertools import pairwise
from statistics import median

import torch

from reprogpt.runtime.device import synchronize


def milliseconds(work: Callable[[], object], device: torch.device, repeats: int = 10) -> float:
    """The median over ``repeats`` calls after three that warm up; by CUDA's events on a GPU."""
    for _ in range(3):
        work()
    synchronize(device)
    if device.type != "cuda":
        seconds = []
        for _ in range(repeats):
            start = time.perf_counter()
            work()
            synchronize(device)
            seconds.append(time.perf_counter() - start)
        return 1e3 * median(seconds)
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(repeats + 1)]
    marks[0].record()
    for mark in marks[1:]:
        work()
        mark.record()
    synchronize(device)
    return median(a.elapsed_time(b) for a, b in pairwise(marks))
