"""Host keys that are known to be right, read as OpenSSH reads them.

Files hold one key a line (sshd(8), "SSH_KNOWN_HOSTS FILE FORMAT"): plain, hashed or wildcard names, lists with
negation, ports, and the markers ``@revoked`` and ``@cert-authority``. A line that is not understood is skipped:
it can make a host unknown, never known.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import re
import struct
from collections.abc import Iterable
from pathlib import Path

import attrs
import platformdirs

from ..errors import HostKeyChanged, HostKeyError, UnknownHostKey

_REVOKED = "@revoked"
_AUTHORITY = "@cert-authority"
#: Key types in known_hosts whose signatures have other names.
_ALGORITHMS = {"ssh-rsa": ("rsa-sha2-512", "rsa-sha2-256")}


@attrs.frozen
class KnownKey:
    """One line of a known hosts file.

    Parameters
    ----------
    marker : str
        ``@revoked``, ``@cert-authority`` or nothing.
    names : str
        For which hosts it holds.
    key : bytes
        The public key.
    place : str
        File and line, for messages.
    """

    marker: str
    names: str
    key: bytes
    place: str


def own_file() -> Path:
    """Where batchlib keeps the host keys that ``accept-new`` accepted."""
    return Path(platformdirs.user_data_path("batchlib")) / "known_hosts"


def fingerprint(key: bytes) -> str:
    """Give a key's fingerprint as OpenSSH prints it."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(key).digest()).decode().rstrip("=")


def key_type(key: bytes) -> str:
    """Give the type that a public key itself names, empty where it names none."""
    if len(key) < 4:
        return ""
    (length,) = struct.unpack(">I", key[:4])
    name = key[4 : 4 + length]
    return name.decode("ascii", "replace") if 0 < length == len(name) else ""


def lookup_names(host: str, port: int, alias: str | None) -> list[str]:
    """Give the names under which a host's key may be known, the proper one first.

    Parameters
    ----------
    host : str
        Name of the host as it is connected to.
    port : int
        Its TCP port.
    alias : str or None
        ``HostKeyAlias`` of the SSH configuration.
    """
    if alias:
        return [alias.lower()]
    host = host.lower()
    return [host] if port == 22 else [f"[{host}]:{port}", host]


def parse(text: str, file: str) -> list[KnownKey]:
    """Read the text of a known hosts file; lines that make no sense are left out.

    Parameters
    ----------
    text : str
        Anything.
    file : str
        Its name, for messages.
    """
    found = []
    for number, line in enumerate(text.split("\n"), 1):
        fields = line.split()
        marker = fields.pop(0) if fields and fields[0].startswith("@") else ""
        if len(fields) < 3 or fields[0].startswith("#") or marker not in ("", _REVOKED, _AUTHORITY):
            continue
        key = _decode(fields[2])
        if key and key_type(key) == fields[1]:
            found.append(KnownKey(marker, fields[0], key, f"{file}, line {number}"))
    return found


def _decode(text: str) -> bytes:
    try:
        return base64.b64decode(text.encode("ascii", "replace"), validate=True)
    except binascii.Error:
        return b""


def name_matches(names: str, host: str) -> bool:
    """Tell whether the first field of a line is about a host.

    Parameters
    ----------
    names : str
        Patterns separated by commas, or one hashed name.
    host : str
        Name in lower case, ``[name]:port`` for another port than 22.
    """
    if names.startswith("|1|"):
        return _hash_matches(names, host)
    matched = False
    for pattern in names.lower().split(","):
        negated = pattern.startswith("!")
        if _wildcard_matches(pattern.removeprefix("!"), host):
            if negated:
                return False
            matched = True
    return matched


def _hash_matches(hashed: str, host: str) -> bool:
    salt, _, digest = hashed[3:].partition("|")
    key, wanted = _decode(salt), _decode(digest)
    return bool(wanted) and hmac.compare_digest(hmac.new(key, host.encode(), "sha1").digest(), wanted)


def _wildcard_matches(pattern: str, text: str) -> bool:
    """Match ``*`` and ``?`` (nothing else is special, brackets least of all) in linear space, without recursion."""
    at = start = 0
    star = -1
    restart = 0
    while start < len(text):
        if at < len(pattern) and pattern[at] == "*":
            star, restart = at, start
            at += 1
        elif at < len(pattern) and pattern[at] in ("?", text[start]):
            at += 1
            start += 1
        elif star >= 0:
            restart += 1
            at, start = star + 1, restart
        else:
            return False
    return not pattern[at:].strip("*")


