"""What all commands share: options, session and configuration, and how errors are told.

Most of batchlib is imported where it is used, so that ``--help`` and mistyped options are answered at once.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import io
import os
import sys
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import click

from .. import __version__
from ..errors import BatchlibError, InvalidValue, SessionLocked

if TYPE_CHECKING:
    from ..config import Configuration
    from ..engine import Engine
    from ..quantity import Duration, Memory
    from ..session import Session

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

#: The largest exit status that counts tasks: shells use those above for other things.
MAX_FAILURES = 126
_USAGE, _DEFECT, _INTERRUPTED, _BROKEN_PIPE = 2, 125, 130, 141
#: Seconds to wait for a session's lock without a word, and with one.
_SHORT_WAIT, _LONG_WAIT = 1.0, 600.0
#: What the system says when our own output does not fit where it goes.
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


class Invocation:
    """One call of a command, with the values of the options that all commands have.

    Parameters
    ----------
    program : str
        The command's name, for messages.
    """

    def __init__(self, program: str) -> None:
        self.program = program
        self.config_file: str | None = None
        self.session_name: str | None = None
        self.verbose = False
        self.as_json = False
        self._configuration: Configuration | None = None

    def say(self, text: str) -> None:
        """Tell a person something, on standard error."""
        from .table import clean

        print(f"{self.program}: {clean(text)}", file=sys.stderr, flush=True)

    def say_each(self, texts: Iterable[str]) -> None:
        """Tell several things, each only once, with how often it was said."""
        told: dict[str, int] = {}
        for text in texts:
            told[text] = told.get(text, 0) + 1
        for text, times in told.items():
            self.say(text if times == 1 else f"{text} (so for {times} tasks)")

    def open_session(self, *, create: bool = False) -> Session:
        """Open the session that was asked for.

        Parameters
        ----------
        create : bool
            Make it when there is none. The default session is always there.
        """
        from ..session import Session

        named = self.session_name or os.environ.get("BATCHLIB_SESSION")
        return Session(self.session_name, create=create or not named)

    @property
    def configuration(self) -> Configuration:
        """The configuration, read at its first use."""
        if self._configuration is None:
            from ..config import load

            self._configuration = load(self.config_file)
        return self._configuration

    def engine(self, session: Session, *, fetch: bool = False) -> Engine:
        """Make the engine that drives a session's tasks, and let it ask for passwords where there is a person."""
        from ..engine import Engine

        self.be_ready_to_connect()
        return Engine(session, self.configuration, fetch=fetch)

    def be_ready_to_connect(self) -> None:
        """Set who is asked for passwords, and keep libraries from reporting errors that we report ourselves."""
        import logging

        from ..backends.connection import set_prompt
        from .terminal import ask_person, has_person

        logging.lastResort = None
        if self.verbose:
            logging.basicConfig(format="%(name)s: %(message)s")
            logging.getLogger("batchlib").setLevel(logging.DEBUG)
        if has_person():
            set_prompt(ask_person)

    @contextlib.contextmanager
    def driving(self, session: Session, ids: Collection[str] | None = None) -> Iterator[None]:
        """Hold the locks of a session's tasks, waiting for whoever has one.

        Parameters
        ----------
        session : Session
            The session.
        ids : collection of str, optional
            The tasks that are to be written; default is the whole session, new tasks that others add included.
        """
        while True:
            resources = None if ids is None else session.resources(ids)
            with contextlib.ExitStack() as stack:
                try:
                    stack.enter_context(session.driving(_SHORT_WAIT, resources))
                except SessionLocked as error:
                    self.say(f"{error}; waiting")
                    stack.enter_context(session.driving(_LONG_WAIT, resources))
                if resources is None or session.resources(ids) <= resources:
                    yield
                    return


def run(command: click.Command) -> None:
    """Run a command and end the process with its exit status; this is where all errors end.

    Parameters
    ----------
    command : click.Command
        Its callback returns the number of tasks that failed, or None.
    """
    # a hundred thousand tasks are no garbage; to look for some among them takes as long as to read them
    gc.set_threshold(50_000, 20, 100)
    invocation = Invocation(command.name or "batchlib")
    warnings.showwarning = lambda message, *_others: invocation.say(f"warning: {message}")
    # whoever closed one of them wants to hear nothing
    sys.stdout = sys.stdout or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - it is open to the end
    sys.stderr = sys.stderr or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # names of files and jobs may hold anything; a locale that can't show it is no reason to fail
            stream.reconfigure(errors="replace")
    try:
        status = _invoke(command, invocation)
        sys.stdout.flush()
    except (KeyboardInterrupt, EOFError, click.Abort):
        if sys.stderr.isatty():
            print(file=sys.stderr)
        invocation.say("interrupted")
        status = _INTERRUPTED
    except BrokenPipeError:
        _give_up_output()
        status = _BROKEN_PIPE
    except Exception as error:  # noqa: BLE001 - nobody is to see a traceback who did not ask for it
        if invocation.verbose:
            import traceback

            traceback.print_exc()
        status = _tell(invocation, error)
    sys.exit(status)


def _invoke(command: click.Command, invocation: Invocation) -> int:
    program = invocation.program
    variable = f"_{program.upper()}_COMPLETE"
    if os.environ.get(variable):
        from click.shell_completion import shell_complete

        return shell_complete(command, {"obj": invocation}, program, variable, os.environ[variable])
    try:
        with command.make_context(program, sys.argv[1:], obj=invocation) as context:
            failures: int | None = command.invoke(context)
    except click.exceptions.Exit as end:
        return end.exit_code
    return min(failures or 0, MAX_FAILURES)


