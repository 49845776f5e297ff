"""The messages of an SSH login."""

from __future__ import annotations

import enum
import queue
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import attrs
import paramiko
from paramiko.auth_handler import AuthHandler
from paramiko.common import (
    MSG_SERVICE_ACCEPT,
    MSG_USERAUTH_BANNER,
    MSG_USERAUTH_FAILURE,
    MSG_USERAUTH_INFO_REQUEST,
    MSG_USERAUTH_SUCCESS,
    cMSG_SERVICE_REQUEST,
    cMSG_USERAUTH_INFO_RESPONSE,
    cMSG_USERAUTH_REQUEST,
)
from paramiko.message import Message

from ..errors import ConnectionFailed
from .paramiko_safe import SafeTransport

if TYPE_CHECKING:

    class _AuthHandler(AuthHandler):
        def _finalize_pubkey_algorithm(self, key_type: str) -> str: ...
        def _get_key_type_and_bits(self, key: paramiko.PKey) -> tuple[str, bytes | paramiko.PKey]: ...
        def _get_session_blob(self, key: paramiko.PKey, service: str, username: str, algorithm: str) -> bytes: ...
        def _parse_userauth_success(self, m: Message) -> None: ...
        def _parse_userauth_banner(self, m: Message) -> None: ...
else:
    _AuthHandler = AuthHandler

#: Seconds that a server may take over an answer: it may be waiting for a person's telephone.
_PATIENCE = 120.0


class Outcome(enum.Enum):
    """What the server said to one attempt."""

    SUCCESS = enum.auto()
    #: One factor of several was accepted.
    PARTIAL = enum.auto()
    REFUSED = enum.auto()


@attrs.frozen
class Questions:
    """What the server asks in a keyboard-interactive login.

    Parameters
    ----------
    introduction : str
        Text to show first.
    prompts : tuple of (str, bool)
        Each question and whether its answer may be shown.
    """

    introduction: str
    prompts: tuple[tuple[str, bool], ...]


class Login(_AuthHandler):
    """The messages of one login, sent and awaited by the thread that logs in.

    paramiko's own handlers sign and ask questions in the transport's thread, where an error or a pause is the end
    of the connection, and don't tell which methods the server accepts.

    Parameters
    ----------
    transport : SafeTransport
        A connection after the key exchange.
    user : str
        Account to log in to.
    timeout : float
        Seconds to wait for each of the server's answers.

    Raises
    ------
    EOFError
        From each method: the connection was closed.
    ConnectionFailed
        From each method: no answer came in time.
    """

    def __init__(self, transport: SafeTransport, user: str, timeout: float) -> None:
        super().__init__(transport)
        self.username = user
        #: Methods that the server accepts now.
        self.methods: tuple[str, ...] = ()
        self._user = user
        self._timeout = timeout
        self._answers: queue.SimpleQueue[Outcome | Questions | bool | None] = queue.SimpleQueue()

    def begin(self) -> Outcome:
        """Start, and learn which methods the server accepts."""
        request = Message()
        request.add_byte(cMSG_SERVICE_REQUEST)
        request.add_string("ssh-userauth")
        self._send(request)
        self._wait()
        self._request("none")
        return self._outcome()

    def accepts(self, public: bytes) -> bool:
        """Ask whether a public key or a certificate would do; nothing is signed."""
        algorithm = self._finalize_pubkey_algorithm(Message(public).get_text())
        self._request("publickey", False, algorithm, public)
        return self._wait() is True

    def sign(self, key: paramiko.PKey) -> Outcome:
        """Log in with a key."""
        kind, bits = self._get_key_type_and_bits(key)
        blob = bits.asbytes() if isinstance(bits, paramiko.PKey) else bits
        algorithm = self._finalize_pubkey_algorithm(kind)
        data = self._get_session_blob(key, "ssh-connection", self._user, algorithm)
        self._request("publickey", True, algorithm, blob, key.sign_ssh_data(data, algorithm))
        return self._outcome()

    def offer_password(self, password: str) -> Outcome:
        """Log in with a password."""
        self._request("password", False, password)
        return self._outcome()

    def converse(self, answer: Callable[[Questions], list[str]]) -> Outcome:
        """Log in by answering the server's questions."""
        patience = max(self._timeout, _PATIENCE)
        self._request("keyboard-interactive", "", "")
        said = self._wait(patience)
        while isinstance(said, Questions):
            answers = answer(said)
            message = Message()
            message.add_byte(cMSG_USERAUTH_INFO_RESPONSE)
            message.add_int(len(answers))
            for text in answers:
                message.add_string(text)
            self._send(message)
            said = self._wait(patience)
        return said if isinstance(said, Outcome) else Outcome.REFUSED

    def abort(self) -> None:
        """Tell the waiting thread that the connection is gone."""
        self._answers.put(None)

    @property
    def _handler_table(self) -> Mapping[int, Callable[[Message], None]]:
        return {
            MSG_SERVICE_ACCEPT: lambda m: self._answers.put(True),
            MSG_USERAUTH_SUCCESS: self._on_success,
            MSG_USERAUTH_FAILURE: self._on_failure,
            MSG_USERAUTH_BANNER: self._parse_userauth_banner,
            MSG_USERAUTH_INFO_REQUEST: self._on_question,
        }

    def _on_success(self, m: Message) -> None:
        self._parse_userauth_success(m)
        self._answers.put(Outcome.SUCCESS)

    def _on_failure(self, m: Message) -> None:
        self.methods = tuple(m.get_list())
        self._answers.put(Outcome.PARTIAL if m.get_boolean() else Outcome.REFUSED)

    def _on_question(self, m: Message) -> None:
        # number 60 means something else in each method: a key would do, an old password must be changed, a question
        if self.auth_method == "publickey":
            self._answers.put(True)
        elif self.auth_method == "keyboard-interactive":
            title, instructions = m.get_text(), m.get_text()
            m.get_binary()
            prompts = tuple((m.get_text(), m.get_boolean()) for _ in range(m.get_int()))
            self._answers.put(Questions("\n".join(filter(None, (title, instructions))), prompts))
        else:
            self._answers.put(Outcome.REFUSED)

    def _request(self, method: str, *fields: str | bytes | bool | Message) -> None:
        self.auth_method = method
        message = Message()
        message.add_byte(cMSG_USERAUTH_REQUEST)
        for field in (self._user, "ssh-connection", method, *fields):
            if isinstance(field, bool):
                message.add_boolean(field)
            else:
                message.add_string(field)
        self._send(message)

    def _send(self, message: Message) -> None:
        transport = self.transport
        with transport.lock:
            transport._send_message(message)  # type: ignore[attr-defined]

    def _wait(self, timeout: float | None = None) -> Outcome | Questions | bool:
        try:
            answer = self._answers.get(timeout=timeout or self._timeout)
        except queue.Empty:
            raise ConnectionFailed(f"{self._user}: the server did not answer the login in time") from None
        if answer is None:
            raise EOFError
        return answer

    def _outcome(self) -> Outcome:
        answer = self._wait()
        return answer if isinstance(answer, Outcome) else Outcome.REFUSED
