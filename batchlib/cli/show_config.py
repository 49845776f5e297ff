"""``batchlib config``: what the configuration files say, taken together."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from .common import Invocation, command

if TYPE_CHECKING:
    from ..settings import ResourceSettings

_HIDDEN = "(hidden)"
_SECRET = re.compile(r"passw|secret|token|passphrase", re.IGNORECASE)
#: An assignment in shell text whose value is nobody's business.
_SECRET_VALUE = re.compile(r"(?i)(\b\w*(?:passw|secret|token|passphrase|api_?key)\w*=)(\"[^\"]*\"|'[^']*'|\S+)")


@command("config", example="batchlib config --config ./batchlib.conf", session=False)
def config(invocation: Invocation) -> None:
    """Show the configuration files, taken together.

    Where files are looked for is shown as well. Passwords and the commands that print them are hidden. What is
    wrong in a file is told, and ends the command.
    """
    from .output import print_json

    files = _files(invocation)
    if not invocation.as_json:
        for path, there in files.items():
            print(f"# {path}: {'read' if there else 'not there'}", flush=True)
    resources = {name: _values(settings) for name, settings in invocation.configuration.resources.items()}
    if invocation.as_json:
        listed = [{"path": str(path), "read": there} for path, there in files.items()]
        print_json({"files": listed, "resources": resources})
        return
    if not any(files.values()):
        print("# with no file at all, there is one resource for plain processes on this machine")
    for name, values in resources.items():
        print(f"\n[resource/{name}]")
        for key, value in values.items():
            print(f"{key} = {_text(value)}")


def _files(invocation: Invocation) -> dict[Path, bool]:
    """Give the files that are looked for, and whether they are there."""
    from ..config import default_files

    only = invocation.config_file or os.environ.get("BATCHLIB_CONF")
    return {path: path.exists() for path in ([Path(only)] if only else default_files())}


def _values(settings: ResourceSettings) -> dict[str, object]:
    """Give what is set for a resource, by the keys of a configuration file."""
    import attrs

    found: dict[str, object] = {}
    for key, value in attrs.asdict(settings, recurse=False).items():
        if key in ("prologues", "epilogues", "commands"):
            found.update(value)
        elif key not in ("name", "ssh"):
            found[key] = value
    if settings.ssh is not None:
        found["frontend"] = settings.ssh.host
        defaults = attrs.fields_dict(type(settings.ssh))
        for key, value in attrs.asdict(settings.ssh, recurse=False).items():
            if key != "host" and value != defaults[key].default:
                found[key] = value
    return {key: _shown(key, value) for key, value in found.items() if value not in (None, (), "")}


def _shown(key: str, value: object) -> object:
    if _SECRET.search(key):
        return _HIDDEN
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    if isinstance(value, str):
        return _SECRET_VALUE.sub(rf"\1{_HIDDEN}", value)
    return value if isinstance(value, bool | int | float) else str(value)


def _text(value: object) -> str:
    """Write a value as the files have it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value).replace("\n", "\n    ")
