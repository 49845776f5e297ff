"""Configuration files: what they may say, what is made of it, and what people are told when something is wrong."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchlib import config
from batchlib.application import Application
from batchlib.backends.shell import ShellBackend
from batchlib.backends.slurm import SlurmBackend
from batchlib.config import Configuration, load, resource_settings
from batchlib.errors import ConfigurationError, InvalidValue, UnknownResource
from batchlib.quantity import Duration, Memory


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without any configuration."""
    for name in ("BATCHLIB_CONF", "VIRTUAL_ENV", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(config, "default_files", _without_etc(config.default_files))


def _without_etc(find: Callable[[], list[Path]]) -> Callable[[], list[Path]]:
    return lambda: [path for path in find() if not str(path).startswith("/etc")]


def read(tmp_path: Path, text: str, name: str = "batchlib.conf") -> Configuration:
    path = tmp_path / name
    path.write_text(text)
    return load(path)


def told(tmp_path: Path, text: str) -> str:
    """What is said about a file with something wrong."""
    with pytest.raises(ConfigurationError) as caught:
        read(tmp_path, text)
    return str(caught.value)


EXAMPLE = """
# resources of a person
[DEFAULT]
accounting_delay = 20 s

[auth/ssh]
type = ssh                     # username, port, keyfile, ...
username = me                  ; the account
port = 2222
keyfile = keys/id

[resource/cluster]
type = slurm                   # the kind
transport = ssh                # local | ssh
auth = ssh
frontend = login.example.org
queue = batch                  # native defaults
account = proj
max_cores = 4096
max_cores_per_job = 128
max_memory_per_core = 4 GB
max_walltime = 72 hours
architecture = x86_64, aarch64
spooldir = /scratch/me/batchlib
accounting_delay = 15
prologue_content = module load gcc # the newest
extra_args = --nice=3 --comment 'a b'   # kept
sbatch = /opt/slurm/bin/sbatch -v # any native command may be replaced
timeout = 2 min

[resource/here]
type = shell
enabled = no
"""


def test_an_example_with_everything(tmp_path: Path) -> None:
    found = read(tmp_path, EXAMPLE)
    assert list(found.resources) == ["cluster", "here"]
    assert found.files == (tmp_path / "batchlib.conf",)
    cluster = found.settings("cluster")
    assert (cluster.name, cluster.type, cluster.transport, cluster.enabled) == ("cluster", "slurm", "ssh", True)
    assert (cluster.queue, cluster.account) == ("batch", "proj")
    assert (cluster.max_cores, cluster.max_cores_per_job) == (4096, 128)
    assert cluster.max_memory_per_core == Memory("4 GB")
    assert cluster.max_walltime == Duration("72 h")
    assert cluster.architecture == ("x86_64", "aarch64")
    assert cluster.spooldir == "/scratch/me/batchlib"
    assert (cluster.accounting_delay, cluster.timeout) == (15.0, 120.0)
    assert cluster.script_parts("prologue", "") == "module load gcc # the newest"
    assert cluster.extra_args == ("--nice=3", "--comment", "a b")
    assert cluster.commands == {"sbatch": "/opt/slurm/bin/sbatch -v"}
    assert cluster.ssh is not None
    assert (cluster.ssh.host, cluster.ssh.username, cluster.ssh.port) == ("login.example.org", "me", 2222)
    assert cluster.ssh.keyfile == str(tmp_path / "keys/id")
    here = found.settings("here")
    assert (here.enabled, here.accounting_delay, here.ssh) == (False, 20.0, None)


def test_the_shipped_example_is_right(tmp_path: Path) -> None:
    for path in (Path(__file__).parents[2] / "etc").glob("*.conf*"):
        text = path.read_text()
        assert read(tmp_path, text).resources
        # and so is what it shows behind comment signs
        shown = "\n".join(
            line.removeprefix("#") if line.startswith("#") and line[1:2] not in ("", " ") else line
            for line in text.splitlines()
        )
        assert len(read(tmp_path, shown).resources) >= 2


def test_only_the_type_is_required(tmp_path: Path) -> None:
    found = read(tmp_path, "[resource/x]\ntype = shell\n")
    assert found.settings("x").spooldir == "$HOME/.batchlib"
    assert isinstance(found.resource("x"), ShellBackend)
    assert "it has no type: say 'type = " in told(tmp_path, "[resource/x]\n")


def test_without_any_file_there_is_this_machine() -> None:
    found = load()
    assert list(found.resources) == ["localhost"]
    assert found.files == ()
    assert isinstance(found.resource("localhost"), ShellBackend)


def test_backends_are_made_from_it(tmp_path: Path) -> None:
    backend = read(tmp_path, "[resource/x]\ntype = slurm\nqueue = debug\nsqueue = /opt/squeue -M a\n").resource("x")
    assert isinstance(backend, SlurmBackend)
    assert backend.name == "x"
    assert backend.command("squeue") == "/opt/squeue -M a"
    assert backend.command("sbatch") == "sbatch"
    assert "#SBATCH --partition=debug" in backend.render(Application("true"))


# --- which files --------------------------------------------------------------------------------------------------


def test_files_are_read_in_order_and_the_later_one_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIRTUAL_ENV", str(tmp_path / "venv"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    first, second = tmp_path / "venv/etc/batchlib/batchlib.conf", tmp_path / "xdg/batchlib/batchlib.conf"
    assert config.default_files() == [first, second]
    assert load().files == ()
    for path in (first, second):
        path.parent.mkdir(parents=True)
    first.write_text("[DEFAULT]\nqueue = a\n[resource/x]\ntype = slurm\nmax_cores = 1\naccount = one\n")
    assert load().files == (first,)
    second.write_text("[DEFAULT]\nqueue = b\n[resource/x]\nmax_cores = 2\n[resource/y]\ntype = slurm\n")
    found = load()
    assert found.files == (first, second)
    assert list(found.resources) == ["x", "y"]
    x = found.settings("x")
    assert (x.max_cores, x.account, x.queue) == (2, "one", "b")


def test_the_home_directory_is_looked_in(tmp_path: Path) -> None:
    path = tmp_path / "home/.config/batchlib/batchlib.conf"
    path.parent.mkdir(parents=True)
    path.write_text("[resource/mine]\ntype = shell\n")
    assert list(load().resources) == ["mine"]


def test_a_named_file_is_the_only_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "home/.config/batchlib/batchlib.conf"
    path.parent.mkdir(parents=True)
    path.write_text("[resource/mine]\ntype = shell\n")
    (tmp_path / "one").write_text("[resource/one]\ntype = shell\n")
    (tmp_path / "two").write_text("[resource/two]\ntype = shell\n")
    monkeypatch.setenv("BATCHLIB_CONF", str(tmp_path / "one"))
    assert list(load().resources) == ["one"]
    assert list(load(tmp_path / "two").resources) == ["two"]


def test_a_named_file_that_is_not_there_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BATCHLIB_CONF", str(tmp_path / "none"))
    with pytest.raises(ConfigurationError, match=r"cannot read the configuration file .*none: No such file"):
        load()
    with pytest.raises(ConfigurationError, match="Is a directory"):
        load(tmp_path)


def test_an_empty_file_is_no_resource(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BATCHLIB_CONF", "/dev/null")
    assert load().resources == {}


@pytest.mark.parametrize("mode", [0o602, 0o666, 0o777])
def test_a_file_that_anybody_can_change_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "open.conf"
    path.write_text("[resource/x]\ntype = shell\n")
    path.chmod(mode)
    with pytest.raises(ConfigurationError, match="can be changed by other users"):
        load(path)
    path.chmod(mode & ~stat.S_IWOTH)
    assert load(path).resources


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give files away")
def test_somebody_elses_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "theirs.conf"
    path.write_text("[resource/x]\ntype = shell\n")
    os.chown(path, 12345, 12345)
    with pytest.raises(ConfigurationError, match="can be changed by other users"):
        load(path)


# --- what is wrong, in one sentence -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("max_core = 3", "there is no key 'max_core'; did you mean 'max_cores'?"),
        ("Queue = x", "there is no key 'Queue'; did you mean 'queue'?"),
        ("sbtach = x", "there is no key 'sbtach'; did you mean 'sbatch'?"),
        ("prolog_content = x", "there is no key 'prolog_content'"),
        ("xyzzy = x", "there is no key 'xyzzy'; there are: "),
        ("qsub = x", "there is no key 'qsub'"),
        ("max_cores = many", "max_cores: 'many' is no whole number"),
        ("max_cores = 0", "max_cores: '0' is no whole number from 1 on"),
        ("max_cores = -3", "max_cores: '-3' is no whole number from 1 on"),
        ("max_cores = 2.5", "max_cores: '2.5' is no whole number from 1 on"),
        ("max_cores = ²", "max_cores: '²' is no whole number from 1 on"),
        ("max_cores =", "max_cores: '' is no whole number from 1 on"),
        ("max_memory_per_core = 4", "max_memory_per_core: '4' is no amount of memory: write it with its unit"),
        ("max_memory_per_core = 4 hours", "max_memory_per_core: 'hours' in '4 hours' is no known unit"),
        ("max_walltime = 72", "max_walltime: '72' is no duration: write it with its unit"),
        ("max_walltime = 8:00", "max_walltime: '8:00' may mean hours and minutes or minutes and seconds"),
        ("enabled = maybe", "enabled: 'maybe' is neither yes nor no"),
        ("accounting_delay = soon", "accounting_delay: 'soon' is no duration"),
        ("accounting_delay = -3", "accounting_delay: '-3' is no number of seconds"),
        ("timeout = nan", "timeout: 'nan' is no number of seconds"),
        ("transport = carrier", "'carrier' is no transport"),
        ("transport = ssh", "transport = ssh needs a frontend: say 'frontend = HOST'"),
        ("frontend = login", "frontend: login is not this machine: say 'transport = ssh'"),
        ("queue = a b", "queue: 'a b' holds characters that no batch system takes"),
        ("account = a\n  b", "account: "),
        ("qos = $(x)", "qos: "),
        ("auth = mine", "auth: there is no section [auth/mine]"),
        ("extra_args = --comment='a b", "extra_args: "),
        ("prologue = missing.sh", "prologue: there is no file"),
        ("my_epilogue = missing.sh", "my_epilogue: there is no file"),
    ],
)
def test_wrong_lines(tmp_path: Path, line: str, problem: str) -> None:
    said = told(tmp_path, f"[resource/x]\ntype = slurm\n{line}\n")
    assert said.startswith(f"{tmp_path}/batchlib.conf: [resource/x]: ")
    assert problem in said
    assert "\n" not in said


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[resource/x]\ntype = slrum\n", "there is no resource type 'slrum'; did you mean 'slurm'?"),
        ("[resource/x]\ntype =\n", "there is no resource type ''"),
        ("[resources/x]\ntype = shell\n", "[resources/x]: sections are called [auth/NAME] or [resource/NAME]"),
        ("[resource]\ntype = shell\n", "[resource]: sections are called"),
        ("[resource/]\ntype = shell\n", "[resource/]: sections are called"),
        ("[auth/a]\ntype = ec2\n", "[auth/a]: its type has to be one of none, ssh, not 'ec2'"),
        ("[auth/a]\nusername = me\n", "[auth/a]: its type has to be one of none, ssh, not ''"),
        ("[auth/a]\ntype = ssh\nuser = me\n", "[auth/a]: there is no key 'user'; did you mean 'username'?"),
        ("[auth/a]\ntype = none\nusername = me\n", "[auth/a]: there is no key 'username'"),
        ("type = shell\n", "no section headers"),
        ("[resource/x]\ntype = shell\ntype = slurm\n", "already exists"),
        ("[resource/x]\ntype = shell\n[resource/x]\n", "already exists"),
        ("[resource/x]\ntype shell\n", "parsing errors"),
    ],
)
def test_wrong_files(tmp_path: Path, text: str, problem: str) -> None:
    said = told(tmp_path, text)
    assert problem in said
    assert str(tmp_path / "batchlib.conf") in said
    assert "\n" not in said


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("port = 99999", "99999 is no TCP port"),
        ("port = ssh", "port: 'ssh' is no whole number"),
        ("username = me;rm", "can't be the username"),
        ("timeout = -1", "timeout: '-1' is no number of seconds"),
        ("timeout = 0", "has to be more than 0"),
        ("host_keys = never", "host_keys is one of"),
        ("sessions = x", "sessions: 'x' is no whole number"),
        ("ignore_ssh_host_keys = perhaps", "neither yes nor no"),
    ],
)
def test_wrong_ways_to_a_frontend(tmp_path: Path, line: str, problem: str) -> None:
    resource = "[resource/x]\ntype = slurm\ntransport = ssh\nfrontend = login\nauth = a\n"
    said = told(tmp_path, f"{resource}[auth/a]\ntype = ssh\n{line}\n")
    assert problem in said
    assert "[resource/x]" in said


