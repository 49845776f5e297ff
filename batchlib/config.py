"""Configuration files: which resources there are and how to reach them.

INI files in GC3Pie's shape: ``[DEFAULT]``, ``[auth/NAME]`` and ``[resource/NAME]``. With no file at all there is one
resource, ``localhost``, that runs plain processes on this machine.
"""

from __future__ import annotations

import configparser
import difflib
import importlib.metadata
import os
import re
import shlex
import stat
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import attrs

from .errors import ConfigurationError, InvalidValue, UnknownResource
from .quantity import Duration, Memory
from .transport.ssh import SshSettings

if TYPE_CHECKING:
    from .backends.base import Backend
    from .backends.batch import BatchSystem

T = TypeVar("T")

#: Keys of a resource that hold shell text: ``#`` is part of it.
_TEXT = re.compile(r"(.+_)?(prologue|epilogue)(_content)?|setup")
_SCRIPT_KEY = re.compile(r"(?:(?P<application>.+)_)?(?P<which>prologue|epilogue)(?P<content>_content)?")
_TRUE = {"1": True, "yes": True, "true": True, "on": True, "0": False, "no": False, "false": False, "off": False}


def _boolean(value: str | bool) -> bool:
    if isinstance(value, bool):
        return value
    try:
        return _TRUE[value.strip().lower()]
    except KeyError:
        raise InvalidValue(f"{value!r} is neither yes nor no") from None


def _count(value: str | int | None) -> int | None:
    if value is None:
        return None
    try:
        number = int(value)
    except ValueError:
        raise InvalidValue(f"{value!r} is no whole number") from None
    if number < 1:
        raise InvalidValue(f"{value!r} has to be at least 1")
    return number


def _seconds(value: str | float) -> float:
    """Take seconds, or a duration with its unit."""
    try:
        return float(value)
    except ValueError:
        return Duration(str(value)).seconds


def _memory(value: str | Memory | None) -> Memory | None:
    return None if value is None else Memory(value)


def _duration(value: str | Duration | None) -> Duration | None:
    return None if value is None else Duration(value)


def _list(value: str | Iterable[str] | None) -> tuple[str, ...]:
    if value is None:
        return ()
    return tuple(re.split(r"[\s,]+", value.strip())) if isinstance(value, str) else tuple(value)


def _options(value: str | Iterable[str]) -> tuple[str, ...]:
    """Split options as a shell would; what follows a ``#`` is a comment."""
    return tuple(shlex.split(value, comments=True)) if isinstance(value, str) else tuple(value)


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
        ``local`` (this machine) or ``ssh``.
    ssh : SshSettings, optional
        How to reach the frontend; for ``transport = ssh``.
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
    accounting_delay : float
        Seconds to wait for evidence of a job that is gone from the queue.
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
    extra_args : tuple of str
        Options for the submit command of every job.
    shell : str
        Interpreter of the job scripts.
    setup : str
        Shell text to run on the frontend before anything else, such as sourcing a site's profile.
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
    accounting_delay: float = attrs.field(default=15.0, converter=_seconds)
    timeout: float = attrs.field(default=120.0, converter=_seconds)
    queue: str | None = None
    account: str | None = None
    qos: str | None = None
    parallel_environment: str | None = None
    memory_resources: tuple[str, ...] = attrs.field(default=("h_vmem", "mem_free"), converter=_list)
    gpu_resource: str = "gpu"
    extra_args: tuple[str, ...] = attrs.field(default=(), converter=_options)
    shell: str = "/bin/sh"
    setup: str = ""
    prologues: dict[str, str] = attrs.field(factory=dict)
    epilogues: dict[str, str] = attrs.field(factory=dict)
    commands: dict[str, str] = attrs.field(factory=dict)

    @transport.validator
    def _check_transport(self, _attribute: object, value: str) -> None:
        if value not in ("local", "ssh"):
            raise InvalidValue(f"{value!r} is no transport: use local or ssh")
        if value == "ssh" and self.ssh is None:
            raise InvalidValue("transport = ssh needs a frontend: say 'frontend = HOST'")

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
_AUTH_KEYS = {"none": frozenset({"type"}), "ssh": _SSH_KEYS | {"type", "ignore_ssh_host_keys"}}


def backend_types() -> dict[str, importlib.metadata.EntryPoint]:
    """Find the kinds of resources that are installed, by entry point."""
    return {point.name: point for point in importlib.metadata.entry_points(group="batchlib.backends")}


def backend_class(kind: str) -> type[BatchSystem]:
    """Load the class for a kind of resource.

    Raises
    ------
    InvalidValue
        There is none of that name.
    """
    known = backend_types()
    if kind not in known:
        raise InvalidValue(f"there is no resource type {kind!r}{_nearest(kind, known)}")
    loaded: type[BatchSystem] = known[kind].load()
    return loaded


