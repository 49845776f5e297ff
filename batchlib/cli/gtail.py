"""``gtail``: the last lines of what a task printed."""

from __future__ import annotations

import codecs
import errno
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, BinaryIO

import click

from ..errors import BatchlibError, InvalidOperation, Kind, RemoteFileError, SessionLocked
from .common import Invocation, command, run
from .selection import select_ids

if TYPE_CHECKING:
    from ..application import Application
    from ..engine import Engine
    from ..session import Session

#: Bytes read at a time.
_BLOCK = 1 << 20
#: Bytes looked at for the ends of lines.
_PAGE = 1 << 16
#: Seconds between looks: the first, what each is multiplied by while nothing comes, and the most.
_FIRST_PAUSE, _GROWTH, _LONGEST_PAUSE = 1.0, 1.5, 5.0

_EXAMPLE = """
gtail 3
gtail -f 3              go on until the task has ended
gtail -e -n 100 3       a hundred lines of standard error
"""


@command("gtail", example=_EXAMPLE)
@click.argument("word", metavar="ID")
@click.option("-f", "--follow", is_flag=True, help="Go on printing what is added, until the task has ended.")
@click.option("-e", "--stderr", is_flag=True, help="Show standard error instead of standard output.")
@click.option("-n", "--lines", type=click.IntRange(min=0), metavar="N", help="Number of lines; default is 10.")
@click.option("-c", "--bytes", "size", type=click.IntRange(min=0), metavar="N", help="Number of bytes, not lines.")
def gtail(invocation: Invocation, word: str, follow: bool, stderr: bool, lines: int | None, size: int | None) -> int:
    """Show the last lines of what a task printed, running or ended.

    They are read from its directory on the cluster, or, once they were fetched, from the local copy.
    """
    if lines is not None and size is not None:
        raise click.UsageError("either -n or -c, not both")
    if follow and invocation.as_json:
        raise click.UsageError("either -f or --json, not both: a document has an end")
    with invocation.open_session() as session:
        ids = select_ids(session.ids(), [word])
        if len(ids) != 1:
            raise click.UsageError(f"{word!r} are several tasks; one can be shown at a time")
        with invocation.engine(session) as engine:
            output = Output(session, engine, ids[0], stderr=stderr, patient=follow)
            start = output.start_of(10 if lines is None else lines, size)
            if invocation.as_json:
                _print_document(session, ids[0], output, start)
            elif follow:
                _follow(invocation, output, start)
            else:
                printer = Printer()
                for chunk in output.read_on(start):
                    printer.write(chunk)
    return 0


class Output:
    """What one task printed, wherever it lies now.

    Parameters
    ----------
    session, engine : Session, Engine
        Where the task is known, and who reaches its resource.
    task : str
        Its id.
    stderr : bool
        Standard error instead of standard output.
    patient : bool
        Take what does not exist yet for empty.
    """

    def __init__(self, session: Session, engine: Engine, task: str, *, stderr: bool, patient: bool) -> None:
        self._session = session
        self._engine = engine
        self._task = task
        self._stderr = stderr
        self._patient = patient
        self.app: Application = session.load([task])[0]

    @property
    def name(self) -> str:
        """The file's name in the sandbox."""
        return self.app.stderr if self._stderr and not self.app.join else self.app.stdout

    def update(self) -> bool:
        """Find out whether the task has ended.

        What is found out is not saved: whoever holds the session's lock does that.
        """
        from ..run import State
        from .control import refresh

        self.app = self._session.load([self._task])[0]
        if self.app.execution.state in (State.NEW, State.SUBMITTING):
            try:
                self._engine.progress([self._task])
            except SessionLocked:
                return False
            self.app = self._session.load([self._task])[0]
        elif not self.app.execution.state.final:
            for error in refresh(self._engine, [self.app]).values():
                raise error
        return self.app.execution.state.final

    def size(self) -> int:
        """Give the number of bytes that are there now; 0 before the task has started."""
        try:
            if path := self._local():
                return os.path.getsize(path)
            if self.app.execution.token is None:
                return self._none_yet()
            from ..backends.batch import BatchSystem

            backend = self._engine.backend(self._engine.resource_of(self.app))
            if not isinstance(backend, BatchSystem):
                raise InvalidOperation(f"nothing can be read from {backend.name} while tasks run")
            return backend.transport.stat(f"{backend.spool}/{self.app.execution.token}/{self.name}").size
        except OSError as error:
            return self._none_yet(error)

    def read(self, offset: int, size: int) -> bytes:
        """Read a part; nothing where there is nothing yet."""
        try:
            if path := self._local():
                with open(path, "rb") as file:
                    file.seek(offset)
                    return file.read(size)
            if self.app.execution.token is None:
                self._none_yet()
                return b""
            backend = self._engine.backend(self._engine.resource_of(self.app))
            return backend.read_output(self.app, self.name, offset, size)
        except OSError as error:
            self._none_yet(error)
            return b""

    def read_on(self, offset: int) -> Iterator[bytes]:
        """Read from an offset to the end, as far as it is there now."""
        while chunk := self.read(offset, _BLOCK):
            yield chunk
            offset += len(chunk)

    def start_of(self, lines: int, size: int | None) -> int:
        """Find where the last lines, or the last bytes, start."""
        end = self.size()
        if size is not None:
            return max(0, end - size)
        return start_of_last_lines(lambda start, count: self.read(start, count), end, lines)

    def _local(self) -> str | None:
        """Give the path of the copy that was fetched, if that is what has to be read."""
        from ..sandbox import local_name

        run = self.app.execution
        name = local_name(self.app, self.name)
        if not (run.collected or run.freed) or name is None:
            return None
        path = os.path.join(self.app.output_dir or "", name)
        if os.path.exists(path):
            return path
        if run.freed:
            raise InvalidOperation(f"the output of task {self._task} is gone: its directory on the cluster was removed")
        return None

    def _none_yet(self, error: OSError | None = None) -> int:
        """Take a file that does not exist for an empty one, when it may still come."""
        if isinstance(error, RemoteFileError) and error.errno not in (None, errno.ENOENT):
            raise error
        run = self.app.execution
        if run.state.final:
            why = error or run.info
            raise InvalidOperation(f"task {self._task} ({run.state.value}) has no output {self.name}: {why}") from error
        if not self._patient:
            raise InvalidOperation(f"task {self._task} ({run.state.value}) has printed nothing yet") from error
        return 0


