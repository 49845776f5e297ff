"""Whom the carrier trusts, and how it logs in."""

from __future__ import annotations

import base64
import logging
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Protocol

import pytest

from batchlib.errors import AuthenticationFailed, HostKeyChanged, HostKeyError, UnknownHostKey
from batchlib.transport.known_hosts import fingerprint
from batchlib.transport.openssh import OpensshCarrier
from batchlib.transport.ssh import SshCarrier, SshSettings, shared_carrier
from tests.fakes.frontend import Frontend
from tests.servers.sshd import Sshd
from tests.transport.conftest import make_key, settings_for
from tests.transport.streams import run

MakeSshd = Callable[..., Sshd]
MakeFrontend = Callable[..., Frontend]


class Person:
    """Answers questions, and remembers them."""

    def __init__(self, *answers: str) -> None:
        self._answers = list(answers)
        self.asked: list[tuple[str, bool]] = []

    def __call__(self, question: str, echo: bool) -> str:
        self.asked.append((question, echo))
        if not self._answers:
            raise EOFError
        return self._answers.pop(0)


def log_in(
    settings: SshSettings, person: Person | None = None, *, kind: type[SshCarrier | OpensshCarrier] = SshCarrier
) -> None:
    """Make sure that the settings lead to a shell."""
    carrier = kind(settings, person)
    try:
        assert run(carrier, "echo in").out == b"in\n"
    finally:
        carrier.close()


class LogIn(Protocol):
    """Makes sure that settings lead to a shell."""

    def __call__(self, settings: SshSettings, /) -> None: ...


@pytest.fixture(name="log_in", params=[SshCarrier, OpensshCarrier], ids=["paramiko", "openssh"])
def log_in_either_way(request: pytest.FixtureRequest) -> LogIn:
    """Take the place of `log_in` in tests of what holds for both carriers."""
    return partial(log_in, kind=request.param)


def bare(server: Sshd, **changes: object) -> SshSettings:
    """Settings without the server's own client configuration: no key, no host key."""
    given: dict[str, object] = {"ssh_config": "none", "host": server.host, "port": server.port, "username": server.user}
    return settings_for(server, **{**given, **changes})


def trusting(server: Sshd, **changes: object) -> SshSettings:
    """The same with the host key."""
    return bare(server, known_hosts=(str(server.known_hosts),), **changes)


def authorize(server: Sshd, *public: Path) -> None:
    """Let further keys in."""
    with (server.directory / "authorized_keys").open("a") as file:
        file.writelines(key.read_text() for key in public)


# host keys


def test_an_unknown_host_key_is_refused(plain_sshd: Sshd, own_data: Path, log_in: LogIn) -> None:
    with pytest.raises(UnknownHostKey) as caught:
        log_in(bare(plain_sshd, keyfile=str(plain_sshd.keyfile)))
    message = str(caught.value)
    assert plain_sshd.fingerprint in message
    assert "ssh-ed25519" in message
    assert f"`ssh -p {plain_sshd.port} {plain_sshd.user}@127.0.0.1`" in message
    assert not own_data.exists()


def test_accept_new_remembers_the_key(make_sshd: MakeSshd, own_data: Path, log_in: LogIn) -> None:
    server = make_sshd()
    key = {"keyfile": str(server.keyfile)}
    log_in(bare(server, host_keys="accept-new", **key))
    assert (own_data / "batchlib" / "known_hosts").read_text().count("\n") == 1
    log_in(bare(server, **key))
    server.change_host_key()
    for rule in ("strict", "accept-new"):
        with pytest.raises(HostKeyChanged):
            log_in(bare(server, host_keys=rule, **key))
    assert (own_data / "batchlib" / "known_hosts").read_text().count("\n") == 1
    log_in(bare(server, host_keys="ignore", **key))


def test_a_changed_host_key_is_told_loudly(make_sshd: MakeSshd, log_in: LogIn) -> None:
    server = make_sshd()
    before = server.fingerprint
    server.change_host_key()
    with pytest.raises(HostKeyChanged) as caught:
        log_in(settings_for(server))
    message = str(caught.value)
    assert "HAS CHANGED" in message
    assert before in message
    assert server.fingerprint in message
    assert f"{server.known_hosts}, line 1" in message


def test_a_revoked_host_key_is_refused(make_sshd: MakeSshd, log_in: LogIn) -> None:
    server = make_sshd()
    line = server.known_hosts.read_text()
    server.known_hosts.write_text(line + "@revoked * " + line.split(" ", 1)[1])
    with pytest.raises(HostKeyChanged, match="revoked"):
        log_in(settings_for(server))


