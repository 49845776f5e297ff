"""One tree of exceptions; whatever goes wrong in batchlib derives from `BatchlibError`.

::

    BatchlibError
    ├── ConfigurationError          a configuration file is missing, unreadable or wrong
    │   └── UnknownResource         no such resource in the configuration
    ├── InvalidValue                an argument, quantity or job description can't be used (also a ValueError)
    ├── InvalidOperation            the task's state does not allow this operation
    ├── UnsupportedOperation        the batch system has nothing like it
    ├── TransportError              the frontend could not be reached or did not answer
    │   ├── ConnectionFailed        no connection could be made
    │   │   ├── AuthenticationFailed
    │   │   └── HostKeyError
    │   │       ├── UnknownHostKey
    │   │       └── HostKeyChanged
    │   ├── ConnectionLost          an open connection broke; what was asked may have happened
    │   └── TransportTimeout        no answer in time; what was asked may have happened
    ├── RemoteFileError             a file operation on the frontend failed (also an OSError)
    ├── BackendError                the batch system said no, or could not be understood
    │   ├── CommandNotFound         a native command such as ``sbatch`` is missing on the frontend
    │   ├── CommandFailed           a native command failed
    │   ├── SystemUnavailable       the batch system does not answer now; try again later
    │   ├── SubmissionRefused       the batch system refused the job; the same job will be refused again
    │   ├── SubmissionUnclear       the job may or may not have been accepted; look before trying again
    │   ├── CapacityReached         no room for more jobs now; try again later
    │   ├── OperationRefused        not permitted, such as cancelling somebody else's job
    │   └── JobNotFound             the batch system does not know the job
    ├── DataStagingError            an input could not be sent or an output not be fetched
    │   └── SpoolDirectoryError     the spool directory can't be used
    └── SessionError                a session can't be opened, read or written
        ├── SessionLocked           another process is driving the session
        └── TaskNotFound            the session has no such task

Every error is of one of three kinds (`Kind`): *transient* (try again later, nothing changed),
*permanent* (the same request will fail again) or *unclear* (it may have happened: look before acting).
"""

from __future__ import annotations

import enum
from typing import ClassVar


class Kind(enum.Enum):
    """What an error means for trying again."""

    TRANSIENT = "transient"
    PERMANENT = "permanent"
    UNCLEAR = "unclear"


class BatchlibError(Exception):
    """Base of all errors raised by batchlib.

    Parameters
    ----------
    message : str
        One clear sentence: what was wrong and what to do about it.
    resource : str, optional
        Name of the resource concerned.
    command : str, optional
        The native command that failed.
    exitcode : int, optional
        Exit code of that command.
    stderr : str, optional
        What that command printed on its standard error.
    """

    kind: ClassVar[Kind] = Kind.PERMANENT

    def __init__(
        self,
        message: str,
        *,
        resource: str | None = None,
        command: str | None = None,
        exitcode: int | None = None,
        stderr: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.resource = resource
        self.command = command
        self.exitcode = exitcode
        self.stderr = stderr

    def __str__(self) -> str:
        return f"{self.resource}: {self.message}" if self.resource else self.message


class ConfigurationError(BatchlibError):
    """A configuration file is missing, unreadable or wrong."""


class UnknownResource(ConfigurationError):
    """The configuration has no resource of this name."""


class InvalidValue(BatchlibError, ValueError):
    """An argument, quantity or job description can't be used."""


class InvalidOperation(BatchlibError):
    """The task's state does not allow this operation."""


class UnsupportedOperation(BatchlibError):
    """The batch system has nothing like the operation or attribute asked for."""


class TransportError(BatchlibError):
    """The frontend could not be reached or did not answer."""

    kind = Kind.TRANSIENT


class ConnectionFailed(TransportError):
    """No connection could be made; nothing was asked of the frontend."""


class AuthenticationFailed(ConnectionFailed):
    """The frontend accepted none of our keys, passwords or codes."""

    kind = Kind.PERMANENT


class HostKeyError(ConnectionFailed):
    """The frontend's host key can't be trusted."""

    kind = Kind.PERMANENT


class UnknownHostKey(HostKeyError):
    """The frontend's host key is in none of the known hosts files."""


class HostKeyChanged(HostKeyError):
    """The frontend shows another host key than the one that is known, or a revoked one."""


class ConnectionLost(TransportError):
    """An open connection broke; what was asked last may have happened."""

    kind = Kind.UNCLEAR


class TransportTimeout(TransportError):
    """The frontend did not answer in time; what was asked may have happened."""

    kind = Kind.UNCLEAR


class RemoteFileError(BatchlibError, OSError):
    """A file operation on the frontend failed."""


class BackendError(BatchlibError):
    """The batch system said no, or could not be understood."""


class CommandNotFound(BackendError):
    """A native command is missing on the frontend."""


class CommandFailed(BackendError):
    """A native command failed."""


class SystemUnavailable(BackendError):
    """The batch system does not answer now."""

    kind = Kind.TRANSIENT


class SubmissionRefused(BackendError):
    """The batch system refused the job; the same job will be refused again."""


class SubmissionUnclear(BackendError):
    """The job may or may not have been accepted."""

    kind = Kind.UNCLEAR


class CapacityReached(BackendError):
    """There is no room for more jobs now."""

    kind = Kind.TRANSIENT


class OperationRefused(BackendError):
    """The batch system does not permit the operation."""


class JobNotFound(BackendError):
    """The batch system does not know the job."""


class DataStagingError(BatchlibError):
    """An input could not be sent or an output could not be fetched."""


class SpoolDirectoryError(DataStagingError):
    """The spool directory on the frontend can't be used."""


class SessionError(BatchlibError):
    """A session can't be opened, read or written."""


class SessionLocked(SessionError):
    """Another process is driving the session."""

    kind = Kind.TRANSIENT


class TaskNotFound(SessionError):
    """The session has no such task."""