class KnownHosts:
    """The host keys of some files.

    Parameters
    ----------
    keys : iterable of KnownKey
        What the files hold.
    """

    def __init__(self, keys: Iterable[KnownKey]) -> None:
        self._keys = tuple(keys)

    @classmethod
    def read(cls, files: Iterable[str | Path]) -> KnownHosts:
        """Read files; those that are missing or unreadable hold nothing."""
        keys: list[KnownKey] = []
        for name in dict.fromkeys(str(Path(file).expanduser()) for file in files):
            try:
                text = Path(name).read_bytes().decode("utf-8", "replace")
            except OSError:
                continue
            keys += parse(text, name)
        return cls(keys)

    def algorithms(self, names: list[str]) -> list[str]:
        """Give the signature algorithms of the keys known for a host, to ask the server for these first.

        Parameters
        ----------
        names : list of str
            From `lookup_names`.
        """
        kinds = [key_type(known.key) for name in names for known in self._about([name], "")]
        return [algorithm for kind in dict.fromkeys(kinds) for algorithm in _ALGORITHMS.get(kind, (kind,))]

    def check(self, names: list[str], key: bytes, login: str) -> None:
        """Make sure that a key is the right one for a host.

        Parameters
        ----------
        names : list of str
            From `lookup_names`.
        key : bytes
            The public key that the server showed.
        login : str
            What a person gives to ``ssh`` to get there.

        Raises
        ------
        HostKeyChanged
            Other keys are known for the host, or this one is revoked.
        UnknownHostKey
            Nothing is known of it.
        HostKeyError
            The host is known by a certificate authority only.
        """
        shown = f"{key_type(key)} {fingerprint(key)}"
        for revoked in self._about(names, _REVOKED):
            if revoked.key == key:
                raise HostKeyChanged(
                    f"the host key of {names[0]} ({shown}) is marked as revoked in {revoked.place}. "
                    "Do not connect; ask its administrators."
                )
        if any(known.key == key for known in self._about(names, "")):
            return
        # a key known for the host without its port may be another server's: it can confirm, not contradict
        expected = self._about(names[:1], "")
        if expected:
            raise changed(names[0], shown, expected)
        if self._about(names, _AUTHORITY):
            raise HostKeyError(
                f"{names[0]} is known by a certificate authority only, whose certificates can't be checked here. "
                "Set transport = openssh to connect with the system's ssh, or add the host's own key "
                f"({shown}) to a known hosts file."
            )
        raise unknown(names[0], shown, login)

    def only_certified(self, names: list[str]) -> bool:
        """Tell whether a host, by its names from `lookup_names`, is known by a certificate authority alone."""
        return bool(self._about(names, _AUTHORITY)) and not self._about(names[:1], "")

    def _about(self, names: list[str], marker: str) -> list[KnownKey]:
        return [
            known
            for known in self._keys
            if known.marker == marker and any(name_matches(known.names, name) for name in names)
        ]


def changed(name: str, shown: str, known: list[KnownKey]) -> HostKeyChanged:
    """Make the error that a host shows another key than before.

    Parameters
    ----------
    name, shown : str
        As for `unknown`.
    known : list of KnownKey
        The keys that it should have; at least one.
    """
    known_keys = "; ".join(f"{key_type(k.key)} {fingerprint(k.key)} in {k.place}" for k in known)
    return HostKeyChanged(
        f"THE HOST KEY OF {name} HAS CHANGED. Somebody may be listening in, or the host was installed "
        f"anew. It shows {shown}; known is {known_keys}. Ask its administrators; if the new key is right, "
        "remove the old ones from the file, with "
        f"ssh-keygen -R '{name}' -f {known[0].place.rpartition(', line ')[0]}"
    )


def unknown(name: str, shown: str, login: str) -> UnknownHostKey:
    """Make the error that a host key is not known.

    Parameters
    ----------
    name : str
        Name of the host, the first of `lookup_names`.
    shown : str
        Type and fingerprint of the key that the server showed.
    login : str
        What a person gives to ``ssh`` to get there.
    """
    return UnknownHostKey(
        f"the host key of {name} is not known. It shows {shown}. Run `ssh {login}` once and compare the "
        "fingerprint with the one that its administrators publish, or set host_keys = accept-new."
    )


def remember(file: Path, name: str, key: bytes) -> None:
    """Add a host key to a known hosts file, which only its owner can read.

    Parameters
    ----------
    file : Path
        The file; made where it is missing, with its directory.
    name : str
        Name of the host, the first of `lookup_names`.
    key : bytes
        Its public key.
    """
    if re.search(r"[\s,*?!|@#]", name):
        raise HostKeyError(f"the host key of {name!r} can't be remembered: the name is not a plain host name")
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    line = f"{name} {key_type(key)} {base64.b64encode(key).decode()}\n".encode()
    # one write to a file opened for appending: lines of several processes can't mix
    descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.write(descriptor, line)
    finally:
        os.close(descriptor)
