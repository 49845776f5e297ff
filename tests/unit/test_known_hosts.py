"""Which host keys are known, decided as OpenSSH decides it."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import shutil
import stat
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchlib.errors import HostKeyChanged, HostKeyError, UnknownHostKey
from batchlib.transport.known_hosts import (
    KnownHosts,
    fingerprint,
    key_type,
    lookup_names,
    name_matches,
    parse,
    remember,
)


def make_key(kind: str, seed: str) -> bytes:
    material = hashlib.sha256(seed.encode()).digest()
    return struct.pack(">I", len(kind)) + kind.encode() + struct.pack(">I", len(material)) + material


def line_of(names: str, key: bytes, marker: str = "") -> str:
    return f"{marker} {names} {key_type(key)} {base64.b64encode(key).decode()} a comment".strip() + "\n"


def hashed(name: str) -> str:
    salt = b"0123456789abcdefghij"
    digest = hmac.new(salt, name.encode(), "sha1").digest()
    return f"|1|{base64.b64encode(salt).decode()}|{base64.b64encode(digest).decode()}"


ED = make_key("ssh-ed25519", "one")
ED_OTHER = make_key("ssh-ed25519", "another")
RSA = make_key("ssh-rsa", "rsa")


def known(*lines: str) -> KnownHosts:
    return KnownHosts(parse("".join(lines), "known_hosts"))


def accepts(hosts: KnownHosts, key: bytes = ED, host: str = "login.example.org", port: int = 22) -> bool:
    try:
        hosts.check(lookup_names(host, port, None), key, host)
    except UnknownHostKey:
        return False
    return True


@pytest.mark.parametrize(
    "names",
    [
        "login.example.org",
        "LOGIN.example.org",
        "other,login.example.org,10.0.0.1",
        "*.example.org",
        "login?example.org",
        "log*ple.org,!www.example.org",
        hashed("login.example.org"),
    ],
)
def test_names_that_match(names: str) -> None:
    assert accepts(known(line_of(names, ED)))


@pytest.mark.parametrize(
    "names",
    [
        "login.example.orgy",
        "login.example",
        "*.example.org,!login.*",
        "!login.example.org",
        "l[o]gin.example.org",
        "[login.example.org]:2222",
        hashed("www.example.org"),
        "|1|not base64|either",
        "|1|",
    ],
)
def test_names_that_do_not_match(names: str) -> None:
    assert not accepts(known(line_of(names, ED)))


def test_another_port_is_another_name() -> None:
    hosts = known(line_of("[login.example.org]:2222", ED))
    assert accepts(hosts, port=2222)
    assert not accepts(hosts, port=22)
    assert not accepts(hosts, port=2223)


def test_the_name_without_port_can_confirm_but_not_contradict() -> None:
    hosts = known(line_of("login.example.org", ED))
    assert accepts(hosts, ED, port=2222)
    assert not accepts(hosts, ED_OTHER, port=2222)


def test_an_alias_stands_for_the_host() -> None:
    hosts = known(line_of("cluster", ED))
    hosts.check(lookup_names("10.1.2.3", 2222, "cluster"), ED, "login")


def test_each_of_several_keys_of_one_type_is_good() -> None:
    hosts = known(line_of("login.example.org", ED_OTHER), line_of("login.example.org", ED))
    assert accepts(hosts, ED)
    assert accepts(hosts, ED_OTHER)


def test_lines_without_sense_are_skipped() -> None:
    good = line_of("login.example.org", ED)
    hosts = known(
        "# a comment\n",
        "\n",
        "login.example.org\n",
        "login.example.org ssh-ed25519\n",
        "login.example.org ssh-ed25519 %%%\n",
        "login.example.org ssh-ed25519 AAAA\n",
        "login.example.org 1024 35 1234567\n",
        "login.example.org ssh-rsa " + base64.b64encode(ED).decode() + "\n",
        "@something " + good,
        "\x00\xff" * 20 + "\n",
        "  \t" + good.replace(" ", "  \t "),
    )
    assert accepts(hosts)


def test_a_changed_key_names_both_fingerprints_and_the_line() -> None:
    hosts = known("# first line\n", line_of("login.example.org", ED))
    with pytest.raises(HostKeyChanged) as caught:
        accepts(hosts, ED_OTHER)
    message = str(caught.value)
    assert fingerprint(ED) in message
    assert fingerprint(ED_OTHER) in message
    assert "known_hosts, line 2" in message
    assert "ssh-keygen -R 'login.example.org' -f known_hosts" in message


def test_a_key_of_another_type_is_a_change_too() -> None:
    with pytest.raises(HostKeyChanged):
        accepts(known(line_of("login.example.org", ED)), RSA)


def test_an_unknown_key_names_fingerprint_type_and_remedy() -> None:
    with pytest.raises(UnknownHostKey) as caught:
        known().check(["login.example.org"], ED, "me@login.example.org")
    message = str(caught.value)
    assert f"ssh-ed25519 {fingerprint(ED)}" in message
    assert "`ssh me@login.example.org`" in message
    assert "host_keys = accept-new" in message


def test_a_revoked_key_is_refused_even_when_it_is_listed_as_good() -> None:
    hosts = known(line_of("login.example.org", ED), line_of("*", ED, "@revoked"))
    with pytest.raises(HostKeyChanged, match="revoked in known_hosts, line 2"):
        accepts(hosts)
    assert not accepts(hosts, ED_OTHER, host="www.example.org")


def test_a_certificate_authority_alone_is_told_apart_from_an_unknown_host() -> None:
    hosts = known(line_of("*.example.org", RSA, "@cert-authority"))
    with pytest.raises(HostKeyError, match="certificate authority") as caught:
        accepts(hosts)
    assert not isinstance(caught.value, UnknownHostKey)
    assert accepts(known(line_of("*.example.org", RSA, "@cert-authority"), line_of("login.example.org", ED)))


def test_types_that_are_known_are_asked_for_first() -> None:
    hosts = known(line_of("login.example.org", RSA), line_of("login.example.org", ED), line_of("www", ED_OTHER))
    assert hosts.algorithms(["login.example.org"]) == ["rsa-sha2-512", "rsa-sha2-256", "ssh-ed25519"]
    assert hosts.algorithms(["nobody"]) == []


def test_files_that_are_missing_hold_nothing(tmp_path: Path) -> None:
    good = tmp_path / "good"
    good.write_text(line_of("login.example.org", ED))
    assert accepts(KnownHosts.read([tmp_path / "missing", tmp_path, good]))


def test_a_remembered_key_is_known_and_private(tmp_path: Path) -> None:
    file = tmp_path / "data" / "known_hosts"
    remember(file, "[login.example.org]:2222", ED)
    remember(file, "www.example.org", RSA)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    hosts = KnownHosts.read([file])
    assert accepts(hosts, ED, port=2222)
    assert accepts(hosts, RSA, host="www.example.org")
    assert len(file.read_text().splitlines()) == 2


@pytest.mark.parametrize("name", ["a,b", "*", "a b", "|1|x", "a\nb", "@revoked"])
def test_a_name_that_means_something_else_is_not_remembered(tmp_path: Path, name: str) -> None:
    with pytest.raises(HostKeyError):
        remember(tmp_path / "known_hosts", name, ED)
    assert not (tmp_path / "known_hosts").exists()


@pytest.mark.skipif(not shutil.which("ssh-keygen") and not os.environ.get("CI"), reason="ssh-keygen is missing")
def test_openssh_agrees(tmp_path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "key")], check=True)
    kind, encoded, _comment = (tmp_path / "key.pub").read_text().split()
    key = base64.b64decode(encoded)
    file = tmp_path / "known_hosts"
    file.write_text(f"[login.example.org]:2222 {kind} {encoded}\nwww.example.org {kind} {encoded}\n")
    subprocess.run(["ssh-keygen", "-q", "-H", "-f", str(file)], check=True, capture_output=True)
    assert "example" not in file.read_text()
    assert accepts(KnownHosts.read([file]), key, port=2222)
    assert accepts(KnownHosts.read([file]), key, host="www.example.org")
    printed = subprocess.run(["ssh-keygen", "-l", "-f", str(tmp_path / "key.pub")], check=True, capture_output=True)
    assert fingerprint(key) in printed.stdout.decode()


words = st.one_of(
    st.text(),
    st.sampled_from(["@revoked", "@cert-authority", "ssh-ed25519", "*", "|1|", "|1|a|b", "!*", "[h]:22"]),
    st.binary().map(lambda data: base64.b64encode(data).decode()),
    st.just(base64.b64encode(ED).decode()),
)
texts = st.lists(st.lists(words).map(" ".join)).map("\n".join)


@given(texts)
def test_no_text_makes_it_fail(text: str) -> None:
    hosts = KnownHosts(parse(text, "known_hosts"))
    hosts.algorithms(["login.example.org"])
    try:
        hosts.check(["login.example.org"], RSA, "login.example.org")
    except HostKeyError:
        return
    assert base64.b64encode(RSA).decode() in text


@given(st.text(alphabet="ab*?!,[]:|1", max_size=12), st.text(alphabet="ab[]:1", max_size=12))
def test_patterns_mean_what_the_manual_says(names: str, host: str) -> None:
    """sshd(8), ssh_config(5) PATTERNS: an independent, recursive reading."""

    def one(pattern: str, text: str) -> bool:
        if not pattern:
            return not text
        if pattern[0] == "*":
            return one(pattern[1:], text) or (bool(text) and one(pattern, text[1:]))
        return bool(text) and pattern[0] in ("?", text[0]) and one(pattern[1:], text[1:])

    if names.startswith("|1|"):
        return
    patterns = names.split(",")
    positive = any(one(pattern, host) for pattern in patterns if not pattern.startswith("!"))
    negative = any(one(pattern[1:], host) for pattern in patterns if pattern.startswith("!"))
    assert name_matches(names, host) == (positive and not negative)


@given(st.binary())
def test_any_bytes_have_a_type_and_a_fingerprint(key: bytes) -> None:
    assert isinstance(key_type(key), str)
    assert fingerprint(key).startswith("SHA256:")
