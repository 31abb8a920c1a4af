"""Errors that a user can act on."""

import errno
import pickle

import pytest
import torch

from reprogpt.errors import ConfigError, ParamError, out_of_memory, printable, unwritable


def test_a_param_error_is_one_line_and_crosses_processes() -> None:
    error = ParamError("train.lr", "must be greater than 0", "try 1e-3")
    copy = pickle.loads(pickle.dumps(error))
    assert isinstance(copy, ConfigError)
    assert str(copy) == str(error) == "train.lr must be greater than 0; try 1e-3"
    assert (copy.key, copy.rule, copy.fix) == (error.key, error.rule, error.fix)


@pytest.mark.parametrize(("error", "said"), [
    (OSError(errno.ENOSPC, "No space left on device", "a/b"),
     "a/b: No space left on device; free some space, then "),
    (OSError(errno.EROFS, "Read-only file system"), "runs/x: Read-only file system; make it writ"),
    (OSError(errno.EIO, "Input/output error", "a"), "a: Input/output error; correct that, then "),
])
def test_a_failed_write_names_file_and_fix(error: OSError, said: str) -> None:
    assert unwritable(error, "runs/x").startswith(said)


@pytest.mark.parametrize(("text", "shown"), [
    ("\x1b[31mred\x1b[0m", r"\x1b[31mred\x1b[0m"),
    ("\x9b2J\x07\x00\x7f", r"\x9b2J\x07\x00\x7f"),
    ("abc\u202edcba\u2066", r"abc\u202edcba\u2066"),
    ("half \ud83d", r"half \ud83d"),
    ("Grüße, 漢字, 👩\u200d💻, a\xa0b", "Grüße, 漢字, 👩\u200d💻, a\xa0b"),
])
def test_no_character_is_a_command_to_the_terminal(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert printable("a\n\tb\r", keep="\n\t") == "a\n\tb\\r"


def test_a_full_memory_is_known_by_all_its_names() -> None:
    with pytest.raises(RuntimeError) as torchs:
        torch.empty(2**50, dtype=torch.float64)
    assert out_of_memory(torchs.value)
    for error in (MemoryError(), torch.OutOfMemoryError("CUDA out of memory. Tried"),
                  OSError(errno.ENOMEM, "x"), RuntimeError("can't start new thread")):
        assert out_of_memory(error), error
    for error in (RuntimeError("shapes differ"), OSError(errno.ENOENT, "x"), ValueError("y"),
                  ConfigError("out of memory with one row at a time: lower model.block_size")):
        assert not out_of_memory(error)