def resource_settings(
    name: str,
    keys: Mapping[str, Any],
    *,
    auth: Mapping[str, Any] | None = None,
    directory: Path | None = None,
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
    directory : Path, optional
        Where relative file names start; default is the working directory.
    commands : iterable of str, optional
        Names of native commands that may be replaced; default is what its type has.

    Raises
    ------
    InvalidValue
        A key is unknown, missing, or has a value that can't be used.
    """
    if "type" not in keys:
        raise InvalidValue(f"it has no type: say 'type = {' | '.join(sorted(backend_types()))}'")
    if commands is None:
        commands = backend_class(str(keys["type"])).commands
    plain: dict[str, Any] = {"name": name}
    scripts: dict[str, dict[str, str]] = {"prologue": {}, "epilogue": {}}
    native: dict[str, str] = {}
    ssh: dict[str, Any] = dict(auth or {})
    for key, value in keys.items():
        if key in ("prologue_contents", "epilogue_contents"):
            warnings.warn(f"{key} is spelt {key.rstrip('s')}", stacklevel=2)
            key = key.rstrip("s")
        if key in _RESOURCE_KEYS:
            plain[key] = _checked(key, value, ResourceSettings)
        elif key in ("frontend", "auth"):
            continue
        elif key in commands:
            native[key] = value
        elif match := _SCRIPT_KEY.fullmatch(key):
            scripts[match["which"]][key] = _script(key, value, bool(match["content"]), directory or Path())
        elif key in _SSH_KEYS | {"ignore_ssh_host_keys"}:
            ssh[key] = value
        else:
            known = {*_RESOURCE_KEYS, *commands, *_SSH_KEYS, "frontend", "auth", "prologue", "epilogue"}
            raise InvalidValue(f"there is no key {key!r}{_nearest(key, known)}")
    if "frontend" in keys and plain.get("transport", "local") == "ssh":
        plain["ssh"] = _ssh_settings(str(keys["frontend"]), ssh, directory or Path())
    return ResourceSettings(**plain, prologues=scripts["prologue"], epilogues=scripts["epilogue"], commands=native)


def _checked(key: str, value: object, settings: type) -> object:
    """Convert one value now, so that an error can name its key."""
    converter = getattr(attrs.fields_dict(settings)[key], "converter", None)
    if converter is None:
        return value
    try:
        return converter(value)
    except InvalidValue as error:
        raise InvalidValue(f"{key}: {error.message}") from None


def _ssh_settings(host: str, keys: Mapping[str, Any], directory: Path) -> SshSettings:
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
            plain[key] = str(directory / Path(value).expanduser())
    if "port" in plain:
        plain["port"] = _checked_count("port", plain["port"])
    for key in ("timeout", "keepalive"):
        if key in plain:
            plain[key] = _seconds(plain[key])
    if isinstance(plain.get("known_hosts"), str):
        plain["known_hosts"] = tuple(str(directory / Path(name).expanduser()) for name in _list(plain["known_hosts"]))
    return SshSettings(host=host, **plain)


def _checked_count(key: str, value: str | int) -> int | None:
    try:
        return _count(value)
    except InvalidValue as error:
        raise InvalidValue(f"{key}: {error.message}") from None


def _script(key: str, value: str, is_content: bool, directory: Path) -> str:
    """Give the text of a prologue or epilogue: a file's content between two marks, or the value itself."""
    path = directory / Path(value).expanduser() if len(value) < 4096 and "\n" not in value else None
    if is_content or path is None:
        return value
    if path.is_file():
        text = path.read_text(encoding="utf-8", errors="surrogateescape").rstrip("\n")
        return f"# {key}: start of {path}\n{text}\n# {key}: end of {path}"
    if re.search(r"\s", value.strip()):
        return value
    raise InvalidValue(f"{key}: there is no file {path}; text goes into {key}_content")


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
    parser = configparser.RawConfigParser(delimiters=("=",), comment_prefixes=("#", ";"))
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    directories: dict[str, Path] = {}
    for path in paths:
        _read(parser, path)
        directories.update((section, path.parent) for section in parser.sections() if section not in directories)
    if not paths:
        parser.read_dict({"resource/localhost": {"type": "shell"}})
    where = str(paths[-1]) if paths else "the built-in configuration"
    resources = {}
    for section in parser.sections():
        kind, _, name = section.partition("/")
        if kind not in ("auth", "resource") or not name:
            raise ConfigurationError(f"{where}: [{section}] is neither [auth/NAME] nor [resource/NAME]")
        if kind == "resource":
            try:
                resources[name] = _resource(parser, name, directories.get(section))
            except InvalidValue as error:
                raise ConfigurationError(f"{where}: [{section}]: {error.message}") from error
    return Configuration(resources, tuple(paths))


def _read(parser: configparser.RawConfigParser, path: Path) -> None:
    try:
        info = path.stat()
        text = path.read_text(encoding="utf-8")
        if info.st_mode & stat.S_IWOTH or info.st_uid not in (os.getuid(), 0):
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


def _resource(parser: configparser.RawConfigParser, name: str, directory: Path | None) -> ResourceSettings:
    keys = _section(parser, f"resource/{name}")
    auth: dict[str, str] = {}
    auth_name = keys.get("auth", "none")
    if parser.has_section(f"auth/{auth_name}"):
        auth = _section(parser, f"auth/{auth_name}")
        kind = auth.get("type", "")
        if kind not in _AUTH_KEYS:
            raise InvalidValue(f"[auth/{auth_name}]: its type has to be one of {', '.join(_AUTH_KEYS)}, not {kind!r}")
        for key in auth.keys() - _AUTH_KEYS[kind] - parser.defaults().keys():
            raise InvalidValue(f"[auth/{auth_name}]: there is no key {key!r}{_nearest(key, _AUTH_KEYS[kind])}")
    elif auth_name != "none":
        raise InvalidValue(f"there is no section [auth/{auth_name}]")
    return resource_settings(name, keys, auth=auth, directory=directory)


def _section(parser: configparser.RawConfigParser, section: str) -> dict[str, str]:
    """Give a section's keys, with comments behind values cut off."""
    return {
        key: value if _TEXT.fullmatch(key) else re.split(r"(?:^|\s)[#;]", value, maxsplit=1)[0].strip()
        for key, value in parser.items(section)
    }
