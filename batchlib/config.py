"""Configuration files: which resources there are and how to reach them.

INI files in GC3Pie's shape: ``[DEFAULT]``, ``[auth/NAME]`` and ``[resource/NAME]``. With no file at all there is one
resource, ``localhost``, that runs plain processes on this machine.
"""

from __future__ import annotations

import configparser
import difflib
import importlib
import math
import os
import re
import shlex
import stat
import warnings
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import attrs

from .application import is_native_name
from .errors import ConfigurationError, InvalidValue, UnknownResource
from .quantity import Duration, Memory, whole_number
from .transport.ssh import SshSettings

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from .backends.base import Backend
    from .backends.batch import BatchSystem

T = TypeVar("T")

#: Keys that hold shell text: ``#`` is part of it.
_TEXT = re.compile(r"(.+_)?(prologue|epilogue)(_contents?)?|setup|password_command")
_COMMENT = re.compile(r"(?:^|\s)[#;]")
_SCRIPT_KEY = re.compile(r"(?:(?P<application>.+)_)?(?P<which>prologue|epilogue)(?P<content>_content)?")
#: Transports that lead to another machine.
_REMOTE = ("ssh", "openssh")
_TRUE = {"1": True, "yes": True, "true": True, "on": True, "0": False, "no": False, "false": False, "off": False}

#: Seconds between two looks at a queue at least, where the configuration does not say.
DEFAULT_POLL_INTERVAL = 0.25


class WrongKey(InvalidValue):
    """A key can't be used, or not with this value."""

    def __init__(self, key: str, problem: str) -> None:
        super().__init__(problem if repr(key) in problem else f"{key}: {problem}")
        self.key = key


def _boolean(value: str | bool) -> bool:
    if isinstance(value, bool):
        return value
    try:
        return _TRUE[value.strip().lower()]
    except KeyError:
        raise InvalidValue(f"{value!r} is neither yes nor no") from None


def _choice(value: str | bool | None) -> bool | None:
    return None if value is None else _boolean(value)


def _count(value: str | int | None) -> int | None:
    if value is None:
        return None
    number = whole_number(str(value).strip())
    if not number:
        raise InvalidValue(f"{value!r} is no whole number from 1 on")
    return number


def _seconds(value: str | float) -> float:
    """Take seconds, or a duration with its unit."""
    try:
        seconds = float(value)
    except ValueError:
        return Duration(str(value)).seconds
    if not math.isfinite(seconds) or seconds < 0:
        raise InvalidValue(f"{value!r} is no number of seconds")
    return seconds


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


def _list(value: str | Iterable[str] | None) -> tuple[str, ...]:
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
    enabled: bool = attrs.field(default=True, converter=_boolean)
    architecture: tuple[str, ...] = attrs.field(default=(), converter=_list)
    max_cores: int | None = attrs.field(default=None, converter=_count)
    max_cores_per_job: int | None = attrs.field(default=None, converter=_count)
    max_memory_per_core: Memory | None = attrs.field(default=None, converter=_memory)
    max_walltime: Duration | None = attrs.field(default=None, converter=_duration)
    spooldir: str = "$HOME/.batchlib"
    cache_quota: Memory = attrs.field(default=Memory("10 GB"), converter=_quota)
    cache_links: bool | None = attrs.field(default=None, converter=_choice)
    accounting_delay: float = attrs.field(default=15.0, converter=_seconds)
    poll_interval: float = attrs.field(default=DEFAULT_POLL_INTERVAL, converter=_seconds)
    timeout: float = attrs.field(default=120.0, converter=_seconds)
    queue: str | None = attrs.field(default=None, converter=_native_name)
    account: str | None = attrs.field(default=None, converter=_native_name)
    qos: str | None = attrs.field(default=None, converter=_native_name)
    parallel_environment: str | None = None
    memory_resources: tuple[str, ...] = attrs.field(default=("h_vmem", "mem_free"), converter=_list)
    gpu_resource: str = "gpu"
    memory_unit: str | None = attrs.field(default=None, converter=_unit)
    max_array_size: int | None = attrs.field(default=None, converter=_count)
    extra_args: tuple[str, ...] = attrs.field(default=(), converter=_options)
    submissions_at_a_time: int | None = attrs.field(default=None, converter=_count)
    submissions_a_second: int | None = attrs.field(default=None, converter=_count)
    shell: str = "/bin/sh"
    setup: str = ""
    header_template: str = ""
    prologues: dict[str, str] = attrs.field(factory=dict)
    epilogues: dict[str, str] = attrs.field(factory=dict)
    commands: dict[str, str] = attrs.field(factory=dict)

    @transport.validator
    def _check_transport(self, _attribute: object, value: str) -> None:
        if value not in ("local", *_REMOTE):
            raise InvalidValue(f"{value!r} is no transport: use local, ssh or openssh")
        if value in _REMOTE and self.ssh is None:
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


