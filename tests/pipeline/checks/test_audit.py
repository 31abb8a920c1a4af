"""What pip-audit reports, and that it may be unable to ask. Asks no service: pip-audit is a script
that prints a report."""

import json
from pathlib import Path

import pytest

from tests.conftest import ROOT, clean_environment, run

OLD = {"name": "x", "version": "1", "vulns": [{"id": "CVE-1", "fix_versions": ["2"]}]}
UNMENDED = {"name": "y", "version": "1", "vulns": [{"id": "CVE-2", "fix_versions": []}]}
SOUND = {"name": "z", "version": "1", "vulns": []}
UNKNOWN = {"name": "z", "skip_reason": "Dependency not found"}


@pytest.mark.parametrize(("report", "status", "said"), [
    ({"dependencies": [OLD, SOUND]}, 1, "x 1: CVE-1; pin 2 in constraints.txt"),
    ({"dependencies": [UNMENDED, SOUND]}, 0, "y 1: CVE-2; no version mends it yet"),
    ({"dependencies": [SOUND, UNKNOWN]}, 0, "1 of 2 packages looked up, 0 vulnerabilities"),
    ({"dependencies": [UNKNOWN]}, 0, "0 of 1 packages looked up, 0 vulnerabilities"),
    (None, 0, "audit: not done, the advisory service cannot be reached (no route)"),
])
def test_audit(report: dict | None, status: int, said: str, tmp_path: Path) -> None:
    text = "" if report is None else json.dumps(report)
    program = tmp_path / "pip-audit"
    program.write_text(f"#!/bin/sh\necho no route >&2\ncat <<'E'\n{text}\nE\nexit 1\n")
    program.chmod(0o755)
    path = f"{tmp_path}:{clean_environment()['PATH']}"
    done = run("python", "-m", "pipeline.checks.audit", cwd=ROOT, PATH=path)
    assert done.returncode == status, done.stderr
    assert said in done.stdout