def test_text_in_another_encoding(tmp_path: Path) -> None:
    (tmp_path / "x.conf").write_bytes(b"[resource/x]\ntype = shell # \xff\n")
    with pytest.raises(ConfigurationError, match="is not UTF-8 text"):
        load(tmp_path / "x.conf")


def test_the_file_that_holds_the_wrong_key_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIRTUAL_ENV", str(tmp_path / "venv"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    first, second = config.default_files()
    for path in (first, second):
        path.parent.mkdir(parents=True)
    first.write_text("[resource/x]\ntype = shell\nmax_cores = many\n")
    second.write_text("[resource/x]\nqueue = q\n[resource/y]\ntype = shell\n")
    with pytest.raises(ConfigurationError) as caught:
        load()
    assert str(caught.value).startswith(f"{first}: [resource/x]: max_cores")
    second.write_text("[resource/x]\nmax_cores = 3\nno_such = q\n")
    with pytest.raises(ConfigurationError) as caught:
        load()
    assert str(caught.value).startswith(f"{second}: [resource/x]: there is no key 'no_such'")


@given(
    st.text(max_size=200)
    | st.lists(st.sampled_from(["[resource/x]", "type = slurm", "max_cores = 1", "=", "#", " a"])).map("\n".join)
)
def test_no_text_is_answered_with_anything_but_one_sentence(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.conf"
    path.write_text(text, encoding="utf-8", errors="replace", newline="")
    try:
        load(path)
    except ConfigurationError as error:
        assert str(error)  # noqa: PT017


def test_unknown_resources(tmp_path: Path) -> None:
    found = read(tmp_path, "[resource/cluster]\ntype = shell\n[resource/other]\ntype = shell\n")
    with pytest.raises(UnknownResource, match="no resource 'clustr'; did you mean 'cluster'"):
        found.settings("clustr")
    with pytest.raises(UnknownResource, match="there are: cluster, other"):
        found.resource("zzz")


# --- comments, defaults, auths ------------------------------------------------------------------------------------


def test_comments_behind_values(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        "[resource/x]\ntype = slurm ; kind\nqueue = a # comment ; more\naccount = #only a comment\n"
        "spooldir = $HOME/#x;y\n; whole line\nprologue_content = echo a # b\n  echo c ; echo d\n"
        "setup = . /etc/profile # y\n",
    )
    x = found.settings("x")
    assert (x.queue, x.account, x.spooldir) == ("a", "", "$HOME/#x;y")
    assert x.script_parts("prologue", "") == "echo a # b\necho c ; echo d"
    assert x.setup == ". /etc/profile # y"


def test_percent_signs_and_colons_are_plain(tmp_path: Path) -> None:
    x = read(tmp_path, "[resource/x]\ntype = slurm\nextra_args = -o %%j:%x\nprologue_content = date +%s\n").settings(
        "x"
    )
    assert x.extra_args == ("-o", "%%j:%x")
    assert x.script_parts("prologue", "") == "date +%s"


def test_the_auth_section_wins_over_the_default_and_the_resource_over_both(tmp_path: Path) -> None:
    text = (
        "[DEFAULT]\nusername = everybody\nport = 1\n[auth/a]\ntype = ssh\nusername = me\nport = 2\n"
        "[resource/x]\ntype = slurm\ntransport = ssh\nfrontend = f\nauth = a\nport = 3\n"
        "[resource/y]\ntype = slurm\ntransport = ssh\nfrontend = f\n"
    )
    found = read(tmp_path, text)
    x, y = found.settings("x").ssh, found.settings("y").ssh
    assert x is not None
    assert y is not None
    assert (x.username, x.port) == ("me", 3)
    assert (y.username, y.port) == ("everybody", 1)


def test_a_password_command_is_shell_text(tmp_path: Path) -> None:
    text = "[auth/a]\ntype = ssh\npassword_command = pass show 'a # b'\n"
    text += "[resource/x]\ntype = slurm\ntransport = ssh\nfrontend = f\nauth = a\n"
    settings = read(tmp_path, text).settings("x").ssh
    assert settings is not None
    assert settings.password_command == "pass show 'a # b'"


def test_unchecked_host_keys_are_warned_of(tmp_path: Path) -> None:
    text = "[auth/a]\ntype = ssh\nignore_ssh_host_keys = yes\n"
    text += "[resource/x]\ntype = slurm\ntransport = ssh\nfrontend = f\nauth = a\n"
    with pytest.warns(UserWarning, match="the host key of f is not checked"):
        settings = read(tmp_path, text).settings("x").ssh
    assert settings is not None
    assert settings.host_keys == "ignore"


def test_localhost_is_this_machine(tmp_path: Path) -> None:
    assert (
        read(tmp_path, "[resource/x]\ntype = shell\ntransport = local\nfrontend = localhost\n").settings("x").ssh
        is None
    )


def test_empty_values_are_none(tmp_path: Path) -> None:
    x = read(tmp_path, "[resource/x]\ntype = slurm\narchitecture =\nextra_args =\nsbatch =\n").settings("x")
    assert (x.architecture, x.extra_args) == ((), ())
    backend = read(tmp_path, "[resource/x]\ntype = slurm\nsbatch =\n").resource("x")
    assert isinstance(backend, SlurmBackend)
    assert backend.command("sbatch") == "sbatch"


# --- prologues and epilogues --------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["prologue", "epilogue"])
def test_four_sources_in_order(tmp_path: Path, which: str) -> None:
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts/all.sh").write_text("echo all\n")
    (tmp_path / "scripts/sim.sh").write_text("echo sim\n")
    (tmp_path / "scripts/other.sh").write_text("echo other\n")
    x = read(
        tmp_path,
        f"[resource/x]\ntype = slurm\nsim_{which}_content = echo sim content\n{which}_content = echo content\n"
        f"other_{which} = scripts/other.sh\nsim_{which} = scripts/sim.sh  # for sim\n"
        f"{which} = scripts/all.sh # for all\n",
    ).settings("x")

    def commands(application: str) -> list[str]:
        return [line for line in x.script_parts(which, application).splitlines() if not line.startswith("#")]

    assert commands("") == ["echo all", "echo content"]
    assert commands("sim") == ["echo all", "echo sim", "echo content", "echo sim content"]
    assert commands("other") == ["echo all", "echo other", "echo content"]
    marks = [line for line in x.script_parts(which, "").splitlines() if line.startswith("#")]
    assert marks == [f"# {which}: {end} of {tmp_path}/scripts/all.sh" for end in ("start", "end")]


def test_files_are_found_from_the_file_that_names_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIRTUAL_ENV", str(tmp_path / "venv"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    first, second = config.default_files()
    for path in (first, second):
        path.parent.mkdir(parents=True)
        (path.parent / "p.sh").write_text(f"echo {path.parts[-4]}\n")
        (path.parent / "e.sh").write_text(f"echo {path.parts[-4]}\n")
    first.write_text("[resource/x]\ntype = slurm\nprologue = p.sh\nepilogue = e.sh\n")
    second.write_text("[resource/x]\nprologue = p.sh\n")
    x = load().settings("x")
    assert str(second.parent) in x.script_parts("prologue", "")
    assert str(first.parent) in x.script_parts("epilogue", "")


def test_a_home_directory_in_a_name(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home/p.sh").write_text("echo home")
    x = read(tmp_path, "[resource/x]\ntype = slurm\nprologue = ~/p.sh\n").settings("x")
    assert "echo home" in x.script_parts("prologue", "")


def test_text_of_several_words_needs_no_file(tmp_path: Path) -> None:
    long = "echo " + "x" * 400
    x = read(tmp_path, f"[resource/x]\ntype = slurm\nprologue = {long}\nepilogue = echo a\n  echo b\n").settings("x")
    assert x.script_parts("prologue", "") == long
    assert x.script_parts("epilogue", "") == "echo a\necho b"


def test_the_misspelt_key_of_old_is_taken_with_a_warning(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="prologue_contents is spelt prologue_content"):
        x = read(tmp_path, "[resource/x]\ntype = slurm\nprologue_contents = echo a # b\n").settings("x")
    assert x.script_parts("prologue", "") == "echo a # b"


@pytest.mark.skipif(os.getuid() == 0, reason="root can read everything")
def test_a_prologue_that_can_not_be_read(tmp_path: Path) -> None:
    (tmp_path / "p.sh").touch(mode=0)
    assert "cannot read" in told(tmp_path, "[resource/x]\ntype = slurm\nprologue = p.sh\n")


def test_settings_without_a_file() -> None:
    made = resource_settings(
        "x", {"type": "slurm", "max_cores": 3, "max_walltime": Duration("1 h"), "architecture": ["a"], "enabled": False}
    )
    assert (made.max_cores, made.max_walltime, made.architecture, made.enabled) == (3, Duration("1 h"), ("a",), False)
    for keys in ({"max_cores": 2.5}, {"max_cores": True}, {"max_walltime": 3}, {"extra_args": ["a\nb"]}):
        with pytest.raises(InvalidValue):
            resource_settings("x", {"type": "slurm", **keys})
    with pytest.raises(InvalidValue, match="did you mean 'max_cores'"):
        SlurmBackend("x", max_coers=3)