_RESOURCE_KEYS = frozenset(field.name for field in attrs.fields(ResourceSettings)) - {
    "name",
    "ssh",
    "prologues",
    "epilogues",
    "commands",
}
_SSH_KEYS = frozenset(field.name for field in attrs.fields(SshSettings)) - {"host"}
_SSH_SECONDS = ("timeout", "keepalive", "session_wait")
_AUTH_KEYS = {"none": frozenset({"type"}), "ssh": _SSH_KEYS | {"type", "ignore_ssh_host_keys"}}


#: The kinds of resources that come with batchlib, and the names of their classes.
_BUILT_IN = {
    "lsf": "LsfBackend",
    "pbs": "PbsBackend",
    "sge": "SgeBackend",
    "shell": "ShellBackend",
    "slurm": "SlurmBackend",
    "torque": "TorqueBackend",
}


@cache
def _entry_points() -> dict[str, EntryPoint]:
    """Find the kinds of resources that others have installed."""
    # imported late: looking through all that is installed takes longer than the rest of reading a configuration
    from importlib.metadata import entry_points

    return {point.name: point for point in entry_points(group="batchlib.backends")}


def backend_class(kind: str) -> type[BatchSystem]:
    """Load the class for a kind of resource.

    Raises
    ------
    InvalidValue
        There is none of that name.
    """
    loaded: type[BatchSystem]
    if kind in _BUILT_IN:
        loaded = getattr(importlib.import_module(f".backends.{kind}", __package__), _BUILT_IN[kind])
    elif kind in _entry_points():
        loaded = _entry_points()[kind].load()
    else:
        raise InvalidValue(f"there is no resource type {kind!r}{_nearest(kind, [*_BUILT_IN, *_entry_points()])}")
    return loaded


def resource_settings(
    name: str,
    keys: Mapping[str, Any],
    *,
    auth: Mapping[str, Any] | None = None,
    directories: Mapping[str, Path] | None = None,
    commands: Iterable[str] | None = None,
) -> ResourceSettings:
    """Check the keys of one resource.

    Parameters
    ----------
    name : str
        The resource's name.
    keys : mapping
        Keys and values as a configuration file has them; values may be of their own types already.
    auth : mapping, optional
        Keys of its ``[auth/NAME]`` section.
    directories : mapping of str to Path, optional
        For keys that name files: where relative names start; default is the working directory.
    commands : iterable of str, optional
        Names of native commands that may be replaced; default is what its type has.

    Raises
    ------
    InvalidValue
        A key is unknown, missing, or has a value that can't be used.
    """
    if "type" not in keys:
        raise InvalidValue(f"it has no type: say 'type = {' | '.join(sorted({*_BUILT_IN, *_entry_points()}))}'")
    if commands is None:
        commands = backend_class(str(keys["type"])).commands
    plain: dict[str, Any] = {"name": name}
    scripts: dict[str, dict[str, str]] = {"prologue": {}, "epilogue": {}}
    native: dict[str, str] = {}
    ssh: dict[str, Any] = dict(auth or {})
    directories = directories or {}
    for key, value in keys.items():
        if key in ("prologue_contents", "epilogue_contents"):
            warnings.warn(f"{key} is spelt {key.rstrip('s')}", stacklevel=2)
            key = key.rstrip("s")
        if key == "header_template":
            plain[key] = _read_text(key, _path(value, directories.get(key, Path())))
        elif key in _RESOURCE_KEYS:
            plain[key] = _checked(key, value, ResourceSettings)
        elif key in ("frontend", "auth"):
            continue
        elif key in commands:
            native[key] = value
        elif match := _SCRIPT_KEY.fullmatch(key):
            scripts[match["which"]][key] = _script(key, value, bool(match["content"]), directories.get(key, Path()))
        elif key in _SSH_KEYS | {"ignore_ssh_host_keys"}:
            ssh[key] = value
        else:
            known = {*_RESOURCE_KEYS, *commands, *_SSH_KEYS, "frontend", "auth", "prologue", "epilogue"}
            raise WrongKey(key, f"there is no key {key!r}{_nearest(key, known)}")
    frontend = keys.get("frontend")
    if frontend and plain.get("transport", "local") in _REMOTE:
        plain["ssh"] = _ssh_settings(str(frontend), ssh, directories)
    elif frontend and frontend != "localhost":
        raise WrongKey("frontend", f"{frontend} is not this machine: say 'transport = ssh' to reach it")
    return ResourceSettings(**plain, prologues=scripts["prologue"], epilogues=scripts["epilogue"], commands=native)


