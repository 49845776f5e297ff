"""Configuration files: which resources there are and how to reach them.

INI files in GC3Pie's shape: ``[DEFAULT]``, ``[auth/NAME]`` and ``[resource/NAME]``. With no file at all there is one
resource, ``localhost``, that runs plain processes on this machine.
"""

from __future__ import annotations

import configparser
import difflib
import importlib
import os
import re
import stat
import warnings
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import attrs

from .errors import ConfigurationError, InvalidValue, UnknownResource
from .settings import REMOTE, ResourceSettings, boolean, count, seconds, words
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


class WrongKey(InvalidValue):
    """A key can't be used, or not with this value."""

    def __init__(self, key: str, problem: str) -> None:
        super().__init__(problem if repr(key) in problem else f"{key}: {problem}")
        self.key = key


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
    if frontend and plain.get("transport", "local") in REMOTE:
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
    if "ignore_ssh_host_keys" in keys and boolean(keys["ignore_ssh_host_keys"]):
        warnings.warn(
            f"the host key of {host} is not checked: anybody on the way can read and change what is sent",
            stacklevel=3,
        )
        plain["host_keys"] = "ignore"
    for key in ("keyfile", "certificate", "ssh_config"):
        value = plain.get(key)
        if value and value != "none":
            plain[key] = _path(value, directories.get(key, Path()))
    for key, convert in {"port": count, "sessions": count, **dict.fromkeys(_SSH_SECONDS, seconds)}.items():
        if key in plain:
            plain[key] = _converted(key, plain[key], convert)
    if isinstance(plain.get("known_hosts"), str):
        directory = directories.get("known_hosts", Path())
        plain["known_hosts"] = tuple(_path(name, directory) for name in words(plain["known_hosts"]))
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
