"""The checks of ``batchlib doctor``: one function each, from the network to the batch system."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import attrs

from ..backends.batch import BatchSystem
from ..backends.native import Job
from ..backends.programs import Sections, quote, section
from ..config import backend_class
from ..errors import (
    AuthenticationFailed,
    BatchlibError,
    CommandNotFound,
    HostKeyChanged,
    TransportError,
    UnknownHostKey,
)
from ..quantity import Memory
from ..settings import ResourceSettings
from ..transport.base import STDOUT, Pipe

if TYPE_CHECKING:
    from ..transport.shell import Completed
    from ..transport.ssh import SshSettings

#: Tools that every frontend has to have.
_TOOLS = "awk cat chmod date find head id mkdir mv rm sed stat tail tar uname"
#: More tools, by type of resource.
_MORE_TOOLS = {"shell": "getconf grep nohup ps setsid", "slurm": "xargs"}
#: How to ask for a queue, by type of resource: the native command and its options; no output means no such queue.
_QUEUE_QUERIES = {"slurm": ("sinfo", "-h -o %R -p")}
#: Seconds of difference between clocks that are worth a word.
_MOST_SKEW = 60
_LEAST_SPACE = Memory("1 GiB")
#: Seconds to wait for sessions to open.
_SESSION_PATIENCE = 5.0
#: What helps when a connection can't be made.
_CONNECTION_REMEDIES: dict[type[BatchlibError], tuple[str, str]] = {
    UnknownHostKey: ("host key", "log in once with ssh, and compare the fingerprint with what the site publishes"),
    HostKeyChanged: ("host key", "ask the site whether its key was changed before you trust the new one"),
    AuthenticationFailed: ("authentication", "set 'username' and 'keyfile', run ssh-add, or set 'password_command'"),
}


@attrs.frozen
class Finding:
    """The result of one check.

    Parameters
    ----------
    level : str
        ``ok``, ``warning`` or ``wrong``.
    check : str
        What was looked at.
    message : str
        What was found.
    remedy : str
        How to mend it; empty where nothing is to be done.
    """

    level: str
    check: str
    message: str
    remedy: str = ""


def examine(settings: ResourceSettings) -> Iterator[Finding]:
    """Check a resource, ending where going on makes no sense.

    Parameters
    ----------
    settings : ResourceSettings
        The resource.
    """
    if settings.enabled:
        yield Finding("ok", "configuration", f"a resource of type {settings.type}")
    else:
        yield Finding("warning", "configuration", "the resource is not enabled", "say 'enabled = yes'")
    network = list(_network(settings))
    yield from network
    if any(finding.level == "wrong" for finding in network):
        return
    with contextlib.closing(backend_class(settings.type).from_settings(settings)) as backend:
        try:
            yield from _login(backend, settings)
        except BatchlibError as error:
            yield _connection_trouble(error)
            return
        try:
            if settings.ssh is not None:
                yield from _start_files(backend)
            spool = list(_spool(backend))
            yield from spool
            yield from _tools(backend)
            yield from _native_commands(backend)
            if all(finding.level != "wrong" for finding in spool):
                yield from _batch_system(backend)
                yield from _accounting(backend)
            yield from _queue(backend)
            yield from _sessions(backend, settings)
        except TransportError as error:
            yield _connection_trouble(error)


# --- the way there -----------------------------------------------------------------------------------------


def _network(settings: ResourceSettings) -> Iterator[Finding]:
    """Look the host up and knock at its port; what lies behind a jump host is left to the login."""
    if settings.ssh is None:
        return
    from ..transport.openssh_only import open_connection
    from ..transport.ssh_config import resolve

    try:
        host = resolve(settings.ssh)
    except BatchlibError as error:
        yield Finding("wrong", "SSH configuration", str(error), "mend your ~/.ssh/config, or set 'ssh_config'")
        return
    yield from _transport(settings, settings.ssh)
    if settings.transport == "openssh" and open_connection(settings.ssh):
        yield Finding("ok", "connection", f"your own open connection at {host.control_path} is used")
        return
    if host.proxy_jump or host.proxy_command:
        yield Finding("ok", "host name", f"{host.hostname} is reached through {host.proxy_jump or host.proxy_command}")
        return
    try:
        found = socket.getaddrinfo(host.hostname, host.port, type=socket.SOCK_STREAM)
    except OSError as error:
        yield Finding(
            "wrong", "host name", f"{host.hostname} can't be looked up ({error.strerror})",
            "correct 'frontend', or connect to the network (VPN?) that knows it",
        )  # fmt: skip
        return
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    yield Finding("ok", "host name", f"{host.hostname} is {', '.join(addresses)}")
    try:
        socket.create_connection((host.hostname, host.port), timeout=settings.ssh.timeout).close()
    except OSError as error:
        yield Finding(
            "wrong", "port", f"{host.hostname}, port {host.port} can't be reached ({error.strerror or error})",
            "correct 'frontend' or 'port', or name a jump host as 'gateway'",
        )  # fmt: skip
        return
    yield Finding("ok", "port", f"{host.port} is open")


def _transport(settings: ResourceSettings, ssh: SshSettings) -> Iterator[Finding]:
    """See whether the user's own ssh would do better."""
    from ..transport.openssh_only import openssh_only

    reasons = openssh_only(ssh) if settings.transport == "ssh" else []
    if reasons:
        text = f"only your own ssh can use all that your SSH configuration has: {'; '.join(reasons)}"
        yield Finding("warning", "transport", text, "say 'transport = openssh'")