def _checked(key: str, value: object, settings: type) -> object:
    """Convert one value now, so that an error can name its key."""
    converter = getattr(attrs.fields_dict(settings)[key], "converter", None)
    return value if converter is None else _converted(key, value, converter)


def _converted(key: str, value: object, converter: Callable[[Any], object]) -> object:
    try:
        return converter(value)
    except InvalidValue as error:
        raise WrongKey(key, error.message) from None


def _ssh_settings(host: str, keys: Mapping[str, Any], directories: Mapping[str, Path]) -> SshSettings:
    plain = {key: value for key, value in keys.items() if key in _SSH_KEYS}
    if "ignore_ssh_host_keys" in keys and _boolean(keys["ignore_ssh_host_keys"]):
        warnings.warn(
            f"the host key of {host} is not checked: anybody on the way can read and change what is sent",
            stacklevel=3,
        )
        plain["host_keys"] = "ignore"
    for key in ("keyfile", "certificate", "ssh_config"):
        value = plain.get(key)
        if value and value != "none":
            plain[key] = _path(value, directories.get(key, Path()))
    for key, convert in {"port": _count, "sessions": _count, **dict.fromkeys(_SSH_SECONDS, _seconds)}.items():
        if key in plain:
            plain[key] = _converted(key, plain[key], convert)
    if isinstance(plain.get("known_hosts"), str):
        directory = directories.get("known_hosts", Path())
        plain["known_hosts"] = tuple(_path(name, directory) for name in _list(plain["known_hosts"]))
    return SshSettings(host=host, **plain)


def _path(name: str, directory: Path) -> str:
    return str(directory / Path(name).expanduser())


