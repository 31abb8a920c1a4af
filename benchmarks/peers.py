"""Other people's models, from a checkout that the user names."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType


def nanogpt_module(checkout: str | Path) -> ModuleType:
    """model.py of a checkout of karpathy/nanoGPT. Ends the program where it is not there."""
    file = Path(checkout) / "model.py"
    spec = importlib.util.spec_from_file_location("nanogpt_model", file)
    if not file.is_file() or spec is None or spec.loader is None:
        raise SystemExit(f"--nanogpt {checkout}: no model.py there; name a checkout of "
                         "github.com/karpathy/nanoGPT")
    module = sys.modules["nanogpt_model"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
