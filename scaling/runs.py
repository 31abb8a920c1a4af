"""The params of the runs behind the law."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ladder.rungs import pick
from pipeline import ROOT
from reprogpt.config import Config, merge, read_yaml

FOLDER = Path("scaling")
DVC_FILE, PARAMS_FILE = FOLDER / "dvc.yaml", FOLDER / "params.yaml"
TOKENS, METRICS = ROOT / FOLDER / "data/tokens", ROOT / FOLDER / "metrics"
PREDICTION, HELD_OUT = ROOT / FOLDER / "prediction.json", ROOT / FOLDER / "held_out.json"


def shared() -> Config:
    """The params that all runs share. Raises ConfigError."""
    return Config.parse(_read()[0], source=str(PARAMS_FILE))


def runs(name: str) -> list[Config]:
    """The runs of one size, a run for each count of tokens; that of the held-out size under the
    name held_out. Raises ConfigError, also for a size that does not exist."""
    base, plan = _read()
    sizes = plan["sizes"] | {"held_out": plan["held_out"]["size"]}
    values = merge(base, pick(PARAMS_FILE, "sizes", sizes, name))
    counts = [plan["held_out"]["tokens"]] if name == "held_out" else plan["tokens"]
    return [_run(values, tokens) for tokens in counts]


def sizes() -> list[str]:
    """The names of the sizes that the law is fitted to."""
    return list(_read()[1]["sizes"])


def first(name: str) -> Config:
    """The first run of a size: what its stage's frame validates. Raises ConfigError."""
    return runs(name)[0]


def _read() -> tuple[dict[str, Any], dict[str, Any]]:
    """The params that all runs share, and the plan: tokens, sizes, held_out."""
    values = read_yaml(PARAMS_FILE)
    return values, {key: values.pop(key) for key in ("tokens", "sizes", "held_out")}


def _run(values: Mapping[str, Any], tokens: int) -> Config:
    train = values["train"]
    steps = max(1, tokens // train["batch_tokens"])
    schedule = {"max_steps": steps, "eval_interval": steps, "min_lr": train["lr"] / 10,
                "warmup_steps": min(train["warmup_steps"], steps // 10)}
    return Config.parse(merge(values, {"train": schedule}), source=str(PARAMS_FILE))
