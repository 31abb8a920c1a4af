"""Errors that a user can act on: a wrong param, a disk that is full or read-only."""

import errno


class ConfigError(ValueError):
    """A request that cannot be met. The message is one line: file, key, value, rule, fix."""


class ParamError(ConfigError):
    """A param that breaks a rule, as in `train.min_lr must be at most lr = 0.1; try 0.01`.

    Validators of config/ raise it with a ``key`` relative to their section; config/messages.py
    adds the file, the section and the value.
    """

    def __init__(self, key: str, rule: str, fix: str) -> None:
        super().__init__(key, rule, fix)
        self.key, self.rule, self.fix = key, rule, fix

    def __str__(self) -> str:
        return f"{self.key} {self.rule}; {self.fix}"


def unwritable(error: OSError, where: str = "") -> str:
    """One line with the fix for a failed write. ``where`` names the file if ``error`` does not."""
    fixes = {errno.ENOSPC: "free some space", errno.EDQUOT: "free some space",
             errno.EROFS: "make it writable", errno.EACCES: "change its permissions",
             errno.EISDIR: "remove it", errno.EEXIST: "remove it"}
    fix = fixes.get(error.errno or 0, "correct that")
    name = error.filename if isinstance(error.filename, str) else where
    return (f"{name}: {error.strerror or error}; {fix}, then the same command continues from what "
            "is finished")
