"""read_yaml gives what DVC's own parser gives, and errors of one line."""

import math
import os
import re
from pathlib import Path
from typing import Any

import pytest
from dvc.utils.serialize import parse_yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from reprogpt.config.yaml_file import merge, read_yaml
from reprogpt.errors import ConfigError

SCALARS = """
    6e-4 6E-4 6e4 +6e-4 -6e+4 6.e-4 6.5e-4 .5 .5e3 .5e-3 5. 1_000 1_0.5 1__0 _1 1_ 0x1F 0X1F
    0o17 017 08 0b11 0B1 true True TRUE false yes on off No y n null Null NULL ~ nUll .inf -.inf
    +.Inf .nan .NaN inf nan 1:30 12:30:45 1.2.3 0.0 -0 +1 -0x1F 0_1 00 0x_1 1e5 1e 1e+ e5 0x 0o 0b -
    -- . .. +. 1.e5 1._5 ._5 1.5_0 1e1_0 -.5 = << 1,000 0o8 1e400 0e0 -1_000 +1_000.5 "6e-4" '1'
    123456789012345678901234567890 cosine 100_000_000""".split()

DOCUMENTS = [
    "a: 1\na: 2\n", "a: {b: 1, b: 2}\n", "a: !!str 1\n", 'a: !!int "3"\n',
    "a: !!python/object:os.system x\n", "a: &x {b: 1}\nc: *x\n",
    "a: &x {b: 1}\nc:\n  <<: *x\n  d: 2\n", "---\na: 1\n---\nb: 2\n", "a:\n", '"a": 1\n1: 2\n',
    'a: "x\\ty"\n', "a: 'it''s'\n", "a: |\n  x\n  y\n", "? a\n: b\n", "a: [1, 2e-3, on]\n",
    "a:\t1\n", "a: b: c\n", "﻿a: 1\n", "a: 1 # c\n", "null: 1\n", "a: @x\n", "a: `x\n",
    "[a]: 1\n", "a: 2026-01-31\n", "a: 2026-13-45\n", "a: {}\n", "a: !!bool yes\n", "a: *x\n",
    "a: - b\n", "a: 'x\n", "true: 1\n", "a: [1\n",
]  # fmt: skip


def _ours(text: str, folder: Path) -> Any:
    path = folder / "params.yaml"
    path.write_text(text, encoding="utf-8")
    try:
        return read_yaml(path)
    except ConfigError:
        return ConfigError


def _dvc(text: str) -> Any:
    try:
        return parse_yaml(text, "params.yaml")
    except Exception:
        return ConfigError


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(a[k], b[k]) for k in a)
    if isinstance(a, float) and isinstance(b, float) and math.isnan(a):
        return math.isnan(b)
    return type(a) is type(b) and a == b


@pytest.mark.parametrize("scalar", SCALARS)
def test_a_scalar_is_read_as_dvc_reads_it(scalar: str, tmp_path: Path) -> None:
    text = f"k: {scalar}\n"
    assert _same(_ours(text, tmp_path), _dvc(text)), (_ours(text, tmp_path), _dvc(text))


@pytest.mark.parametrize("text", DOCUMENTS)
def test_a_document_is_read_as_dvc_reads_it(text: str, tmp_path: Path) -> None:
    assert _same(_ours(text, tmp_path), _dvc(text)), (_ours(text, tmp_path), _dvc(text))


@settings(max_examples=300, deadline=None)
@given(st.text("0123456789.eE+-_xXob", min_size=1, max_size=8))
def test_anything_like_a_number_is_read_as_dvc_reads_it(
    tmp_path_factory: pytest.TempPathFactory, scalar: str
) -> None:
    text = f"k: {scalar}\n"
    assert _same(_ours(text, tmp_path_factory.getbasetemp()), _dvc(text))


@pytest.mark.parametrize(("text", "said"), [
    ("a: 1\na: 2\n", 'line 2: found duplicate key "a"; correct it'),
    ("a: [1\n", "line 2"),
    ("- 1\n", "holds a list and must be a mapping of sections; `python -m pipeline.preset"),
    ("", "is empty and must be a mapping of sections; `python -m pipeline.preset"),
    ("# nothing\n", "is empty and must be a mapping of sections"),
    ("a: 1\nb: x\x07y\n", "line 2: character #x0007 is not allowed in YAML"),
    ("a:\n\tb: 1\n", "line 2: found character '\\t'"),
    ("a: 1\nb: 0x_\n", "invalid literal for int() with base 16: ''; correct it"),
])
def test_an_error_names_file_line_and_fix_on_one_line(
    text: str, said: str, tmp_path: Path
) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as error:
        read_yaml(path)
    message = str(error.value)
    assert message.startswith(f"{path}: ")
    assert said in message
    assert "\n" not in message


def test_a_missing_file_says_what_writes_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"pipeline\.preset shakespeare"):
        read_yaml(tmp_path / "params.yaml")


def test_a_file_that_is_not_utf8_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_bytes(b"b: 1\na: \xff\n")
    with pytest.raises(ConfigError, match="line 2: byte 0xff is not UTF-8; save it as UTF-8"):
        read_yaml(tmp_path / "params.yaml")


def test_merge_updates_mappings_and_replaces_the_rest() -> None:
    base = {"a": {"b": 1, "c": [1, 2]}, "d": None}
    assert merge(base, {"a": {"c": [3]}, "d": {"e": 1}}) == {"a": {"b": 1, "c": [3]}, "d": {"e": 1}}
    assert base == {"a": {"b": 1, "c": [1, 2]}, "d": None}


@pytest.mark.parametrize(("content", "said"), [
    (b"# " + b"x" * 10**6, "is larger than 1 MB; it must be a readable file of at most 1 MB"),
    (b"x: " + b"[" * 5000, "is nested too deeply"),
    (b"a: &a {b: *a}\n", "remove its aliases"),
    (b"a0: &a0 x\n" + b"".join(b"a%d: &a%d {k: *a%d, l: *a%d}\n" % (i, i, i - 1, i - 1)
                               for i in range(1, 40)), "remove its aliases"),
    ("a: 1\n".encode("utf-16"), "byte 0xff is not UTF-8; save it as UTF-8"),
    (b"".join(b"a%d: &a%d [%s]\n" % (i, i, b",".join([b"*a%d" % (i - 1)] * 10) if i else b"x")
              for i in range(10)) + b"- 1\n", "line 11"),
])
def test_a_file_that_would_take_for_ever(content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_bytes(content)
    with pytest.raises(ConfigError, match=re.escape(said)) as found:
        read_yaml(tmp_path / "params.yaml")
    assert "\n" not in str(found.value)


@pytest.mark.parametrize("make", [
    os.mkfifo, Path.mkdir, lambda path: path.symlink_to("/dev/zero"),
    lambda path: path.symlink_to("/nowhere"), lambda path: path.symlink_to(path)])
def test_what_is_no_file_is_not_opened(make: Any, tmp_path: Path) -> None:
    make(tmp_path / "params.yaml")
    with pytest.raises(ConfigError, match=r"params.yaml"):
        read_yaml(tmp_path / "params.yaml")
