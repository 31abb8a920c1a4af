"""Side-by-side speed measurements: `python -m benchmarks.NAME`, which measures this checkout."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
if sys.path[:1] != [str(ROOT / "src")]:
    sys.path.insert(0, str(ROOT / "src"))
