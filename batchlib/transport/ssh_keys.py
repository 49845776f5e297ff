"""Private keys in files and in the agent."""

from __future__ import annotations

import base64
import binascii
import contextlib
import io
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import paramiko
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from paramiko.agent import AgentKey, AgentSSH

_MAGIC = b"openssh-key-v1\0"

if TYPE_CHECKING:

    class _AgentSSH(AgentSSH):
        def _connect(self, conn: socket.socket) -> None: ...
        def _close(self) -> None: ...
else:
    _AgentSSH = AgentSSH


class UnusableKey(Exception):
    """A key file can't be used; the message says why."""


class WrongPassphrase(UnusableKey):
    """A passphrase is needed, or another one."""


@attrs.frozen
class KeyFile:
    """A private key in a file, perhaps still encrypted.

    Parameters
    ----------
    path : str
        The file.
    content : bytes
        What is in it.
    public : bytes
        The public key, empty where it can't be told without a passphrase.
    encrypted : bool
        Whether a passphrase is needed.
    """

    path: str
    content: bytes = attrs.field(repr=False)
    public: bytes
    encrypted: bool

    def load(self, passphrase: str | None) -> paramiko.PKey:
        """Decrypt the key.

        Raises
        ------
        WrongPassphrase
            It needs another passphrase.
        UnusableKey
            It is of a kind that can't be used.
        """
        if self.encrypted and passphrase is None:
            raise WrongPassphrase("it is encrypted")
        secret = passphrase.encode() if passphrase is not None and self.encrypted else None
        try:
            if b"OPENSSH PRIVATE KEY" in self.content:
                key = serialization.load_ssh_private_key(self.content, secret)
            else:
                # a PEM file
                key = serialization.load_pem_private_key(self.content, secret)  # type: ignore[assignment]
        except (ValueError, TypeError) as error:
            if self.encrypted:
                raise WrongPassphrase("the passphrase is wrong") from error
            raise UnusableKey("it is no private key") from error
        except UnsupportedAlgorithm as error:
            raise UnusableKey("keys of its kind can be used through an agent only") from error
        if isinstance(key, ed25519.Ed25519PrivateKey):
            kind: type[paramiko.PKey] = paramiko.Ed25519Key
        elif isinstance(key, ec.EllipticCurvePrivateKey):
            kind = paramiko.ECDSAKey
        elif isinstance(key, rsa.RSAPrivateKey):
            kind = paramiko.RSAKey
        else:
            raise UnusableKey("it is of a kind that is no longer accepted")
        plain = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
        )
        return kind.from_private_key(io.StringIO(plain.decode()))


def read_key(path: str) -> KeyFile:
    """Read a private key file.

    Raises
    ------
    UnusableKey
        There is none, or it can't be read.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise UnusableKey(error.strerror or str(error)) from error
    lines = content.split(b"\n")
    if any(line.startswith(b"-----BEGIN OPENSSH") for line in lines):
        body = b"".join(line for line in lines if not line.startswith(b"-----"))
        cipher, public = _openssh_header(body)
        return KeyFile(path, content, public, cipher != b"none")
    if b"PRIVATE KEY" not in content:
        raise UnusableKey("it is no private key")
    return KeyFile(path, content, _public_half(path), b"ENCRYPTED" in content)


def _openssh_header(body: bytes) -> tuple[bytes, bytes]:
    """Give the cipher's name and the public key, which stand in clear (OpenSSH, PROTOCOL.key)."""
    try:
        data = base64.b64decode(body)
        if not data.startswith(_MAGIC):
            raise UnusableKey("it is damaged")
        fields = []
        at = len(_MAGIC)
        for skip in (0, 0, 4, 0):  # cipher, key derivation and its options, number of keys, public key
            (length,) = struct.unpack_from(">I", data, at)
            fields.append(data[at + 4 : at + 4 + length])
            at += 4 + length + skip
    except (binascii.Error, struct.error) as error:
        raise UnusableKey("it is damaged") from error
    return fields[0], fields[3]


def _public_half(path: str) -> bytes:
    try:
        return base64.b64decode(Path(f"{path}.pub").read_bytes().split()[1])
    except (OSError, IndexError, binascii.Error):
        return b""


@contextlib.contextmanager
def agent_keys(socket_path: str | None) -> Iterator[list[AgentKey]]:
    """List the keys of the user's agent; none when there is no agent.

    Parameters
    ----------
    socket_path : str or None
        ``IdentityAgent`` of the SSH configuration.
    """
    path = os.environ.get("SSH_AUTH_SOCK") if socket_path is None else socket_path
    agent = _AgentSSH()
    with contextlib.ExitStack() as stack:
        if path and path != "none":
            connection = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            # a forwarded or hardware agent may ask a person before it answers
            connection.settimeout(120)
            with contextlib.suppress(OSError, paramiko.SSHException):
                connection.connect(path)
                agent._connect(connection)
        yield list(agent.get_keys())
