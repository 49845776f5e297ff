"""Help and start-up of all commands."""

from __future__ import annotations

import importlib
import subprocess
import sys
import sysconfig
from importlib.metadata import entry_points
from pathlib import Path

import click
import pytest

from .conftest import User

COMMANDS = sorted(
    point.name for point in entry_points(group="console_scripts") if point.value.startswith("batchlib.cli.")
)


def every_command(name: str) -> list[click.Command]:
    """Give a command and its subcommands."""
    module = importlib.import_module(f"batchlib.cli.{'main' if name == 'batchlib' else name}")
    command: click.Command = getattr(module, name)
    return [command, *(command.commands.values() if isinstance(command, click.Group) else ())]


def test_all_commands_are_installed() -> None:
    expected = "batchlib gclean gget ginfo gkill gservers gsession gstat gsub gtail gwait"
    assert set(expected.split()) <= set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_the_installed_script(name: str, user: User) -> None:
    script = Path(sysconfig.get_path("scripts"), name)
    said = subprocess.run([script, "--help"], capture_output=True, text=True, env=user.environment, check=True)
    assert said.stdout.startswith(f"Usage: {name} ")
    assert "Example" in said.stdout
    assert said.stderr == ""
    assert not list(user.home.rglob("*.db"))


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_explained_in_a_sentence(name: str) -> None:
    for command in every_command(name):
        assert (command.help or "").strip(), command.name
        assert command.epilog, command.name
        assert "Example" in command.epilog
        for option in command.params:
            if isinstance(option, click.Option):
                assert (option.help or "").endswith("."), (command.name, option.name)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_the_common_options(name: str) -> None:
    for command in every_command(name):
        options = {text for option in command.params for text in option.opts}
        assert {"--config", "-v", "--version"} <= options, command.name


def test_version(user: User) -> None:
    said = user.run("gstat", "--version")
    assert said.status == 0
    assert said.out.split()[0] == "batchlib"


def test_nothing_heavy_is_imported_for_help(user: User) -> None:
    modules = ["main" if name == "batchlib" else name for name in COMMANDS]
    program = f"import sys, {', '.join(f'batchlib.cli.{module}' for module in modules)}; print(*sys.modules)"
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=user.environment)
    assert said.returncode == 0, said.stderr
    heavy = {"sqlalchemy", "paramiko", "rich", "jinja2", "cattrs", "blinker", "batchlib.engine", "batchlib.config"}
    assert heavy.isdisjoint(said.stdout.split())