def _tell(invocation: Invocation, error: Exception) -> int:
    """Tell of an error in one sentence; give the exit status."""
    if isinstance(error, click.ClickException):
        where = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else invocation.program
        invocation.say(f"{_sentence(error.format_message())} (see '{where} --help')")
        return _USAGE
    if isinstance(error, BatchlibError):
        invocation.say(str(error))
        return 1
    if isinstance(error, OSError) and error.filename is None and error.errno in _NO_ROOM:
        _give_up_output()
        invocation.say(f"the output can't be written: {error.strerror}")
        return 1
    said = str(error).partition("\n")[0]
    how = "please report it" if invocation.verbose else "run again with -v for details, and please report it"
    invocation.say(f"unexpected {type(error).__name__}: {said}; this is a defect of batchlib: {how}")
    return _DEFECT


def _sentence(text: str) -> str:
    """Put click's messages, which are sentences of their own, behind the program's name."""
    text = text.strip().rstrip(".")
    return text[:1].lower() + text[1:]


def _give_up_output() -> None:
    """Let what is left in the buffer of standard output go nowhere, so that Python's own flush at the end is silent."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    with contextlib.suppress(OSError):
        os.dup2(nowhere, 1)
    os.close(nowhere)


# --- options -----------------------------------------------------------------------------------------------


def _keep(context: click.Context, parameter: click.Parameter, value: object) -> None:
    """Store an option's value in the invocation; what was said before a subcommand's name counts too."""
    if value and parameter.name is not None and isinstance(context.obj, Invocation):
        setattr(context.obj, parameter.name, value)


_SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


def command(
    name: str, *, example: str, options_first: bool = False, session: bool = True, json: bool = True
) -> Callable[[F], click.Command]:
    """Make a function a command with the options that all commands have; it gets the `Invocation` first.

    Parameters
    ----------
    name : str
        The command's name.
    example : str
        Lines to show at the end of its help.
    options_first : bool
        Take whatever follows the first argument as it is, dashes or not.
    session, json : bool
        Whether it has to do with a session, and whether it prints anything.
    """
    settings = {**_SETTINGS, "allow_interspersed_args": not options_first}

    def decorate(function: F) -> click.Command:
        made = click.command(name, context_settings=settings, epilog=_epilog(example))(click.pass_obj(function))
        made.params += _common_options(session=session, json=json)
        return made

    return decorate


def group(name: str, *, example: str, session: bool = True, json: bool = True) -> Callable[[F], click.Group]:
    """Make a function a group of commands, as `command` does."""

    def decorate(function: F) -> click.Group:
        made = click.group(name, context_settings=_SETTINGS, epilog=_epilog(example), no_args_is_help=False)(function)
        made.params += _common_options(session=session, json=json)
        return made

    return decorate


def _epilog(example: str) -> str:
    lines = example.strip().splitlines()
    return "\n".join(["\b", "Examples:" if len(lines) > 1 else "Example:", *(f"  {line}" for line in lines)])


def _common_options(*, session: bool, json: bool) -> list[click.Parameter]:
    """Make the options that all commands have."""
    options = []
    if session:
        text = "The session; default is $BATCHLIB_SESSION, or 'default'."
        options.append(_kept("-s", "--session", "session_name", metavar="NAME|DIR", help=text))
    text = "The only configuration file to read; default is $BATCHLIB_CONF."
    options.append(_kept("--config", "config_file", metavar="FILE", help=text))
    if json:
        options.append(_kept("--json", "as_json", is_flag=True, help="Print one JSON document on standard output."))
    options.append(_kept("-v", "--verbose", is_flag=True, help="Say more, and show the traceback of an error."))
    version: dict[str, Any] = {"is_flag": True, "is_eager": True, "help": "Show the version and exit."}
    return [*options, click.Option(["--version"], callback=_show_version, expose_value=False, **version)]


def _kept(*names: str, **attributes: Any) -> click.Option:
    """Make an option whose value is kept in the invocation."""
    return click.Option([*names], callback=_keep, expose_value=False, **attributes)


def _show_version(context: click.Context, _parameter: click.Parameter, value: bool) -> None:
    if value and not context.resilient_parsing:
        print(f"batchlib {__version__}")
        context.exit()


ids_argument = click.argument("words", metavar="[ID...]", nargs=-1)


def all_option(text: str) -> Callable[[F], F]:
    """Make the option that stands for all tasks."""
    return click.option("-A", "--all", "every", is_flag=True, help=text)


def checked(convert: Callable[[Any], T]) -> Callable[[click.Context, click.Parameter, Any], T | None]:
    """Make an option's callback of a function that raises InvalidValue, so that the option is named.

    Parameters
    ----------
    convert : callable
        Takes the text (or texts) and gives the value.
    """

    def callback(context: click.Context, parameter: click.Parameter, value: Any) -> T | None:
        if value is None:
            return None
        try:
            return convert(value)
        except InvalidValue as error:
            raise click.BadParameter(error.message, context, parameter) from error

    return callback


def duration(text: str) -> Duration:
    """Read a duration."""
    from ..quantity import Duration

    return Duration(text)


def memory(text: str) -> Memory:
    """Read an amount of memory."""
    from ..quantity import Memory

    return Memory(text)
