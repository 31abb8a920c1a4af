"""Looks up the packages that constraints.txt pins in a list of known vulnerabilities, by pip-audit.

    python -m pipeline.checks.audit     exit code 1 for a vulnerability that a newer version mends

Where no advisory service can be reached, it says so in a line and is content. One without a mended
version is named and passes: nothing can be done about it here.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from pipeline.cli import Parser, one_line

COMMAND = ("pip-audit", "--requirement", "constraints.txt", "--no-deps", "--disable-pip",
           "--progress-spinner", "off", "--timeout", "10", "--format", "json")
"""With --disable-pip it installs nothing and reads the pins alone."""


def main() -> int:
    """The exit code."""
    Parser(__doc__).parse_args()
    done = subprocess.run(COMMAND, capture_output=True, text=True, check=False)
    try:
        packages = json.loads(done.stdout)["dependencies"]
    except ValueError:  # its report is empty where it could not ask
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        print(f"audit: not done, the advisory service cannot be reached ({reason})")
        return 0
    known = [package for package in packages if "vulns" in package]
    found = list(vulnerabilities(known))
    print(*(line for line, _ in found), f"audit: {len(known)} of {len(packages)} packages looked "
          f"up, {len(found)} vulnerabilities", sep="\n")
    return int(any(mended for _, mended in found))


def vulnerabilities(packages: list[dict[str, Any]]) -> Iterator[tuple[str, bool]]:
    """(line, whether a newer version mends it) of each vulnerability in pip-audit's report."""
    for package in packages:
        for entry in package["vulns"]:
            fixes = ", ".join(entry["fix_versions"])
            advice = f"pin {fixes} in constraints.txt" if fixes else "no version mends it yet"
            yield f"{package['name']} {package['version']}: {entry['id']}; {advice}", bool(fixes)


if __name__ == "__main__":
    with one_line():
        sys.exit(main())
