"""Checkpoints: saved atomically, verified when loaded.

``runs/<fingerprint>/step_000250.pt`` is the state after 250 updates, ``step_000250.sha256`` its
checksum. Both are written under a temporary name, synced and renamed, the checksum first.
"""

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn

from reprogpt.launch.run_dir import checkpoint_steps as steps
from reprogpt.runtime.distributed import Process
from reprogpt.storage.files import replacing, sha256_of, write_bytes
from reprogpt.training.metrics_log import COLUMNS
from reprogpt.training.sharding import load_model_state, load_optimizer_state


class _State(BaseModel):
    """What Trainer saves after a step."""

    model_config = ConfigDict(strict=True, arbitrary_types_allowed=True, protected_namespaces=())
    step: int
    model: dict[str, Tensor]
    optimizer: dict[str, Any]
    scaler: dict[str, Any]
    seconds: float
    best: Annotated[dict[Literal["loss", "step"], float], Field(min_length=2)] | None
    rows: list[Annotated[dict[Literal[COLUMNS], float],  # type: ignore[valid-type]
                         Field(min_length=len(COLUMNS))]]
    probes: list[dict[str, Any]] = []
    recent: list[float]
    resolved: Annotated[dict[Literal["precision", "micro_batch", "compile"], str | int | bool],
                        Field(min_length=3)]
    numerics: dict[str, str]


def new_state() -> dict[str, Any]:
    """The part of the state that a run has before its first step."""
    return {"step": 0, "seconds": 0.0, "best": None, "rows": [], "probes": [], "recent": [],
            "resolved": {}}


def save(run: Path, name: str, state: dict[str, Any]) -> Path:
    """Writes ``state`` as ``run/name.pt`` with its checksum beside it. Raises OSError."""
    path = run / f"{name}.pt"
    with replacing(path) as temporary:
        with temporary.open("wb") as file:  # torch.save(path) would put its name into the bytes
            try:
                torch.save(state, file)
            except RuntimeError as error:  # "unexpected pos" is what torch says of a full disk
                if isinstance(error.__context__, OSError):
                    raise error.__context__ from None
                raise
        write_bytes(path.with_suffix(".sha256"), sha256_of(temporary).encode())
    return path


def load(path: Path) -> dict[str, Any]:
    """The state in a checkpoint. Raises ValueError when the file is damaged, missing or foreign."""
    try:
        expected = checksum(path)
        found = sha256_of(path)
        if found != expected:
            raise ValueError(f"{path}: its sha256 is {found[:12]}..., not {expected[:12]}...")
        state: dict[str, Any] = torch.load(path, "cpu", weights_only=True)
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None
    except ValueError:
        raise
    except Exception as error:  # torch.load raises a dozen kinds for what it did not write
        raise ValueError(f"{path}: is no checkpoint ({type(error).__name__})") from None
    return state


def checksum(path: Path) -> str:
    """The sha256 recorded beside a checkpoint. Raises OSError when there is none."""
    return path.with_suffix(".sha256").read_text(errors="replace")


def restore(run: Path, process: Process) -> dict[str, Any] | None:
    """Rank 0's newest intact checkpoint on every process, or None. A node that does not have the
    file is sent it by rank 0. A collective."""
    state = latest(run) if process.is_first else None  # it alone, as this renames damaged ones
    path = run / f"step_{state['step'] if state else 0:06d}.pt"
    found = process.from_first([path.name, checksum(path)] if state else None)
    if found is None:
        return None
    path = run / found[0]
    absent = not (path.exists() and path.with_suffix(".sha256").exists()
                  and checksum(path) == found[1])
    if process.any(absent):
        content = process.broadcast(path.read_bytes() if process.is_first else b"")
        return state or torch.load(io.BytesIO(content), "cpu", weights_only=True)
    return state or load(path)


def latest(run: Path) -> dict[str, Any] | None:
    """The state of the newest intact checkpoint in ``run``, or None. Damaged ones are renamed."""
    for step in reversed(steps(run)):
        path = run / f"step_{step:06d}.pt"
        try:
            return _checked(load(path), path, step)
        except ValueError as error:
            spoiled = path.with_suffix(".spoiled")
            path.replace(spoiled)
            path.with_suffix(".sha256").unlink(missing_ok=True)
            print(f"{error}; set aside as {spoiled.name}, using the checkpoint before it",
                  file=sys.stderr, flush=True)
    return None


def _checked(state: dict[str, Any], path: Path, step: int) -> dict[str, Any]:
    """``state``, if it has all that Trainer saves, after ``step`` updates. Raises ValueError."""
    try:
        found = _State.model_validate(state)
    except ValidationError as error:
        problem = error.errors()[0]
        raise ValueError(f"{path}: is no checkpoint of a step ({'.'.join(map(str, problem['loc']))}"
                         f": {problem['msg']})") from None
    if found.step != step:
        raise ValueError(f"{path}: is the checkpoint of another step, {found.step}")
    return state


def load_into(model: nn.Module, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler,
              state: dict[str, Any], run: Path) -> None:
    """Loads a checkpoint of ``run``. Raises ValueError when it is that of another model."""
    with _restoring(run / f"step_{state['step']:06d}.pt"):
        load_model_state(model, state["model"])
        load_optimizer_state(optimizer, state["optimizer"])
        scaler.load_state_dict(state["scaler"])


def load_best(model: nn.Module, run: Path, step: int) -> None:
    """Loads the weights that train.keep=best kept after ``step``. Raises ValueError."""
    path = run / f"best_{step:06d}.pt"
    try:
        state = load(path)
        with _restoring(path):
            model.load_state_dict(state["model"])
    except ValueError as error:
        raise ValueError(f"{error}; it was the best model: remove {run} to train anew") from None


def announce(state: dict[str, Any], now: dict[str, Any], run: Path) -> None:
    """Says that the run continues, and what changes its last bits from now on; ``now``: numerics
    and resolved params."""
    print(f"continuing run {run.name} from step {state['step']}", file=sys.stderr)
    was = state["numerics"] | state["resolved"]
    changed = [f"{k} {was[k]} -> {now[k]}" for k in was.keys() & now if was[k] != now[k]]
    if changed:
        print("this continuation is no longer bit-identical to an uninterrupted run: "
              + ", ".join(changed), file=sys.stderr)


@contextmanager
def _restoring(path: Path) -> Iterator[None]:
    """Names the checkpoint in what its body raises when the state is that of another model."""
    try:
        yield
    except (ValueError, LookupError, TypeError, AttributeError, RuntimeError) as error:
        what = " ".join(str(error).split())[:200]
        raise ValueError(f"{path}: is no checkpoint of this run ({what}); remove it, and the same "
                         "command continues from the one before it") from None


def prune(run: Path, keep: int, best: int | None = None) -> None:
    """Removes all but the last ``keep`` checkpoints, every best_* but that of step ``best``, and
    temporary files that a kill left behind."""
    old = [run / f"step_{step:06d}.pt" for step in steps(run)[:-keep]]
    old += [p for p in run.glob("best_*.pt")
            if p.stem[5:].isdecimal() and int(p.stem[5:]) != best]
    for path in old:
        path.unlink(missing_ok=True)  # first: a checksum alone is harmless
        path.with_suffix(".sha256").unlink(missing_ok=True)
    for temporary in (*run.glob(".step_*"), *run.glob(".best_*")):
        temporary.unlink(missing_ok=True)

