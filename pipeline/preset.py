"""Presets: writes params.yaml as presets/shakespeare.yaml updated by presets/NAME.yaml.

    python -m pipeline.preset NAME      writes params.yaml
    python -m pipeline.preset           lists the presets

A preset is the same run whatever params.yaml held before. The line `preset:` only records its name:
a file with another preset's name and values is refused (:func:`refuse_hybrid`).
"""

import difflib
import io
import os
import re
import subprocess
from pathlib import Path
from typing import Any

from pipeline.cli import Parser, one_line
from reprogpt.config import Config, flatten, merge, read_yaml
from reprogpt.config.messages import show
from reprogpt.errors import ConfigError
from reprogpt.storage.files import write_bytes

BASE = "shakespeare"
PRESETS = Path("presets")
PARAMS = Path("params.yaml")


def names(folder: Path = PRESETS) -> list[str]:
    """All presets, sorted. Raises ConfigError without the folder."""
    if not folder.is_dir():
        raise ConfigError(f"{folder}/ does not exist; run from the project's root, "
                          f"{Path(__file__).resolve().parent.parent}")
    return sorted(path.stem for path in folder.glob("*.yaml"))


def values_of(name: str, folder: Path = PRESETS, base: dict[str, Any] | None = None
              ) -> dict[str, Any]:
    """The params of preset ``name``; ``base``: those of BASE, where they are known already. Raises
    ConfigError, with the nearest name, for an unknown one."""
    known = names(folder)
    if name not in known:
        close = [other for other in known if name and other.startswith(name)] or (
            difflib.get_close_matches(name, known, n=1, cutoff=0.5))
        hint = f"did you mean {' or '.join(close)}?" if close else f"there are: {', '.join(known)}"
        raise ConfigError(f"preset={show(name)} names no file in {folder.name}/; {hint}")
    overlay = {} if name == BASE else read_yaml(folder / f"{name}.yaml")
    return merge(base or read_yaml(folder / f"{BASE}.yaml"), {**overlay, "preset": name})


def render(name: str, folder: Path = PRESETS) -> str:
    """params.yaml for preset ``name``, with the comments of the base and of the overlay."""
    from ruamel.yaml import YAML
    from ruamel.yaml.comments import CommentedMap

    Config.parse(values_of(name, folder), source=f"{folder.name}/{name}.yaml")
    yaml = YAML()  # round trip: comments belong to the key before them
    yaml.preserve_quotes = True
    yaml.width = 100
    yaml.representer.add_representer(
        type(None), lambda dumper, _: dumper.represent_scalar("tag:yaml.org,2002:null", "null"))
    # Without the empty lines between sections, which would belong to a section's last key.
    texts = ((folder / f"{file}.yaml").read_text("utf-8") for file in (BASE, name))
    base, overlay = (yaml.load(re.sub(r"\n\n+(?=\S)", "\n", text)) for text in texts)
    for section, values in overlay.items():
        if isinstance(values, CommentedMap):
            base[section].update(values)
            base[section].ca.items.update(values.ca.items)
        else:
            base[section] = values
    base["preset"] = name
    out = io.StringIO()
    yaml.dump(base, out)
    return re.sub(r"(?m)^(?=\w+: *(#|$))", "\n", out.getvalue())


def refuse_hybrid(params: Path, folder: Path) -> None:
    """Raises ConfigError if ``params`` has the name of one preset and the values of another.

    A hybrid has, of all values in which the two presets differ, only the other's; and these are at
    least three, or the other is the preset of the commit from which an experiment started
    (`dvc exp run -S preset=...`). All else are edits, which are allowed.
    """
    values = read_yaml(params)
    name, mine = str(values.get("preset")), flatten(values)
    try:
        named = flatten(values_of(name, folder))
    except ConfigError as error:
        raise ConfigError(f"{params}: {error}") from None
    if mine == named:
        return
    committed, base = _committed_preset(params), read_yaml(folder / f"{BASE}.yaml")
    for other in names(folder):
        theirs = flatten(values_of(other, folder, base))
        differing = [key for key in named.keys() | theirs.keys()
                     if key != "preset" and named.get(key) != theirs.get(key)]
        none_named = differing and all(mine.get(key) != named.get(key) for key in differing)
        all_theirs = len(differing) >= 3 and all(mine.get(k) == theirs.get(k) for k in differing)
        if none_named and (all_theirs or other == committed):
            raise ConfigError(f"{params}: preset={name} but the values are those of {other}: the "
                              "name alone changes nothing; run `python -m pipeline.preset "
                              f"{name}` (or put preset: {other} back)")


def reference(cfg: Config, folder: Path) -> Path | None:
    """The reference band of the preset that ``cfg`` names, if it has one and ``cfg`` trains the
    same; seed, and what only measures, may differ."""
    file = folder / "reference" / f"{cfg.preset}.yaml"
    if not file.is_file():
        return None
    named = Config.parse(values_of(cfg.preset, folder))
    measures = {"precision", "deterministic", "eval_interval", "log_interval", "max_loss_spike",
                "hellaswag_interval", "hellaswag_examples", "sample_interval"}
    same = all(getattr(cfg, section) == getattr(named, section)
               for section in ("download", "tokenize", "model"))
    trains = [each.train.model_dump(exclude=measures) for each in (cfg, named)]
    return file if same and trains[0] == trains[1] else None


def _committed_preset(params: Path) -> str | None:
    """In a DVC experiment: the preset named by the commit that the experiment started from."""
    revision = os.environ.get("DVC_EXP_BASELINE_REV")
    shown = subprocess.run(["git", "show", f"{revision}:./{params}"], capture_output=True,
                           text=True, check=False).stdout if revision else ""
    line = re.search(r"(?m)^preset: *['\"]?([\w.-]+)", shown)
    return line[1] if line else None


def _edits(params: Path, folder: Path) -> dict[str, Any]:
    """The values of ``params`` that its own preset (the base, if unknown) does not have, or
    ConfigError if they cannot be read."""
    if not params.exists() or not re.sub("#.*", "", params.read_text(errors="replace")).strip():
        return {}
    try:
        mine = read_yaml(params)
    except ConfigError as error:
        raise ConfigError(f"{error}, or remove {params}: it is not overwritten unread") from None
    own = str(mine.get("preset"))
    named = flatten(values_of(own if own in names(folder) else BASE, folder))
    return {k: v for k, v in flatten(mine).items() if named.get(k, ...) != v}


def main() -> None:
    """Writes params.yaml, or lists the presets. Raises ConfigError."""
    parser = Parser(__doc__)
    parser.add_argument("name", metavar="NAME", nargs="?")
    chosen = parser.parse_args().name
    if chosen is None:
        known = names()
        print("usage: python -m pipeline.preset NAME, where NAME is one of\n")
        for name in known:
            about = (PRESETS / f"{name}.yaml").read_text("utf-8").partition("\n")[0].lstrip("# ")
            print(f"  {name:<20}  {'the default' if name == BASE else about}")
        return
    text = render(chosen)
    lost = _edits(PARAMS, PRESETS)
    write_bytes(PARAMS, text.encode())
    print(f"params.yaml: preset {chosen}; dvc repro runs it")
    if lost:
        print("replaced edits: " + ", ".join(f"{k}={v}" for k, v in lost.items()))


if __name__ == "__main__":
    with one_line():
        main()
