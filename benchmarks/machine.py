"""What a benchmark ran on, and its figures as a file."""

import datetime
import json
import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from reprogpt.runtime.workers import usable_cores

CPU = torch.device("cpu")
PACKAGES = ("torch", "numpy", "tiktoken", "gigatoken", "transformers")


def machine(device: torch.device = CPU) -> dict[str, Any]:
    """GPU if it is one, processor, cores that may be used, load, date, versions."""
    found = Path("/proc/cpuinfo")
    lines = found.read_text().splitlines() if found.exists() else []
    names = (line.split(": ")[1] for line in lines if line.startswith("model name"))
    gpu = {"gpu": torch.cuda.get_device_name(device)} if device.type == "cuda" else {}
    return gpu | {"processor": next(names, platform.machine()), "cores": usable_cores(),
            "load": round(os.getloadavg()[0], 1), "date": str(datetime.date.today()),
            "python": platform.python_version(), **_versions()}


def _versions() -> dict[str, str]:
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def heading(device: torch.device = CPU) -> str:
    """The machine in one line, for above a table."""
    return ", ".join(f"{key} {value}" for key, value in machine(device).items())


def write(path: str | Path | None, rows: Any, device: torch.device = CPU) -> None:
    """``rows`` and the machine as JSON, where a path is given."""
    if path:
        whole = {"machine": machine(device), "rows": rows}
        Path(path).write_text(json.dumps(whole, indent=2) + "\n")
