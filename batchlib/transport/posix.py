"""What the usual file tools of a machine are told, and what they say."""

from __future__ import annotations

import errno
import shlex

from ..errors import RemoteFileError
from .shell import Completed

#: Messages in English, whatever the user's language.
CLEAN = "export LC_ALL=C\n"
#: What the system's messages mean, under ``LC_ALL=C``.
_ERRNO = {
    "No such file": errno.ENOENT,
    "Directory nonexistent": errno.ENOENT,
    "Permission denied": errno.EACCES,
    "Operation not permitted": errno.EPERM,
    "Not a directory": errno.ENOTDIR,
    "Is a directory": errno.EISDIR,
    "Directory not empty": errno.ENOTEMPTY,
    "File exists": errno.EEXIST,
    "No space left on device": errno.ENOSPC,
    "Disk quota exceeded": errno.EDQUOT,
    "File too large": errno.EFBIG,
    "Read-only file system": errno.EROFS,
}


def quote(path: str) -> str:
    """Quote a path for a POSIX shell, so that no tool takes it for an option."""
    return shlex.quote("./" + path if path.startswith("-") else path)


def enter(path: str) -> str:
    """Make the shell text that enters a directory, or says why that is not possible: not every ``cd`` does."""
    return f"cd {quote(path)} 2>/dev/null || {{ ls -d {quote(path)}/. >/dev/null; exit 1; }}; "


def remote_file_error(what: str, answer: Completed) -> RemoteFileError:
    """Make an error of what a file tool said, with the system's error number where it can be told.

    Parameters
    ----------
    what : str
        Start of the message.
    answer : Completed
        The tool's answer.
    """
    said = answer.err.strip().splitlines()
    reason = said[-1] if said else f"exit code {answer.exitcode}"
    number = None
    for text, known in _ERRNO.items():
        if text in answer.err:
            reason, number = text, known
            break
    error = RemoteFileError(f"{what}: {reason}", exitcode=answer.exitcode, stderr=answer.err)
    error.errno = number
    return error
