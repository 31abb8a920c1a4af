"""docs/reliability.md holds what was recorded, and what fails is recorded, too."""

import json

import pytest

from tests.conftest import ROOT, run
from tests.faults.page import PAGE, RESULTS, TABLE, note, read_notes, table

FAILING = """
def test_this(trial):
    assert not "the fault that it makes"
"""


def test_the_page_s_table_is_made_from_the_results() -> None:
    found = TABLE.search(PAGE.read_text())
    assert found is not None
    assert found[0] == table(json.loads(RESULTS.read_text()))


def test_equal_notes_are_counted(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAULTS_NOTES", str(tmp_path / "notes"))
    for outcome in ("one line", "right bytes", "one line"):
        note("network", "torn | cut", outcome, 2)
    rows = read_notes((tmp_path / "notes").read_text())
    assert rows == {"network": [("torn | cut", "one line", 4), ("torn | cut", "right bytes", 2)]}
    assert "### Network: 6" in table(rows)
    assert r"| torn \| cut | 4 | one line |" in table(rows)


def test_a_test_that_fails_is_recorded_as_that(tmp_path) -> None:
    (tmp_path / "tests/faults").mkdir(parents=True)
    test = tmp_path / "tests/faults/test_network.py"
    test.write_text(FAILING)
    notes = tmp_path / "notes"
    done = run("python", "-m", "pytest", "-q", "-p", "tests.faults.conftest", "--rootdir",
               str(tmp_path), str(test), cwd=ROOT, FAULTS_NOTES=str(notes))
    assert done.returncode == 1, done.stdout
    assert read_notes(notes.read_text()) == {"network": [("test_this", "FAILED", 1)]}
