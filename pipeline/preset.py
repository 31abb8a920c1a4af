"""Presets: params.yaml is presets/shakespeare.yaml with presets/NAME.yaml laid on it.

    python -m pipeline.preset NAME      writes params.yaml
    python -m pipeline.preset           lists the presets

The base is the preset file, never the params.yaml at hand, so a preset is always the same run.
`preset:` in params.yaml only records the name; setting it alone changes nothing, which is why
that is refused (:func:`refuse_hybrid`).
"""

import difflib
import io
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.cli import one_line, program
from reprogpt.config import Config, merge, read_yaml
from reprogpt.config.yaml_file import flatten
from reprogpt.errors import ConfigError
from reprogpt.storage.files import write_bytes

BASE = "shakespeare"
PRESETS = Path("presets")
PARAMS = Path("params.yaml")


def names(folder: Path = PRESETS) -> list[str]:
    """Every preset, in order. Raises ConfigError where there is no such folder."""
    if not folder.is_dir():
        raise ConfigError(f"{folder}/ does not exist; run from the project's root, "
                          f"{Path(__file__).resolve().parent.parent}")
    return sorted(path.stem for path in folder.glob("*.yaml"))


def values_of(name: str, folder: Path = PRESETS) -> dict[str, Any]:
    """The params of preset ``name``. Raises ConfigError with the nearest name for an unknown."""
    if name not in names(folder):
        close = difflib.get_close_matches(name, names(folder), n=1, cutoff=0.5)
        hint = f"did you mean {close[0]}?" if close else f"there are: {', '.join(names(folder))}"
        raise ConfigError(f"preset={name} names no file in {folder.name}/; {hint}")
    return _overlaid(name, read_yaml(folder / f"{BASE}.yaml"), folder)


def _overlaid(name: str, base: dict[str, Any], folder: Path) -> dict[str, Any]:
    overlay = {} if name == BASE else read_yaml(folder / f"{name}.yaml")
    return merge(base, {**overlay, "preset": name})


def render(name: str, folder: Path = PRESETS) -> str:
    """params.yaml for preset ``name``, with the comments of the base and of the overlay."""
    from ruamel.yaml import YAML  # what DVC itself reads params.yaml with

    values = values_of(name, folder)
    Config.parse(values, source=f"{folder.name}/{name}.yaml")
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 100
    yaml.representer.add_representer(
        type(None), lambda dumper, _: dumper.represent_scalar("tag:yaml.org,2002:null", "null"))
    base = yaml.load((folder / f"{BASE}.yaml").read_text(encoding="utf-8"))
    if name != BASE:
        _lay(base, yaml.load((folder / f"{name}.yaml").read_text(encoding="utf-8")) or {})
    base["preset"] = name
    text = io.StringIO()
    yaml.dump(base, text)
    # The blank line after an overlay's last key belongs between sections only.
    return re.sub(r"\n\n(?= )", "\n", text.getvalue())


def _lay(base: Any, overlay: Any) -> None:
    """`merge` on ruamel's mappings, in place: comments stay beside their keys."""
    for key, value in overlay.items():
        if isinstance(value, Mapping) and isinstance(base.get(key), Mapping):
            _lay(base[key], value)
            continue
        if key in base:
            base[key] = value
        else:  # before the last key: that one holds the comment above the next section
            base.insert(max(0, len(base) - 1), key, value)
        comment = overlay.ca.items.get(key)
        if comment and comment[2] and comment[2].value.lstrip(" ").startswith("#"):
            own = base.ca.items.get(key)
            tail = own[2].value.partition("\n")[2] if own and own[2] else ""
            said = comment[2].value.partition("\n")[0]
            comment[2].value = f"{said}\n{tail}"
            base.ca.items[key] = comment


def refuse_hybrid(params: Path, folder: Path) -> None:
    """Raises ConfigError if ``params`` carries a preset's name but another preset's values.

    Edits are free: what is refused is a file in which *none* of the values that tell the named
    preset from another one are its own. That other one is the preset of the commit when an
    experiment changed the name (`dvc exp run -S preset=...`), else any that differs in at least
    three values, all of which the file has.
    """
    values = read_yaml(params)
    name = str(values.get("preset"))
    try:
        named = flatten(values_of(name, folder))
    except ConfigError as error:
        raise ConfigError(f"{params}: {error}") from None
    mine = flatten(values)
    if mine == named:
        return
    before = _committed_preset(params)
    base = read_yaml(folder / f"{BASE}.yaml")
    for other in names(folder):
        theirs = flatten(_overlaid(other, base, folder))
        apart = [k for k in named.keys() | theirs.keys()
                 if k != "preset" and named.get(k) != theirs.get(k)]
        none_named = apart and not any(mine.get(k) == named.get(k) for k in apart)
        all_theirs = len(apart) >= 3 and all(mine.get(k) == theirs.get(k) for k in apart)
        if none_named and (all_theirs or other == before):
            raise ConfigError(f"{params}: preset={name} but the values are those of {other}: the "
                              "name alone changes nothing; run `python -m pipeline.preset "
                              f"{name}` (or put preset: {other} back)")


def _committed_preset(params: Path) -> str | None:
    """Within a DVC experiment: the preset named by the commit that the experiment started from."""
    revision = os.environ.get("DVC_EXP_BASELINE_REV")
    if not revision:
        return None
    shown = subprocess.run(["git", "show", f"{revision}:./{params}"], capture_output=True,
                           text=True, check=False)
    for line in shown.stdout.splitlines():
        if line.startswith("preset:"):
            return line.partition(":")[2].split("#")[0].strip().strip("'\"")
    return None


def _edits(params: Path, folder: Path) -> dict[str, Any]:
    """What writing another preset loses: what ``params`` has and its own preset (or, of a name
    that is none, the base) has not.

    Raises ConfigError for a file whose edits cannot be read, and would be lost unnamed.
    """
    if not params.exists() or _is_blank(params):
        return {}
    try:
        mine = read_yaml(params)
    except ConfigError as error:
        raise ConfigError(f"{error}, or remove {params}: it is not overwritten unread") from None
    own = str(mine.get("preset"))
    named = flatten(values_of(own if own in names(folder) else BASE, folder))
    return {k: v for k, v in flatten(mine).items() if named.get(k, ...) != v}


def _is_blank(file: Path) -> bool:
    lines = file.read_bytes().splitlines() if file.is_file() else [b"a folder"]
    return all(line.strip()[:1] in (b"", b"#") for line in lines)


def _first_comment(path: Path) -> str:
    return path.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")


def main(arguments: list[str]) -> None:
    """Writes params.yaml, or lists the presets. Raises ConfigError."""
    if arguments in ([], ["-h"], ["--help"]):
        known = names()
        print("usage: python -m pipeline.preset NAME, where NAME is one of\n")
        for name in known:
            about = "the default" if name == BASE else _first_comment(PRESETS / f"{name}.yaml")
            print(f"  {name:<22} {about}")
        return
    if len(arguments) > 1 or arguments[0].startswith("-"):
        raise ConfigError(f"{program()}: takes one NAME, not {shlex.join(arguments)}; without any, "
                          "it lists them")
    text = render(arguments[0])
    lost = _edits(PARAMS, PRESETS)
    write_bytes(PARAMS, text.encode())
    print(f"params.yaml: preset {arguments[0]}; dvc repro runs it")
    if lost:
        print("replaced edits: " + ", ".join(f"{k}={v}" for k, v in lost.items()))


if __name__ == "__main__":
    with one_line():
        main(sys.argv[1:])
