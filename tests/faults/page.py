"""The table of docs/reliability.md, made from what the tests of this folder recorded.

    python -m tests.faults.page NOTES     # adds a run's notes, writes the page, prints the table

A run's notes are lines of JSON in the file that FAULTS_NOTES names: one a fault that was tried.
results.json keeps, area by area, those of the last run that tried it.
"""

import json
import os
import re
import sys
from pathlib import Path

HERE = Path(__file__).parent
RESULTS = HERE / "results.json"
PAGE = HERE.parent.parent / "docs/reliability.md"
TABLE = re.compile(r"(?s)(?<=<!-- table -->\n).*?(?=<!-- end -->)")
AREAS = {"kills": "Kills and stopped processes", "checkpoints": "Damaged checkpoints",
         "data": "Damaged data", "params": "Wrong params", "network": "Network", "space": "Space",
         "size": "Size", "concurrency": "Several at once"}
"""In the page's order. An area that is not listed comes last, under its own name."""
Rows = dict[str, list[tuple[str, str, int]]]
"""area -> (fault, outcome, times)"""


def note(area: str, fault: str, outcome: str, times: int) -> None:
    """Appends one line to the notes; does nothing where FAULTS_NOTES is not set."""
    if notes := os.environ.get("FAULTS_NOTES"):
        with Path(notes).open("a", encoding="utf-8") as file:
            file.write(json.dumps([area, fault, outcome, times], ensure_ascii=False) + "\n")


def read_notes(text: str) -> Rows:
    """The notes of a run, equal ones counted, in the order in which they were first made."""
    counts: dict[tuple[str, str, str], int] = {}
    for line in text.splitlines():
        area, fault, outcome, times = json.loads(line)
        counts[area, fault, outcome] = counts.get((area, fault, outcome), 0) + times
    rows: Rows = {}
    for (area, fault, outcome), times in counts.items():
        rows.setdefault(area, []).append((fault, outcome, times))
    return rows


def table(rows: Rows) -> str:
    """Markdown: a table an area."""
    known = list(AREAS)
    lines = []
    for area in sorted(rows, key=lambda a: known.index(a) if a in known else len(known)):
        total = sum(times for _, _, times in rows[area])
        lines += [f"### {AREAS.get(area, area)}: {total:,}", "",
                  "| what was tried | times | what came of it |", "|---|---|---|"]
        lines += [f"| {_cell(fault)} | {times:,} | {_cell(outcome)} |"
                  for fault, outcome, times in rows[area]]
        lines.append("")
    return "\n".join(lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def main() -> None:
    rows: Rows = json.loads(RESULTS.read_text(encoding="utf-8"))
    rows |= read_notes(Path(sys.argv[1]).read_text(encoding="utf-8"))
    text = json.dumps(rows, indent=0, ensure_ascii=False, sort_keys=True)
    RESULTS.write_text(text + "\n", encoding="utf-8")
    made = table(json.loads(text))
    PAGE.write_text(TABLE.sub(lambda _: made, PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    print(made)


if __name__ == "__main__":
    main()
