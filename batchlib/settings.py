"""What is configured of a resource, and how its values are read."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Iterable

import attrs

from .application import is_native_name
from .errors import InvalidValue
from .quantity import Duration, Memory, whole_number
from .transport.ssh import SshSettings

_TRUE = {"1": True, "yes": True, "true": True, "on": True, "0": False, "no": False, "false": False, "off": False}
#: Transports that lead to another machine.
REMOTE = ("ssh", "openssh")

#: Seconds between two looks at a queue at least, where the configuration does not say.
DEFAULT_POLL_INTERVAL = 0.25


def boolean(value: str | bool) -> bool:
    """Take yes or no."""
    if isinstance(value, bool):
        return value
    try:
        return _TRUE[value.strip().lower()]
    except KeyError:
        raise InvalidValue(f"{value!r} is neither yes nor no") from None


def _choice(value: str | bool | None) -> bool | None:
    return None if value is None else boolean(value)


def count(value: str | int | None) -> int | None:
    """Take a whole number from 1 on, or None."""
    if value is None:
        return None
    number = whole_number(str(value).strip())
    if not number:
        raise InvalidValue(f"{value!r} is no whole number from 1 on")
    return number


def seconds(value: str | float) -> float:
    """Take seconds, or a duration with its unit."""
    try:
        number = float(value)
    except ValueError:
        return Duration(str(value)).seconds
    if not math.isfinite(number) or number < 0:
        raise InvalidValue(f"{value!r} is no number of seconds")
    return number


def _native_name(value: str | None) -> str | None:
    if value and not is_native_name(value):
        raise InvalidValue(f"{value!r} holds characters that no batch system takes")
    return value


def _memory(value: str | Memory | None) -> Memory | None:
    return None if value is None else Memory(value)


def _quota(value: str | Memory) -> Memory:
    """Take an amount of memory, or a word that means none."""
    if isinstance(value, str) and value.strip().lower() in ("0", "off", "no"):
        return Memory("0 B")
    return Memory(value)


def _duration(value: str | Duration | None) -> Duration | None:
    return None if value is None else Duration(value)


def _unit(value: str | None) -> str | None:
    if value is None or value.upper() in ("KB", "MB", "GB", "TB", "PB", "EB"):
        return value and value.upper()
    raise InvalidValue(f"{value!r} is no unit of memory: say KB, MB, GB or TB")


def words(value: str | Iterable[str] | None) -> tuple[str, ...]:
    """Take words that are separated by blanks or commas."""
    if value is None:
        return ()
    return tuple(re.findall(r"[^\s,]+", value)) if isinstance(value, str) else tuple(value)


def _options(value: str | Iterable[str]) -> tuple[str, ...]:
    """Split options as a shell would; what follows a ``#`` is a comment."""
    try:
        options = tuple(shlex.split(value, comments=True)) if isinstance(value, str) else tuple(value)
    except ValueError as error:
        raise InvalidValue(f"{value!r} can't be split into options: {error}") from None
    if any("\n" in option for option in options):
        raise InvalidValue("an option can't go over several lines")
    return options