def _read_text(key: str, path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        raise WrongKey(key, f"cannot read {path}: {error.strerror}") from error


def _script(key: str, value: str, is_content: bool, directory: Path) -> str:
    """Give the text of a prologue or epilogue: a file's content between two marks, or the value itself."""
    if is_content:
        return value
    for name in (value, _COMMENT.split(value, maxsplit=1)[0].strip()):
        path = _path(name, directory)
        if name and os.path.isfile(path):
            text = _read_text(key, path).rstrip("\n")
            return f"# {key}: start of {path}\n{text}\n# {key}: end of {path}"
    if re.search(r"\s", value.strip()):
        return value
    raise WrongKey(key, f"there is no file {_path(value, directory)}; text goes into {key}_content")


def _nearest(word: str, known: Iterable[str]) -> str:
    known = sorted(known)
    close = difflib.get_close_matches(word, known, 1, 0.6)
    return f"; did you mean {close[0]!r}?" if close else f"; there are: {', '.join(known)}"


@attrs.frozen
class Configuration:
    """All resources that are configured.

    Parameters
    ----------
    resources : dict of str to ResourceSettings
        Them, by name, in the order of the files.
    files : tuple of Path
        What was read.
    """

    resources: dict[str, ResourceSettings]
    files: tuple[Path, ...] = ()

    def settings(self, name: str) -> ResourceSettings:
        """Give the settings of a resource.

        Raises
        ------
        UnknownResource
            There is none of that name.
        """
        if name not in self.resources:
            raise UnknownResource(f"there is no resource {name!r}{_nearest(name, self.resources)}")
        return self.resources[name]

    def resource(self, name: str) -> Backend:
        """Make the backend for a resource; it connects when it is first asked something."""
        settings = self.settings(name)
        return backend_class(settings.type).from_settings(settings)


def default_files() -> list[Path]:
    """List the configuration files that are read when none is named, the later one winning."""
    files = [Path("/etc/batchlib/batchlib.conf")]
    if os.environ.get("VIRTUAL_ENV"):
        files.append(Path(os.environ["VIRTUAL_ENV"], "etc/batchlib/batchlib.conf"))
    home = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    files.append(Path(home, "batchlib/batchlib.conf"))
    return files


def load(file: str | os.PathLike[str] | None = None) -> Configuration:
    """Read the configuration.

    Parameters
    ----------
    file : path, optional
        The only file to read; default is ``$BATCHLIB_CONF``, or else all of `default_files` that exist.

    Raises
    ------
    ConfigurationError
        A file can't be read or holds something wrong; the message names file, section and key.
    """
    only = file or os.environ.get("BATCHLIB_CONF")
    paths = [Path(only)] if only else [path for path in default_files() if path.exists()]
    sections: _Sections = {} if paths else {"resource/localhost": {"type": _Value("shell", Path("(built in)"))}}
    for path in paths:
        for section, keys in _read(path).items():
            sections.setdefault(section, {}).update(keys)
    resources = {}
    for section, keys in sections.items():
        kind, _, name = section.partition("/")
        if section == configparser.DEFAULTSECT:
            continue
        try:
            if kind not in ("auth", "resource") or not name:
                raise InvalidValue("sections are called [auth/NAME] or [resource/NAME]")
            if kind == "auth":
                _auth(keys)
            else:
                resources[name] = _resource(sections, name)
        except InvalidValue as error:
            raise ConfigurationError(f"{_origin(sections, section, error)}: [{section}]: {error.message}") from error
    return Configuration(resources, tuple(paths))


@attrs.frozen
class _Value:
    """What a key is set to, and by which file."""

    text: str
    file: Path


_Sections = dict[str, dict[str, _Value]]


def _origin(sections: _Sections, section: str, error: InvalidValue) -> str:
    """Name the files that a section comes from, or the one that a wrong key comes from."""
    keys = {**sections.get(configparser.DEFAULTSECT, {}), **sections[section]}
    key = error.key if isinstance(error, WrongKey) else ""
    values = [keys[key]] if key in keys else sections[section].values()
    return " and ".join(dict.fromkeys(str(value.file) for value in values)) or "the configuration"


def _read(path: Path) -> _Sections:
    """Read one file, with comments behind values cut off."""
    # no section is special while files are put together
    parser = configparser.RawConfigParser(delimiters=("=",), comment_prefixes=("#", ";"), default_section="")
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    try:
        info = path.stat()
        text = path.read_text(encoding="utf-8")
        writable = info.st_mode & stat.S_IWOTH and not stat.S_ISCHR(info.st_mode)  # /dev/null stays empty
        if writable or info.st_uid not in (os.getuid(), 0):
            raise ConfigurationError(
                f"{path} can be changed by other users, who could make you run anything: "
                "own it yourself and say 'chmod o-w' to it"
            )
        parser.read_string(text, str(path))
    except OSError as error:
        raise ConfigurationError(f"cannot read the configuration file {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"the configuration file {path} is not UTF-8 text") from error
    except configparser.Error as error:
        raise ConfigurationError(f"{path}: {error.message}".replace("\n", " ")) from error
    return {
        section: {
            key: _Value(value if _TEXT.fullmatch(key) else _COMMENT.split(value, maxsplit=1)[0].strip(), path)
            for key, value in parser.items(section)
        }
        for section in parser.sections()
    }


def _auth(keys: Mapping[str, _Value]) -> None:
    """Check the keys of an ``[auth/NAME]`` section."""
    kind = keys["type"].text if "type" in keys else ""
    if kind not in _AUTH_KEYS:
        raise InvalidValue(f"its type has to be one of {', '.join(_AUTH_KEYS)}, not {kind!r}")
    for key in keys:
        if key not in _AUTH_KEYS[kind]:
            raise WrongKey(key, f"there is no key {key!r}{_nearest(key, _AUTH_KEYS[kind])}")


def _resource(sections: _Sections, name: str) -> ResourceSettings:
    defaults, own = sections.get(configparser.DEFAULTSECT, {}), sections[f"resource/{name}"]
    auth_name = own["auth"].text if "auth" in own else defaults["auth"].text if "auth" in defaults else "none"
    auth = sections.get(f"auth/{auth_name}", {})
    if not auth and auth_name != "none":
        raise WrongKey("auth", f"there is no section [auth/{auth_name}]")
    keys = {**{key: value for key, value in defaults.items() if key not in auth}, **own}
    return resource_settings(
        name,
        {key: value.text for key, value in keys.items()},
        auth={key: value.text for key, value in auth.items()},
        directories={key: value.file.parent for key, value in {**auth, **keys}.items()},
    )
