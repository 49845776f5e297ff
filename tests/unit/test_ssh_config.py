"""What is made of the user's SSH configuration."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchlib.errors import ConfigurationError, InvalidValue
from batchlib.transport.ssh import SshSettings
from batchlib.transport.ssh_config import expand, jump_settings, parse_hop, parse_options, resolve

CONFIG = """
Host cluster
  HostName login.example.org
  Port 2222
  User bob
  IdentityFile "~/keys/my key"
  IdentityFile ~/keys/%h-%p-${BATCHLIB_TEST_NAME}
  CertificateFile ~/keys/my-cert.pub
  IdentitiesOnly yes
  HostKeyAlias the-cluster
  UserKnownHostsFile ~/.ssh/one ~/.ssh/two
  GlobalKnownHostsFile /etc/known
  ControlPath ~/.ssh/cm-%r@%h:%p
  ProxyJump me@jump1:2200,jump2
Host proxied
  ProxyCommand nc -X 5 %h %p # %%
  IdentityAgent none
Host jump2
  User carl
Host circle1
  ProxyJump circle2
Host circle2
  ProxyJump circle1
Host direct
  ProxyJump none
"""

needs_ssh = pytest.mark.skipif(not shutil.which("ssh") and not os.environ.get("CI"), reason="there is no ssh")


@pytest.fixture
def config(tmp_path: Path) -> str:
    file = tmp_path / "config"
    file.write_text(CONFIG)
    return str(file)


@pytest.fixture(params=["ssh", "paramiko"])
def reader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With the system's ssh, and as on a machine that has none."""
    if request.param == "paramiko":
        monkeypatch.setattr(shutil, "which", lambda name: None)
    elif not shutil.which("ssh") and not os.environ.get("CI"):
        pytest.skip("there is no ssh")
    return str(request.param)


def home(path: str) -> str:
    return os.path.expanduser(path)


def test_what_the_configuration_says_is_taken(config: str, reader: str) -> None:
    found = resolve(SshSettings("cluster", ssh_config=config))
    assert (found.hostname, found.port, found.user) == ("login.example.org", 2222, "bob")
    assert found.alias == "cluster"
    assert found.host_key_alias == "the-cluster"
    assert found.identities_only
    assert home("~/keys/my key") in found.identity_files
    assert found.certificate_files == (home("~/keys/my-cert.pub"),)
    assert found.proxy_jump == "me@jump1:2200,jump2"
    assert found.proxy_command is None
    assert {home("~/.ssh/one"), home("~/.ssh/two"), "/etc/known"} <= set(found.known_hosts)
    assert found.control_path == home("~/.ssh/cm-bob@login.example.org:2222")
    assert found.login == "-p 2222 bob@cluster"


