"""What is said to the system's ssh, and what is made of its answers."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchlib.config import resource_settings
from batchlib.errors import AuthenticationFailed, ConnectionFailed, HostKeyChanged, InvalidValue, UnknownHostKey
from batchlib.settings import ResourceSettings
from batchlib.transport.openssh_options import complaints, login_error, login_options, refuse_unmappable, said
from batchlib.transport.ssh import SshSettings
from batchlib.transport.ssh_config import ResolvedHost, parse_options, resolve

HOST = ResolvedHost("cluster", "login.example.org", 2222, "me")


@pytest.fixture(autouse=True)
def own_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))


def understood(settings: SshSettings, *, person: bool = False) -> dict[str, list[str]]:
    """What ssh itself makes of our options."""
    options = login_options(settings, resolve(settings), person=person)
    answer = subprocess.run(["ssh", "-G", *options, "--", settings.host], capture_output=True, text=True, check=True)
    return parse_options(answer.stdout)


def test_every_setting_reaches_ssh(tmp_path: Path) -> None:
    settings = SshSettings(
        "login.example.org",
        username="me",
        port=2222,
        keyfile=f"{tmp_path}/my 100% key",
        certificate=f"{tmp_path}/my certificate",
        ssh_config="none",
        timeout=12.5,
        known_hosts=(f"{tmp_path}/known 1", f"{tmp_path}/known2"),
        keepalive=7,
    )
    options = understood(settings)
    assert options["user"] == ["me"]
    assert options["port"] == ["2222"]
    assert options["identityfile"] == [f"{tmp_path}/my 100%% key"]  # % stands for itself
    assert options["identitiesonly"] == ["yes"]
    assert options["certificatefile"] == [f"{tmp_path}/my certificate"]
    assert options["connecttimeout"] == ["13"]
    assert options["serveraliveinterval"] == ["7"]
    assert options["stricthostkeychecking"] == ["true"]
    assert options["userknownhostsfile"][0].startswith(f"{tmp_path}/known 1 {tmp_path}/known2 ")
    assert options["batchmode"] == ["yes"]
    assert understood(settings, person=True)["batchmode"] == ["no"]


def test_host_key_rules(tmp_path: Path) -> None:
    own = f"{tmp_path}/data/batchlib/known_hosts"
    accepting = understood(SshSettings("cluster", ssh_config="none", host_keys="accept-new"))
    assert accepting["stricthostkeychecking"] == ["accept-new"]
    assert accepting["userknownhostsfile"][0].startswith(own), "ssh writes to the first file"
    ignoring = understood(SshSettings("cluster", ssh_config="none", host_keys="ignore"))
    assert ignoring["userknownhostsfile"] == ignoring["globalknownhostsfile"] == ["/dev/null"]


def test_gateways_get_our_options(tmp_path: Path) -> None:
    settings = SshSettings(
        "inner", username="me", keyfile=f"{tmp_path}/a key", ssh_config="none", gateway="one:2201,you@two"
    )
    (command,) = understood(settings)["proxycommand"]
    assert "-W '[%h]:%p' -- two" in command
    assert "-l you" in command
    assert f'IdentityFile="{tmp_path}/a key"' in command
    inner = re.search(r"ProxyCommand=(.*)", command)
    assert inner is not None
    assert "-p 2201" in inner[1]
    assert "-l me" in inner[1]
    assert "[%%h]:%%p" in inner[1]
    assert understood(SshSettings("inner", ssh_config="none", gateway="none")).get("proxycommand") in (None, ["none"])


@pytest.mark.parametrize("name", ['a"b', "a\\b", "a\nb", "${HOME}/key", "a\x1bb"])
def test_file_names_that_ssh_cannot_be_told_are_refused_in_the_configuration(name: str) -> None:
    with pytest.raises(InvalidValue, match="its name may hold no"):
        ResourceSettings(name="far", type="shell", transport="openssh", ssh=SshSettings("cluster", keyfile=name))
    ResourceSettings(name="far", type="shell", transport="ssh", ssh=SshSettings("cluster", keyfile=name))


def test_the_transport_is_configured_as_the_other_one() -> None:
    keys = {"type": "shell", "transport": "openssh", "frontend": "cluster", "username": "me"}
    settings = resource_settings("far", keys)
    assert settings.transport == "openssh"
    assert settings.ssh == SshSettings("cluster", username="me")
    with pytest.raises(InvalidValue, match="transport = openssh needs a frontend"):
        resource_settings("far", {"type": "shell", "transport": "openssh"})
    with pytest.raises(InvalidValue, match="use local, ssh or openssh"):
        resource_settings("far", {"type": "shell", "transport": "rsh"})


@given(st.text(st.characters(min_codepoint=1, max_codepoint=126)).filter(lambda name: name.strip()))
def test_no_file_name_becomes_another_option(name: str) -> None:
    settings = SshSettings("cluster", ssh_config="none", keyfile=name)
    try:
        refuse_unmappable(settings)
    except InvalidValue:
        return
    (word,) = [word for word in login_options(settings, HOST, person=False) if word.startswith("IdentityFile")]
    assert word == 'IdentityFile="' + name.replace("%", "%%") + '"'


# what ssh says

SHOWN = "debug1: Server host key: ssh-ed25519 SHA256:abc\r\n"


def error(log: str, *, person: bool = False, **changes: object) -> ConnectionFailed:
    return login_error(log, SshSettings("cluster", **changes), HOST, person=person)  # type: ignore[arg-type]


def test_host_keys() -> None:
    log = SHOWN + (
        "No ED25519 host key is known for [login.example.org]:2222 and you have requested strict checking.\r\n"
        "Host key verification failed.\r\n"
    )
    unknown = error(log)
    assert isinstance(unknown, UnknownHostKey)
    assert "[login.example.org]:2222 is not known. It shows ssh-ed25519 SHA256:abc" in str(unknown)
    of_a_jump_host = error(log.replace("login", "jump"))
    assert isinstance(of_a_jump_host, UnknownHostKey)
    assert "[jump.example.org]:2222 is not known" in str(of_a_jump_host)
    assert "SHA256" not in str(of_a_jump_host)
    changed = error(
        SHOWN + "@    WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @\r\n"
        "Offending ED25519 key in /home/me/.ssh/known_hosts:7\r\nHost key verification failed.\r\n"
    )
    assert isinstance(changed, HostKeyChanged)
    assert "HAS CHANGED" in str(changed)
    assert "/home/me/.ssh/known_hosts, line 7" in str(changed)


def test_logins_that_are_refused() -> None:
    log = "debug1: Offering public key: /k ED25519 SHA256:x\r\nme@login.example.org: Permission denied (publickey).\r\n"
    refused = error(log)
    assert isinstance(refused, AuthenticationFailed)
    assert "Permission denied (publickey)" in str(refused)
    assert "key /k ED25519" in str(refused)
    assert "ssh -M -N -f -p 2222 me@cluster" in str(refused)
    assert "nobody to ask" not in str(error(log, person=True))


#: Where something of the server's, or of whoever pretends to be it, stands in what ssh says.
TEMPLATES = (
    "{}",
    "Server host key: {0} SHA256:{0}",
    "No {0} host key is known for {0}",
    "HOST IDENTIFICATION HAS CHANGED\nOffending key in {0}:1",
    "Offering public key: {0}\n{0}: Permission denied",
    "ssh: connect to host {0} port 22: {0}",
    "debug1: kex_exchange_identification: banner line 0: {0}",
)


@given(st.sampled_from(TEMPLATES).flatmap(lambda template: st.text().map(template.format)))
def test_whatever_ssh_says_makes_one_error_without_control_characters(log: str) -> None:
    made = error(log)
    assert isinstance(made, ConnectionFailed)
    assert str(made).isprintable()
    assert all(line.isprintable() for line in said(log))
    assert set(complaints(log)) <= set(said(log))
