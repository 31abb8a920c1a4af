"""Comparisons that say in plain words what is wrong with a learner's answer."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor


class Wrong(Exception):
    """What is wrong with a learner's answer, as a sentence for the learner."""


def normal(*shape: int, seed: int = 0) -> Tensor:
    """Numbers drawn from N(0, 1), the same each time."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def tokens(vocab_size: int, *shape: int, seed: int = 0) -> Tensor:
    """Random ids below ``vocab_size``, int64, the same each time."""
    return torch.randint(vocab_size, shape, generator=torch.Generator().manual_seed(seed))


def same(what: str, found: object, wanted: object, axes: str = "",
         mistakes: Mapping[str, object] | None = None,
         otherwise: Callable[[], None] = lambda: None) -> None:
    """Raises Wrong unless ``found`` has the shape and the values of ``wanted``, up to rounding.

    ``what`` names the result, ``axes`` its dimensions ("BTC"). ``mistakes``: what to say -> what
    a typical wrong solution returns. ``otherwise`` may raise something more telling than the first
    wrong value.
    """
    right, given = tensor(what, wanted), tensor(what, found)
    if given.shape != right.shape:
        named = f" ({', '.join(axes)})" if axes else ""
        raise Wrong(f"{what} has shape {tuple(given.shape)}; it must be {tuple(right.shape)}"
                    f"{named}")
    if not (bad := differs(given, right)).any():
        return
    for says, value in (mistakes or {}).items():
        mistaken = tensor(what, value)
        if mistaken.shape == given.shape and not differs(given, mistaken).any():
            raise Wrong(f"{what}: {says}")
    otherwise()
    at = tuple(bad.nonzero()[0].tolist())
    names = [f"{axis.lower()}=" for axis in axes] or [""] * len(at)
    where = ", ".join(f"{name}{i}" for name, i in zip(names, at, strict=True))
    raise Wrong(f"{what} is {given[at].item():.6g}" + (f" at [{where}]" if at else "")
                + f"; it must be {right[at].item():.6g}"
                + (f" ({bad.sum()} of {bad.numel()} values differ)" if at else ""))


def tensor(what: str, value: object) -> Tensor:
    """A tensor of a number, a list or a tensor. Raises Wrong for anything else."""
    if value is None:
        raise Wrong(f"{what} is None; is a `return` missing?")
    try:
        return torch.as_tensor(value).detach()
    except (TypeError, ValueError, RuntimeError):
        raise Wrong(f"{what} is a {type(value).__name__}; it must be a tensor or numbers") from None


def values(what: str, found: object, n: int) -> tuple[Any, ...]:
    """The n values that a function returned. Raises Wrong if it returned something else."""
    if isinstance(found, tuple | list) and len(found) == n:
        return tuple(found)
    raise Wrong(f"{what} returns a {type(found).__name__}; it must return {n} values, as in "
                f"`return {', '.join('abc'[:n])}`")


def differs(a: Tensor, b: Tensor) -> Tensor:
    """Where two tensors of one shape differ by more than rounding; nan is equal to nan."""
    scale = b.double().nan_to_num(0, 0, 0).abs().max().item()
    return ~torch.isclose(a.double(), b.double(), rtol=1e-4, atol=1e-5 * scale, equal_nan=True)


def causal(what: str, f: Callable[[Tensor], Tensor], x: Tensor) -> None:
    """Raises Wrong unless f, x (B, T, C) -> (B, T, ..), lets position t depend on 0..t of its own
    row and on nothing else. Changes one position at a time and compares the outputs."""
    before = f(x).detach()
    for s in range(x.size(1)):
        edited = x.clone()
        edited[0, s] += 1
        changed = ((f(edited).detach() - before).abs() > 1e-6).flatten(2).any(-1)  # (B, T)
        if changed[1:].any():
            raise Wrong(f"{what} mixes the rows of the batch: row 1 changes with row 0")
        if changed[0, :s].any():
            t = int(changed[0].nonzero()[0])
            raise Wrong(f"{what} attends to the future: position {t} changes with position {s}")
        if not changed[0, s:].all():
            t = s + int((~changed[0, s:]).nonzero()[0])
            raise Wrong(f"{what}: position {t} does not see position {s}, but should")
