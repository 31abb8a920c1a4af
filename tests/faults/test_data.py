"""Files between the stages, damaged: each is an error of one line that names the file."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from reprogpt.data.hellaswag_file import check_hellaswag
from reprogpt.data.raw_text import check_part, read_meta
from reprogpt.formats.huggingface import load_model
from reprogpt.tokens.shards import TokenStream
from reprogpt.tokens.tokenizers import load_tokenizer
from tests.encoding.small_corpora import raw
from tests.faults.conftest import Trial
from tests.small_project import trained_project

Damage = Callable[[Path], None]


def flipped(place: float) -> Damage:
    def damage(path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[int(place * (len(data) - 1))] ^= 16
        path.write_bytes(data)
    return damage


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:path.stat().st_size // 2])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def longer(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"x")


def replaced(content: object) -> Damage:
    return lambda path: path.write_text(json.dumps(content)) and None


def token_beyond(path: Path) -> None:
    """A token id beyond the vocabulary, the checksum not adapted."""
    data = np.fromfile(path, np.uint16)
    data[-1] = 65000
    data.tofile(path)


BITS = {f"a bit flipped at {place:.0%}": flipped(place) for place in (0.0, 0.5, 1.0)}
SIZES = {"cut": cut, "emptied": emptied, "a byte longer": longer, "missing": Path.unlink}
SHAPES = {f"replaced by {json.dumps(content)}": replaced(content)
          for content in (None, [], {}, "x", 7)}
CASES = {
    "data/raw/part_000000.txt": BITS | SIZES,
    "data/raw/part_000000.npy": BITS | SIZES,
    "data/raw/meta.json": {"emptied": emptied, "missing": Path.unlink} | SHAPES,
    "data/tokens/val_000000.bin": BITS | SIZES | {"a token beyond the vocabulary": token_beyond},
    "data/tokens/manifest.json": {
        "emptied": emptied, "missing": Path.unlink, "replaced by {}": replaced({})},
    "data/hellaswag/hellaswag_val.jsonl": SIZES,
    "models/gpt/model.safetensors": {"cut": cut, "emptied": emptied, "missing": Path.unlink},
    "models/gpt/config.json": {"emptied": emptied, "missing": Path.unlink} | SHAPES,
}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = trained_project(tmp_path_factory.mktemp("project"))
    raw(root / "data/raw", ["some text", "more text " * 50, "the rest"])
    return root


def read(root: Path, file: str) -> None:
    """Reads it as the stage does that reads it first."""
    if file.startswith("data/raw"):
        meta = read_meta(root / "data/raw")
        for part in meta.parts:
            check_part(root / "data/raw", part)
    elif file.startswith("data/tokens"):
        TokenStream(root / "data/tokens", "val", "full")
    elif file.startswith("data/hellaswag"):
        check_hellaswag(root / file)
    else:
        load_model(root / "models/gpt")
        load_tokenizer(root / "models/gpt")


@pytest.mark.parametrize(("file", "how"), [(f, how) for f, hows in CASES.items() for how in hows])
def test_damaged(file: str, how: str, project: Path, tmp_path: Path, trial: Trial) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(project, copy)
    if "hellaswag" not in file:  # the test's file is not the published one anyway
        read(copy, file)
    CASES[file][how](copy / file)
    with pytest.raises(ValueError) as caught:
        read(copy, file)
    assert len(str(caught.value).splitlines()) == 1
    folder = file.rpartition("/")[0]
    assert file.rpartition("/")[2] in str(caught.value) or f"{folder}:" in str(caught.value)
    trial(f"{file}: {how}", "one line that names the file or its folder")