def test_a_certificate_authority_alone_does_not_do(make_sshd: MakeSshd) -> None:
    server = make_sshd()
    server.known_hosts.write_text("@cert-authority " + server.known_hosts.read_text())
    for rule in ("strict", "accept-new"):
        with pytest.raises(HostKeyError, match="transport = openssh"):
            log_in(settings_for(server, host_keys=rule))


@pytest.mark.parametrize("kind", ["rsa", "ecdsa", "ed25519"])
def test_the_kind_of_key_that_is_known_is_asked_for(
    kind: str, make_sshd: MakeSshd, tmp_path: Path, log_in: LogIn
) -> None:
    keys = {name: tmp_path / f"host_{name}" for name in ("rsa", "ecdsa", "ed25519")}
    for name, file in keys.items():
        make_key(file, name)
    server = make_sshd(options={"HostKey": [str(file) for file in keys.values()]})
    known = tmp_path / "known"
    known.write_text(f"[127.0.0.1]:{server.port} " + Path(f"{keys[kind]}.pub").read_text())
    log_in(bare(server, keyfile=str(server.keyfile), known_hosts=(str(known),)))


# keys


def test_a_key_that_is_not_let_in(plain_sshd: Sshd, tmp_path: Path) -> None:
    make_key(tmp_path / "stranger")
    with pytest.raises(AuthenticationFailed) as caught:
        log_in(trusting(plain_sshd, keyfile=str(tmp_path / "stranger")))
    message = str(caught.value)
    assert f"{plain_sshd.user}@127.0.0.1 did not let us in" in message
    assert f"key file {tmp_path}/stranger" in message
    assert "The server accepts: publickey." in message


def test_a_key_file_that_is_missing_or_none_is_named(plain_sshd: Sshd, tmp_path: Path) -> None:
    with pytest.raises(AuthenticationFailed, match=r"nowhere .not used: No such file"):
        log_in(trusting(plain_sshd, keyfile=str(tmp_path / "nowhere")))
    (tmp_path / "text").write_text("no key")
    with pytest.raises(AuthenticationFailed, match=r"text .not used: it is no private key"):
        log_in(trusting(plain_sshd, keyfile=str(tmp_path / "text")))


# ssh-keygen writes ed25519 keys in its own form only
FORMS = [("ed25519", ""), *((kind, form) for kind in ("rsa", "ecdsa") for form in ("", "PEM", "PKCS8"))]


@pytest.mark.parametrize("passphrase", ["", "a pass phrase"])
def test_kinds_and_forms_of_keys(passphrase: str, make_sshd: MakeSshd, tmp_path: Path) -> None:
    server = make_sshd()
    for kind, form in FORMS:
        file = tmp_path / f"{kind}{form}"
        make_key(file, kind, passphrase)
        if form:
            words = ["-p", "-P", passphrase, "-N", passphrase, "-m", form, "-f", str(file)]
            subprocess.run(["ssh-keygen", *words], check=True, capture_output=True)
            assert "OPENSSH" not in file.read_text()
        (server.directory / "authorized_keys").write_text(Path(f"{file}.pub").read_text())
        log_in(trusting(server, keyfile=str(file)), Person(passphrase) if passphrase else None)


def test_an_encrypted_key(make_sshd: MakeSshd, tmp_path: Path) -> None:
    file = tmp_path / "key"
    make_key(file, passphrase="open sesame")
    server = make_sshd()
    authorize(server, Path(f"{file}.pub"))
    settings = trusting(server, keyfile=str(file))
    with pytest.raises(AuthenticationFailed, match="it is encrypted and nobody can be asked"):
        log_in(settings)
    person = Person("wrong", "open sesame")
    log_in(settings, person)
    assert person.asked == [(f"Passphrase for the key {file}: ", False)] * 2
    with pytest.raises(AuthenticationFailed, match="the passphrase is wrong"):
        log_in(settings, Person("wrong", "wrong", "wrong"))
    with pytest.raises(AuthenticationFailed, match="given up"):
        log_in(settings, Person())
    log_in(trusting(server, keyfile=str(file), password_command="echo open sesame"))
    with pytest.raises(AuthenticationFailed, match="password_command failed with exit code 3"):
        log_in(trusting(server, keyfile=str(file), password_command="exit 3"))


def test_nobody_is_asked_about_a_key_that_would_not_do(plain_sshd: Sshd, tmp_path: Path) -> None:
    make_key(tmp_path / "key", passphrase="open sesame")
    person = Person()
    with pytest.raises(AuthenticationFailed):
        log_in(trusting(plain_sshd, keyfile=str(tmp_path / "key")), person)
    assert person.asked == []