def start_of_last_lines(read: Callable[[int, int], bytes], end: int, lines: int) -> int:
    """Find where the last lines of a file start, reading it from its end.

    Parameters
    ----------
    read : callable
        Takes an offset and a number of bytes.
    end : int
        Size of the file.
    lines : int
        Number of lines; the last one need not have ended.
    """
    if lines == 0:
        return end
    position = end
    while position > 0:
        start = max(0, position - _PAGE)
        page = read(start, position - start)
        # the newline at the very end begins no line
        at = len(page) - 1 if position == end and page.endswith(b"\n") else len(page)
        while lines:
            at = page.rfind(b"\n", 0, at)
            if at < 0:
                break
            lines -= 1
        if not lines:
            return start + at + 1
        position = start
    return 0


def _print_document(session: Session, task: str, output: Output, start: int) -> None:
    from .output import print_json

    text = b"".join(output.read_on(start)).decode("utf-8", "replace")
    print_json({"session": session.name, "id": task, "file": output.name, "offset": start, "text": text})


def _follow(invocation: Invocation, output: Output, offset: int) -> None:
    """Print what is added, each byte once, until the task has ended and all was printed."""
    printer = Printer()
    pause = _FIRST_PAUSE
    trouble = ""
    while True:
        before = offset
        try:
            # asked before the output is read: what a task prints before it ends is there once it has ended
            ended = output.update()
            for chunk in output.read_on(offset):
                printer.write(chunk)
                offset += len(chunk)
            if offset == before and not ended and output.size() < offset:
                invocation.say("the file was truncated; starting again at its beginning")
                offset = 0
                continue
            trouble = ""
        except BatchlibError as error:
            if error.kind is Kind.PERMANENT:
                raise
            ended = False
            if str(error) != trouble:
                trouble = str(error)
                invocation.say(f"{trouble}; trying again")
        if ended:
            return
        pause = _FIRST_PAUSE if offset > before else min(_LONGEST_PAUSE, pause * _GROWTH)
        time.sleep(pause)


class Printer:
    """Prints output as it comes: as it is, or, on a terminal, without anything that the terminal would obey."""

    def __init__(self) -> None:
        self._terminal = sys.stdout.isatty()
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._rest = ""

    def write(self, chunk: bytes) -> None:
        """Print some bytes."""
        if self._terminal:
            text, self._rest = harmless(self._rest + self._decoder.decode(chunk))
            sys.stdout.write(text)
            sys.stdout.flush()
        else:
            stream: BinaryIO = sys.stdout.buffer
            stream.write(chunk)
            stream.flush()


_SEQUENCE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)|[ -/]*[0-OQ-WYZ\\`-~])")
#: What may be the beginning of a sequence, at the end of the text.
_BEGINNING = re.compile(r"\x1b(?:\[[0-?]*[ -/]*|[\]PX^_][^\x07\x1b]{0,4096}\x1b?|[ -/]*)\Z")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def harmless(text: str) -> tuple[str, str]:
    """Remove escape sequences and control characters, but for tabs and ends of lines.

    Parameters
    ----------
    text : str
        What came so far.

    Returns
    -------
    tuple of (str, str)
        What can be shown, and a rest that may be the beginning of an escape sequence.
    """
    beginning = _BEGINNING.search(text)
    rest = text[beginning.start() :] if beginning else ""
    text = text[: len(text) - len(rest)]
    # a carriage return means something else when a newline follows
    shown = text.rstrip("\r")
    text, rest = shown, text[len(shown) :] + rest
    text = re.sub(r"\r+\n?", "\n", _SEQUENCE.sub("", text))
    return _CONTROL.sub("", text), rest


def main() -> None:
    """Run the command."""
    run(gtail)


if __name__ == "__main__":
    main()