@needs_ssh
def test_tokens_and_variables_in_names_of_files(config: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BATCHLIB_TEST_NAME", "x")
    found = resolve(SshSettings("cluster", ssh_config=config))
    assert found.identity_files == (home("~/keys/my key"), home("~/keys/login.example.org-2222-x"))


def test_settings_win(config: str, reader: str) -> None:
    found = resolve(
        SshSettings("cluster", ssh_config=config, username="alice", port=22, gateway="none", known_hosts=("/mine",))
    )
    assert (found.port, found.user) == (22, "alice")
    assert found.proxy_jump is None
    assert found.known_hosts[0] == "/mine"
    assert resolve(SshSettings("alice@cluster", ssh_config=config)).user == "alice"


def test_a_proxy_command_has_its_tokens_expanded(config: str, reader: str) -> None:
    found = resolve(SshSettings("proxied", ssh_config=config, port=2200))
    assert found.proxy_command is not None
    assert found.proxy_command.startswith("nc -X 5 proxied 2200 # %")
    assert found.identity_agent == "none"
    assert resolve(SshSettings("proxied", ssh_config=config, gateway="none")).proxy_command is None


def test_without_a_configuration_file(reader: str) -> None:
    found = resolve(SshSettings("login.example.org", ssh_config="none"))
    assert (found.hostname, found.port) == ("login.example.org", 22)
    assert found.identity_agent is None
    assert home("~/.ssh/id_ed25519") in found.identity_files
    assert home("~/.ssh/known_hosts") in found.known_hosts
    assert "/etc/ssh/ssh_known_hosts" in found.known_hosts
    assert found.login == f"{found.user}@login.example.org"


def test_no_jump_is_no_jump(config: str, reader: str) -> None:
    assert resolve(SshSettings("direct", ssh_config=config)).proxy_jump is None


def test_a_configuration_file_that_is_missing_is_an_error(tmp_path: Path, reader: str) -> None:
    with pytest.raises(ConfigurationError, match="nowhere"):
        resolve(SshSettings("cluster", ssh_config=str(tmp_path / "nowhere")))


@needs_ssh
def test_a_wrong_configuration_is_quoted(tmp_path: Path) -> None:
    (tmp_path / "config").write_text("Frobnicate yes\n")
    with pytest.raises(ConfigurationError, match=r"(?i)bad configuration option: frobnicate"):
        resolve(SshSettings("cluster", ssh_config=str(tmp_path / "config")))


@needs_ssh
def test_include_and_match_are_understood(tmp_path: Path) -> None:
    (tmp_path / "more").write_text("Host cluster\n  Port 2022\n")
    (tmp_path / "config").write_text(f"Include {tmp_path}/more\nMatch host cluster user dora\n  HostName dora.org\n")
    found = resolve(SshSettings("cluster", username="dora", ssh_config=str(tmp_path / "config")))
    assert (found.hostname, found.port) == ("dora.org", 2022)


@pytest.mark.parametrize("name", ["-oProxyCommand=x", "a b", "$(touch x)", "", "a;b", "a\nb"])
def test_names_that_a_shell_or_option_parser_could_misread_are_refused(name: str) -> None:
    with pytest.raises(InvalidValue):
        SshSettings(name)
    with pytest.raises(InvalidValue):
        SshSettings("login", username=name)


def test_a_configuration_can_not_smuggle_such_a_name_in(tmp_path: Path, reader: str) -> None:
    (tmp_path / "config").write_text("Host cluster\n  HostName a;b\n")
    with pytest.raises(ConfigurationError):
        resolve(SshSettings("cluster", ssh_config=str(tmp_path / "config")))


@pytest.mark.parametrize(
    "wrong",
    [{"port": 0}, {"port": 70000}, {"timeout": 0}, {"keepalive": -1}, {"host_keys": "no"}, {"gateway": "a b"}],
)
def test_other_settings_are_checked(wrong: dict[str, object]) -> None:
    with pytest.raises(InvalidValue):
        attrs.evolve(SshSettings("login"), **wrong)  # type: ignore[arg-type]


def test_jump_hosts_of_the_configuration_have_their_own_accounts(config: str) -> None:
    settings = SshSettings("cluster", ssh_config=config, username="bob", password_command="echo secret")
    last = jump_settings(settings, resolve(settings))
    assert last is not None
    assert (last.host, last.username, last.port) == ("jump2", None, None)
    assert last.password_command is None
    assert resolve(last).user == "carl"
    first = jump_settings(last, resolve(last))
    assert first is not None
    assert (first.host, first.username, first.port) == ("jump1", "me", 2200)
    assert jump_settings(first, resolve(first)) is None


def test_gateways_of_ours_share_account_and_password(config: str) -> None:
    settings = SshSettings(
        "cluster", ssh_config=config, username="bob", gateway="outer,eve@inner:2022", password_command="echo secret"
    )
    inner = jump_settings(settings, resolve(settings))
    assert inner is not None
    assert (inner.host, inner.username, inner.port, inner.password_command) == ("inner", "eve", 2022, "echo secret")
    outer = jump_settings(inner, resolve(inner))
    assert outer is not None
    assert (outer.host, outer.username, outer.password_command) == ("outer", "bob", "echo secret")


def test_jump_hosts_in_a_circle_are_an_error(config: str) -> None:
    settings = SshSettings("circle1", ssh_config=config)
    with pytest.raises(ConfigurationError, match="circle"):
        jump_settings(settings, resolve(settings))


def test_a_secret_command_is_not_shown() -> None:
    assert "hunter2" not in repr(SshSettings("login", password_command="echo hunter2"))


@pytest.mark.parametrize(
    ("text", "hop"),
    [
        ("jump", ("jump", None, None)),
        ("me@jump:2200", ("jump", "me", 2200)),
        (" ssh://me@jump:2200/ ", ("jump", "me", 2200)),
        ("[::1]:22", ("::1", None, 22)),
        ("me@realm@jump", ("jump", "me@realm", None)),
    ],
)
def test_hops(text: str, hop: tuple[str, str | None, int | None]) -> None:
    found = parse_hop(text)
    assert (found.host, found.user, found.port) == hop


@given(st.text())
def test_any_text_is_a_hop_or_an_error(text: str) -> None:
    try:
        assert parse_hop(text).host
    except InvalidValue:
        return


@given(st.text())
def test_any_text_can_be_read_and_expanded(text: str) -> None:
    assert all(isinstance(values, list) for values in parse_options(text).values())
    assert isinstance(expand(text, {"%": "%", "h": "host"}), str)


def test_unknown_tokens_stay() -> None:
    assert expand("%h %% %z ${NO_SUCH_NAME_HERE}", {"%": "%", "h": "host"}) == "host % %z ${NO_SUCH_NAME_HERE}"