def test_two_keys_that_are_both_needed(make_sshd: MakeSshd, tmp_path: Path, log_in: LogIn) -> None:
    server = make_sshd(options={"AuthenticationMethods": "publickey,publickey"})
    make_key(tmp_path / "second")
    with pytest.raises(AuthenticationFailed):
        log_in(settings_for(server, keyfile=str(tmp_path / "second")))
    authorize(server, tmp_path / "second.pub")
    log_in(settings_for(server, keyfile=str(tmp_path / "second")))


@pytest.fixture
def certified(make_sshd: MakeSshd, tmp_path: Path) -> tuple[Sshd, Path]:
    """A server that lets in what an authority has signed, and such a key."""
    make_key(tmp_path / "authority")
    make_key(tmp_path / "key", "rsa")
    server = make_sshd(options={"TrustedUserCAKeys": str(tmp_path / "authority.pub")})
    words = ["-q", "-s", str(tmp_path / "authority"), "-I", "tests", "-n", server.user, str(tmp_path / "key.pub")]
    subprocess.run(["ssh-keygen", *words], check=True, capture_output=True)
    return server, tmp_path / "key"


def test_a_certificate_beside_its_key(certified: tuple[Sshd, Path], log_in: LogIn) -> None:
    server, key = certified
    log_in(trusting(server, keyfile=str(key)))
    Path(f"{key}-cert.pub").unlink()
    with pytest.raises(AuthenticationFailed):
        log_in(trusting(server, keyfile=str(key)))


def test_a_certificate_elsewhere(certified: tuple[Sshd, Path], tmp_path: Path, log_in: LogIn) -> None:
    server, key = certified
    (tmp_path / "elsewhere").mkdir()
    moved = Path(f"{key}-cert.pub").rename(tmp_path / "elsewhere" / "certificate")
    log_in(trusting(server, keyfile=str(key), certificate=str(moved)))
    config = tmp_path / "config"
    config.write_text(f"Host *\n  IdentityFile {key}\n  CertificateFile {moved}\n")
    log_in(trusting(server, ssh_config=str(config)))


def test_a_certificate_that_is_missing_is_an_error(certified: tuple[Sshd, Path]) -> None:
    server, key = certified
    with pytest.raises(AuthenticationFailed, match="nowhere can't be read"):
        log_in(trusting(server, keyfile=str(key), certificate="/nowhere"))


# the agent


