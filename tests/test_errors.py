"""Errors that a user can act on."""

import errno
import pickle

import pytest

from reprogpt.errors import ConfigError, ParamError, unwritable


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
