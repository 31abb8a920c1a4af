"""Errors that a user can act on: a wrong param, a disk that is full or may not be written."""

import errno


class ConfigError(ValueError):
    """What the user asked for cannot be; the message is one line: file, key, value, rule, fix."""


def unwritable(error: OSError, where: str = "") -> str:
    """What the system said of a file, as one line with the fix; ``where`` if it names none."""
    fixes = {errno.ENOSPC: "free some space", errno.EDQUOT: "free some space",
             errno.EROFS: "make it writable", errno.EACCES: "change its permissions"}
    fix = fixes.get(error.errno or 0, "put that right")
    name = error.filename if isinstance(error.filename, str) else where
    return (f"{name}: {error.strerror or error}; {fix}, then the same command goes on from what is "
            "finished")