def _login(backend: BatchSystem, settings: ResourceSettings) -> Iterator[Finding]:
    """Log in and see whether a shell answers."""
    started = time.monotonic()
    user, _, system = backend.transport.run("id -un; uname -srm").out.strip().partition("\n")
    took = time.monotonic() - started
    if settings.ssh is not None:
        if settings.ssh.host_keys == "ignore":
            yield Finding("warning", "host key", "it is not checked", "remove 'host_keys = ignore' and learn the key")
        else:
            yield Finding("ok", "host key", "known")
        yield Finding("ok", "authentication", f"logged in as {user} in {took:.1f} s")
    yield Finding("ok", "shell", f"{backend.transport.name} answers ({system})")


def _connection_trouble(error: BatchlibError) -> Finding:
    """Say which step of connecting failed."""
    usual = ("connection", "try again later, or ask the site's administrators")
    check, remedy = _CONNECTION_REMEDIES.get(type(error), usual)
    return Finding("wrong", check, str(error), remedy)


def _start_files(backend: BatchSystem) -> Iterator[Finding]:
    """See what the login shell prints before it does as it is told, and which one it is."""
    noise = _until_mark(backend.transport.carrier.open("echo batchlib-mark; exit"), b"batchlib-mark", backend)
    shell = backend.transport.run('printf %s "${SHELL:-unknown}"').out
    if noise is None:
        yield Finding("wrong", "start files", f"the login shell {shell} ran no command", "see what its start files do")
    elif noise:
        shown = noise.decode("utf-8", "replace").strip()[:60]
        text = f"the login shell {shell} prints {shown!r} at each login; batchlib can live with it"
        remedy = "let ~/.bashrc and the like print only for terminals, or scp and rsync will fail"
        yield Finding("warning", "start files", text, remedy)
    else:
        yield Finding("ok", "start files", f"the login shell {shell} prints nothing of its own")


def _until_mark(pipe: Pipe, mark: bytes, backend: BatchSystem) -> bytes | None:
    """Give what comes before a mark; None when that never comes."""
    said = b""
    deadline = time.monotonic() + backend.settings.timeout
    with contextlib.closing(pipe):
        while time.monotonic() < deadline:
            got = pipe.read(0.5)
            if got is None:
                continue
            stream, chunk = got
            if stream == STDOUT:
                said += chunk
            if mark in said:
                return said.partition(mark)[0]
            if stream == STDOUT and not chunk:
                return None
    return None


# --- the frontend ------------------------------------------------------------------------------------------


def _spool(backend: BatchSystem) -> Iterator[Finding]:
    """See whether sandboxes can be made, how much room there is, and whether others can look into them."""
    try:
        spool = backend.spool
    except BatchlibError as error:
        yield Finding("wrong", "spool directory", str(error), "it has to be a directory of yours that the nodes see")
        return
    parts = _ask(backend, {"mode": f"stat -c %a -- {quote(spool)}", "space": f"df -Pk -- {quote(spool)}"})
    mode = parts["mode"].out.strip()
    if mode.endswith("00"):
        yield Finding("ok", "spool directory", f"{spool} can be written, and by nobody else be read")
    else:
        yield Finding("warning", "spool directory", f"{spool} has mode {mode}", f"say 'chmod 700 {spool}' there")
    fields = parts["space"].out.splitlines()[-1].split() if parts["space"].out else []
    if len(fields) < 5 or not fields[3].isdigit():
        yield Finding("warning", "free space", "it can't be told", "see what 'df -P' says there")
        return
    free = Memory(f"{fields[3]} KiB")
    text = f"{free.amount('GiB'):.1f} GiB are free on {fields[0]} ({fields[4]} used)"
    if free < _LEAST_SPACE:
        yield Finding("warning", "free space", text, "make room, or name another directory as 'spooldir'")
    else:
        yield Finding("ok", "free space", text)
    skew = backend.clock_skew
    if abs(skew) > _MOST_SKEW:
        ahead = "ahead of" if skew > 0 else "behind"
        text = f"the frontend's is {abs(skew):.0f} s {ahead} ours, so that times may seem odd"
        yield Finding("warning", "clock", text, "let both machines set their clocks by NTP")
    else:
        yield Finding("ok", "clock", "the frontend's agrees with ours")


