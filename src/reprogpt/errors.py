"""Errors that a user can act on: a wrong param, a disk that is full or read-only."""

import errno
import re

CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069"
                     "\ud800-\udfff]")
"""What a terminal obeys instead of showing it (ESC, C1, marks of direction), and half characters,
which cannot be written."""
NO_MEMORY = ("DefaultCPUAllocator", "allocate memory", "bad_alloc", "start new thread",
             "out of memory")
"""In messages of torch and the system, which have no class of their own for a full memory."""


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


def printable(text: str, keep: str = "") -> str:
    """``text`` with control characters spelled out, as in `\\x1b[31m`, but for those in ``keep``.

    For all that a terminal shows and another party wrote: a server, a file's name, a document, a
    model.
    """
    return CONTROL.sub(lambda found: found[0] if found[0] in keep else ascii(found[0])[1:-1], text)


def out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out: MemoryError (pyarrow's, too), torch's RuntimeError, ENOMEM. A
    ValueError says so where a library took that for a damaged file."""
    text = str(error)
    return (isinstance(error, MemoryError) or getattr(error, "errno", 0) == errno.ENOMEM
            or (isinstance(error, RuntimeError) and any(words in text for words in NO_MEMORY))
            or (isinstance(error, ValueError) and "Cannot allocate memory" in text))


FULL_DISK = {errno.ENOSPC: "free some space", errno.EDQUOT: "free some space",
             errno.EFBIG: "raise the limit of a file's size (ulimit -f)",
             errno.EROFS: "make it writable"}
"""errno of a failed write -> what to do about it."""
DISK = FULL_DISK | {errno.EACCES: "change its permissions"} | dict.fromkeys(
    (errno.EPERM, errno.EISDIR, errno.ENOTDIR, errno.EEXIST), "correct that")
"""The same, with those that a failed read may have, too."""


def unwritable(error: OSError, where: str = "") -> str:
    """One line with the fix for a failed write. ``where`` names the file if ``error`` does not."""
    fix = DISK.get(error.errno or 0, "correct that")
    name = error.filename if isinstance(error.filename, str) else where
    return (f"{name}: {error.strerror or error}; {fix}, then the same command continues from what "
            "is finished")