@pytest.fixture
def agent(monkeypatch: pytest.MonkeyPatch, server_directory: Path) -> Iterator[Callable[..., None]]:
    """A real agent; call it to put keys into it."""
    if not shutil.which("ssh-agent") and not os.environ.get("CI"):
        pytest.skip("there is no ssh-agent")
    socket = server_directory / "agent.sock"  # the path of a socket has to be short
    process = subprocess.Popen(["ssh-agent", "-D", "-a", str(socket)], stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 10
    while not socket.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    monkeypatch.setenv("SSH_AUTH_SOCK", str(socket))

    def add(*keys: Path) -> None:
        subprocess.run(["ssh-add", "-q", *map(str, keys)], check=True, capture_output=True)

    yield add
    process.send_signal(signal.SIGTERM)
    process.wait()
    socket.unlink(missing_ok=True)


def test_a_key_in_the_agent(agent: Callable[..., None], plain_sshd: Sshd, tmp_path: Path, log_in: LogIn) -> None:
    make_key(tmp_path / "another", "rsa")
    agent(tmp_path / "another", plain_sshd.keyfile)
    log_in(trusting(plain_sshd))
    config = tmp_path / "config"
    config.write_text("Host *\n  IdentityAgent none\n")
    with pytest.raises(AuthenticationFailed):
        log_in(trusting(plain_sshd, ssh_config=str(config)))
    config.write_text("Host *\n  IdentitiesOnly yes\n")
    with pytest.raises(AuthenticationFailed):
        log_in(trusting(plain_sshd, ssh_config=str(config)))


def test_an_encrypted_key_is_used_through_the_agent(
    agent: Callable[..., None], make_sshd: MakeSshd, tmp_path: Path
) -> None:
    """The key named goes first, so that the agent's others can't use up the attempts; nobody is asked."""
    server = make_sshd(options={"MaxAuthTries": "2"})
    others = [tmp_path / f"other{number}" for number in range(8)]
    for file in others:
        make_key(file)
    open_key, file = tmp_path / "open", tmp_path / "named"
    make_key(open_key, "rsa")
    shutil.copy(open_key, file)
    shutil.copy(f"{open_key}.pub", f"{file}.pub")
    words = ["-q", "-p", "-N", "open sesame", "-f", str(file)]
    subprocess.run(["ssh-keygen", *words], check=True, capture_output=True)
    authorize(server, Path(f"{file}.pub"))
    agent(*others, open_key)
    log_in(trusting(server, keyfile=str(file)))
    with pytest.raises(AuthenticationFailed, match="Name the right key with keyfile") as caught:
        log_in(trusting(server))
    assert "Too many authentication failures" in str(caught.value)


def test_a_certificate_in_the_agent_and_one_beside_an_agent_key(
    agent: Callable[..., None], make_sshd: MakeSshd, tmp_path: Path, log_in: LogIn
) -> None:
    make_key(tmp_path / "authority")
    make_key(tmp_path / "key")
    server = make_sshd(options={"TrustedUserCAKeys": str(tmp_path / "authority.pub")})
    agent(tmp_path / "key")
    words = ["-q", "-s", str(tmp_path / "authority"), "-I", "tests", "-n", server.user, str(tmp_path / "key.pub")]
    subprocess.run(["ssh-keygen", *words], check=True, capture_output=True)
    log_in(trusting(server, certificate=str(tmp_path / "key-cert.pub")))
    agent(tmp_path / "key")
    log_in(trusting(server))


# passwords and codes


def test_passwords(make_frontend: MakeFrontend, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    frontend = make_frontend(password="hunter2", keyfile=None)
    log_in(settings_for(frontend, password_command="echo hunter2"))
    person = Person("hunter3", "hunter2")
    log_in(settings_for(frontend), person)
    assert person.asked == [("hpc@127.0.0.1's password: ", False)] * 2
    with pytest.raises(AuthenticationFailed) as caught:
        log_in(settings_for(frontend, password_command="echo hunter3"))
    assert "The server accepts: password." in str(caught.value)
    with pytest.raises(AuthenticationFailed, match="It asks for a password, and there is nobody to ask"):
        log_in(settings_for(frontend))
    assert "hunter" not in str(caught.value)
    assert "hunter" not in caplog.text


def test_a_second_factor(make_frontend: MakeFrontend, rsa_key: Path) -> None:
    frontend = make_frontend(code="123456")
    settings = settings_for(frontend, keyfile=str(rsa_key))
    person = Person("123456")
    log_in(settings, person)
    assert person.asked == [("Second factor\nLook at your token.\nVerification code: ", False)]
    assert frontend.logins == ["publickey", "publickey", "keyboard-interactive"]  # asked, signed, answered
    person = Person("1", "2", "123456")
    log_in(settings, person)
    assert len(person.asked) == 3
    with pytest.raises(AuthenticationFailed, match="answers to its questions"):
        log_in(settings, Person("1", "2", "3"))


def test_a_second_factor_and_nobody_to_ask(make_frontend: MakeFrontend, rsa_key: Path) -> None:
    frontend = make_frontend(code="123456")
    with pytest.raises(AuthenticationFailed) as caught:
        log_in(settings_for(frontend, keyfile=str(rsa_key)))
    assert "'Verification code:'" in str(caught.value)
    assert "ssh -M" in str(caught.value)


def test_one_login_serves_all_users_of_the_settings(make_frontend: MakeFrontend, rsa_key: Path) -> None:
    frontend = make_frontend(code="123456")
    settings = settings_for(frontend, keyfile=str(rsa_key))
    person = Person("123456")
    first, second = shared_carrier(settings, person), shared_carrier(settings)
    assert run(first, "echo one").out == b"one\n"
    assert run(second, "echo two").out == b"two\n"
    first.close()
    first.close()
    assert run(second, "echo three").out == b"three\n"
    assert len(person.asked) == 1
    assert frontend.connections == 1
    second.close()
    deadline = time.monotonic() + 10
    while frontend.connections and time.monotonic() < deadline:
        time.sleep(0.01)
    assert frontend.connections == 0


def test_a_failed_login_is_not_tried_again_by_itself(make_frontend: MakeFrontend, log_in: LogIn) -> None:
    frontend = make_frontend(password="hunter2", keyfile=None)
    with pytest.raises(AuthenticationFailed):
        log_in(settings_for(frontend, password_command="echo wrong"))
    assert frontend.logins == ["password"]


def test_fingerprints_are_openssh_s(plain_sshd: Sshd) -> None:
    encoded = plain_sshd.known_hosts.read_text().split()[2]
    assert fingerprint(base64.b64decode(encoded)) == plain_sshd.fingerprint