def _tools(backend: BatchSystem) -> Iterator[Finding]:
    """See whether the usual file tools are there."""
    tools = f"{_TOOLS} {_MORE_TOOLS.get(backend.type, '')}"
    program = f"for tool in {tools}; do command -v $tool >/dev/null || echo $tool; done"
    missing = backend.transport.run(program).out.split()
    if missing:
        remedy = "have them installed, or put them into the PATH by 'setup'"
        yield Finding("wrong", "tools", f"missing: {', '.join(missing)}", remedy)
    else:
        yield Finding("ok", "tools", "tar, stat and the others are there")


def _native_commands(backend: BatchSystem) -> Iterator[Finding]:
    """See whether the batch system's commands are there."""
    prelude = backend.submit_prelude()
    # what a batch system defines for itself can't be missing
    wanted = [name for name in backend.commands if f"{name}()" not in prelude]
    for name in wanted:
        word = backend.command(name).split()[0]
        answer = backend.transport.run(f"command -v {quote(word)}")
        if answer.exitcode == 0:
            yield Finding("ok", name, answer.out.strip())
        else:
            level = "warning" if "acct" in name else "wrong"
            remedy = f"say '{name} = /path/to/{name}', or put it into the PATH by 'setup'"
            yield Finding(level, name, f"{word} is not found", remedy)


# --- the batch system --------------------------------------------------------------------------------------


def _batch_system(backend: BatchSystem) -> Iterator[Finding]:
    """See whether it answers."""
    try:
        version = backend.version()
        backend.ping()
    except CommandNotFound as error:
        yield Finding("wrong", "batch system", error.message, "see above")
    except TransportError:
        raise
    except BatchlibError as error:
        yield Finding("wrong", "batch system", error.message, "try again later, or ask the site's administrators")
    else:
        yield Finding("ok", "batch system", f"{version} answers")


def _accounting(backend: BatchSystem) -> Iterator[Finding]:
    """See whether it tells how jobs ended that are long gone."""
    remedy = "nothing is lost: jobs write down themselves how they ended; ask the site whether it can be switched on"
    command = backend.accounting_command([Job("1", "")])
    if command is None:
        return
    try:
        backend.parse_accounting(backend.transport.run(f"export LC_ALL=C TZ=UTC\n{command}"))
    except TransportError:
        raise
    except BatchlibError as error:
        yield Finding("warning", "accounting", error.message, remedy)
        return
    if backend.accounting_command([Job("1", "")]) is None:
        yield Finding("warning", "accounting", "it is switched off, or its command is missing", remedy)
    else:
        yield Finding("ok", "accounting", "it answers")


def _queue(backend: BatchSystem) -> Iterator[Finding]:
    """See whether the configured queue exists, where that can be asked."""
    queue = backend.settings.queue
    query = _QUEUE_QUERIES.get(backend.type)
    if queue is None or query is None:
        return
    name, options = query
    answer = backend.transport.run(f"{backend.command(name)} {options} {quote(queue)}")
    if answer.exitcode in (126, 127):
        # that the command is missing was told already
        return
    if answer.exitcode == 0 and answer.out.strip():
        yield Finding("ok", "queue", f"{queue} exists")
    else:
        every = backend.transport.run(f"{backend.command(name)} {options.rpartition(' ')[0]}").out.split()
        there = f"choose one of: {', '.join(dict.fromkeys(every))}" if every else "correct 'queue'"
        yield Finding("wrong", "queue", f"there is no queue {queue}", there)


def _sessions(backend: BatchSystem, settings: ResourceSettings) -> Iterator[Finding]:
    """Count how many programs one connection may run at a time."""
    if settings.ssh is None:
        return
    pipes: list[Pipe] = []
    wanted = settings.ssh.sessions - 1
    stopped = threading.Event()

    def open_all() -> None:
        # refusals end the attempt; how far it came is what we want to know
        with contextlib.suppress(BatchlibError):
            while len(pipes) < wanted and not stopped.is_set():
                pipe = backend.transport.carrier.open("exec cat")
                if stopped.is_set():
                    pipe.close()
                else:
                    pipes.append(pipe)

    thread = threading.Thread(target=open_all, daemon=True)
    thread.start()
    thread.join(_SESSION_PATIENCE)
    stopped.set()
    for pipe in list(pipes):
        pipe.close()
    # one more is our own shell's
    number = len(pipes) + 1
    if number >= settings.ssh.sessions:
        yield Finding("ok", "sessions", f"{number} programs may run at a time on one connection")
    else:
        text = f"only {number} programs may run at a time on one connection"
        yield Finding("warning", "sessions", text, f"say 'sessions = {number}'; the site's MaxSessions sets the limit")


def _ask(backend: BatchSystem, asked: dict[str, str]) -> dict[str, Completed]:
    """Run several programs in one round trip."""
    sections = Sections()
    for name, text in asked.items():
        sections.add(name, text)
    parts = sections.split(backend.transport.run(f"export LC_ALL=C\n{sections.text}"))
    return {name: section(parts, name) for name in asked}