@attrs.frozen(kw_only=True)
class ResourceSettings:
    """One resource, as configured.

    Parameters
    ----------
    name : str
        Its name.
    type : str
        Kind of batch system: ``slurm``, ``shell``, ...
    transport : str
        ``local`` (this machine), ``ssh`` or ``openssh``, the user's own OpenSSH client.
    ssh : SshSettings, optional
        How to reach the frontend; for ``transport = ssh`` and ``openssh``.
    enabled : bool
        Whether it may be used.
    architecture : tuple of str
        Processor architectures it has; empty for unknown.
    max_cores, max_cores_per_job : int, optional
        Cores to use at a time by all jobs and by one job.
    max_memory_per_core : Memory, optional
        Memory that may be asked for each core.
    max_walltime : Duration, optional
        Longest walltime that may be asked for.
    spooldir : str
        Directory for sandboxes on the frontend, shared with the nodes; ``$HOME`` and ``~`` are expanded there.
    cache_quota : Memory
        Space for inputs that are kept in the spool directory, so that they need not be sent again; none switches the
        cache off.
    cache_links : bool, optional
        Whether jobs get links to kept inputs, which they can't change, or copies of their own; default is links,
        but copies where jobs run as root, whom no permission bits hold back.
    accounting_delay : float
        Seconds to wait for evidence of a job that is gone from the queue.
    poll_interval : float
        Seconds between two looks at the queue at least. Looks are as frequent as that only while much happens.
    timeout : float
        Seconds that one request may take.
    queue, account, qos : str, optional
        Defaults for jobs that don't name their own.
    parallel_environment : str, optional
        For Grid Engine: the parallel environment of jobs with several cores on one host.
    memory_resources : tuple of str
        For Grid Engine: the resources by which memory is asked for, counted for each core.
    gpu_resource : str
        For Grid Engine: the resource by which GPUs are asked for.
    memory_unit : str, optional
        For LSF: the unit of memory limits, such as ``MB``; default is what the site says.
    max_array_size : int, optional
        For LSF: elements that an array may have; default is what the site says.
    extra_args : tuple of str
        Options for the submit command of every job.
    submissions_at_a_time : int, optional
        Submit commands that run at a time on the frontend; default is the batch system's own.
    submissions_a_second : int, optional
        Submit commands started in a second at most; default is no limit.
    shell : str
        Interpreter of the job scripts.
    setup : str
        Shell text to run on the frontend before anything else, such as sourcing a site's profile.
    header_template : str
        Text of a template that takes the place of the batch system's own for the header of job scripts; configured
        as the name of a file.
    prologues, epilogues : dict of str to str
        Shell text before and after the commands, by key.
    commands : dict of str to str
        Native commands that are called otherwise here, options included.
    """

    name: str
    type: str
    transport: str = attrs.field(default="local")
    ssh: SshSettings | None = None
    enabled: bool = attrs.field(default=True, converter=boolean)
    architecture: tuple[str, ...] = attrs.field(default=(), converter=words)
    max_cores: int | None = attrs.field(default=None, converter=count)
    max_cores_per_job: int | None = attrs.field(default=None, converter=count)
    max_memory_per_core: Memory | None = attrs.field(default=None, converter=_memory)
    max_walltime: Duration | None = attrs.field(default=None, converter=_duration)
    spooldir: str = "$HOME/.batchlib"
    cache_quota: Memory = attrs.field(default=Memory("10 GB"), converter=_quota)
    cache_links: bool | None = attrs.field(default=None, converter=_choice)
    accounting_delay: float = attrs.field(default=15.0, converter=seconds)
    poll_interval: float = attrs.field(default=DEFAULT_POLL_INTERVAL, converter=seconds)
    timeout: float = attrs.field(default=120.0, converter=seconds)
    queue: str | None = attrs.field(default=None, converter=_native_name)
    account: str | None = attrs.field(default=None, converter=_native_name)
    qos: str | None = attrs.field(default=None, converter=_native_name)
    parallel_environment: str | None = None
    memory_resources: tuple[str, ...] = attrs.field(default=("h_vmem", "mem_free"), converter=words)
    gpu_resource: str = "gpu"
    memory_unit: str | None = attrs.field(default=None, converter=_unit)
    max_array_size: int | None = attrs.field(default=None, converter=count)
    extra_args: tuple[str, ...] = attrs.field(default=(), converter=_options)
    submissions_at_a_time: int | None = attrs.field(default=None, converter=count)
    submissions_a_second: int | None = attrs.field(default=None, converter=count)
    shell: str = "/bin/sh"
    setup: str = ""
    header_template: str = ""
    prologues: dict[str, str] = attrs.field(factory=dict)
    epilogues: dict[str, str] = attrs.field(factory=dict)
    commands: dict[str, str] = attrs.field(factory=dict)

    @transport.validator
    def _check_transport(self, _attribute: object, value: str) -> None:
        if value not in ("local", *REMOTE):
            raise InvalidValue(f"{value!r} is no transport: use local, ssh or openssh")
        if value in REMOTE and self.ssh is None:
            raise InvalidValue(f"transport = {value} needs a frontend: say 'frontend = HOST'")
        if value == "openssh" and self.ssh is not None:
            from .transport.openssh_options import refuse_unmappable

            refuse_unmappable(self.ssh)

    def script_parts(self, which: str, application: str) -> str:
        """Give the prologue or epilogue for an application: all sources, in GC3Pie's order.

        Parameters
        ----------
        which : str
            ``prologue`` or ``epilogue``.
        application : str
            The application's name; empty for none.
        """
        parts = self.prologues if which == "prologue" else self.epilogues
        keys = [which, f"{application}_{which}", f"{which}_content", f"{application}_{which}_content"]
        return "\n".join(parts[key] for key in keys if key in parts and (application or not key.startswith("_")))
