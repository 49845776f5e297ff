"""What is offered in a login, and in which order.

A key named by the settings comes first, from the agent or from its file, because a server that allows six attempts
must not have heard of five others before. Then come the agent's other keys, the key files of the SSH configuration,
the password, and the server's questions, a second factor among them.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING

import paramiko
from paramiko.agent import AgentKey
from paramiko.message import Message
from paramiko.pkey import PublicBlob

from ..errors import AuthenticationFailed, ConnectionFailed
from .known_hosts import fingerprint
from .paramiko_safe import SafeTransport
from .ssh_config import ResolvedHost
from .ssh_keys import KeyFile, UnusableKey, WrongPassphrase, agent_keys, read_key
from .ssh_login import Login, Outcome, Questions

if TYPE_CHECKING:
    from .shared import Prompt
    from .ssh import SshSettings

#: Factors that a server may ask for one after the other.
_MAX_FACTORS = 5
#: Times that a person is asked for the same thing.
_MAX_QUESTIONS = 3
#: Seconds that `password_command` may take: it may ask a person.
_COMMAND_TIMEOUT = 120.0


class _NobodyToAsk(Exception):
    """An answer is needed that neither a command nor a person gives."""


class _Candidate:
    """A key that may be offered.

    Parameters
    ----------
    name : str
        For messages.
    public : bytes
        The public key, empty where it is not known before the key is decrypted.
    load : callable
        Gives the key; raises UnusableKey.
    """

    def __init__(self, name: str, public: bytes, load: Callable[[], paramiko.PKey]) -> None:
        self.name = name
        self.public = public
        self._load = load
        self._key: paramiko.PKey | None = None

    def key(self) -> paramiko.PKey:
        """Give the key, asking for its passphrase at most once."""
        if self._key is None:
            self._key = self._load()
            self.public = self.public or self._key.asbytes()
        return self._key


class Authentication:
    """One login.

    Parameters
    ----------
    transport : SafeTransport
        A connection after the key exchange, to a server whose host key was checked.
    resolved : ResolvedHost
        The account, and the keys of the SSH configuration.
    settings : SshSettings
        What the user gave.
    prompt : callable or None
        Asks a person.
    """

    def __init__(
        self, transport: SafeTransport, resolved: ResolvedHost, settings: SshSettings, prompt: Prompt | None
    ) -> None:
        self._transport = transport
        self._resolved = resolved
        self._settings = settings
        self._prompt = prompt
        self._login = Login(transport, resolved.user, settings.timeout)
        self._certificates = _certificates(resolved, settings)
        self._secret: str | None = None
        self._used: set[bytes] = set()
        self._tried: list[str] = []
        self._unanswered: list[str] = []

    def run(self) -> None:
        """Log in.

        Raises
        ------
        AuthenticationFailed
            The server accepted nothing.
        ConnectionFailed
            The connection broke, or the server did not answer.
        """
        self._transport.auth_handler = self._login
        try:
            outcome = self._login.begin()
            for _ in range(_MAX_FACTORS):
                if outcome is Outcome.SUCCESS:
                    return
                outcome = self._offer_next_factor()
                if outcome is Outcome.REFUSED:
                    break
        except EOFError:
            raise self._closed() from None
        raise AuthenticationFailed(self._failure())

    def _offer_next_factor(self) -> Outcome:
        offers = {
            "publickey": self._offer_keys,
            "password": self._offer_passwords,
            "keyboard-interactive": self._answer_questions,
        }
        for method, offer in offers.items():
            if method in self._login.methods:
                outcome = offer()
                if outcome is not Outcome.REFUSED:
                    return outcome
        return Outcome.REFUSED

    # keys

    def _offer_keys(self) -> Outcome:
        with agent_keys(self._resolved.identity_agent) as in_agent:
            for candidate in self._candidates(in_agent):
                try:
                    outcome = self._offer_key(candidate)
                except UnusableKey as error:
                    self._tried.append(f"{candidate.name} (not used: {error})")
                except paramiko.SSHException as error:
                    self._tried.append(f"{candidate.name} (it did not sign: {error})")
                else:
                    if outcome is Outcome.PARTIAL:
                        # another factor may be another key, and some servers go on listing the method in any case
                        self._used.add(candidate.public)
                        self._tried.append(f"{candidate.name} (accepted, but not enough)")
                    if outcome is not Outcome.REFUSED:
                        return outcome
                    self._tried.append(candidate.name)
        return Outcome.REFUSED

    def _offer_key(self, candidate: _Candidate) -> Outcome:
        """Offer a key with each of its certificates, and alone."""
        if not candidate.public:
            candidate.key()
        certificates = [blob for blob in self._certificates if _certifies(blob.key_blob, candidate.public)]
        for certificate in [*certificates, None]:
            # asked before anything is signed, so that nobody types a passphrase in vain
            if self._login.accepts(certificate.key_blob if certificate else candidate.public):
                key = candidate.key()
                key.public_blob = certificate
                outcome = self._login.sign(key)
                if outcome is not Outcome.REFUSED:
                    return outcome
        return Outcome.REFUSED

    def _candidates(self, in_agent: list[AgentKey]) -> Iterator[_Candidate]:
        named = self._key_files([self._settings.keyfile] if self._settings.keyfile else [], required=True)
        configured = self._key_files(list(self._resolved.identity_files), required=False)
        agent = {key.asbytes(): _Candidate(_agent_name(key), key.asbytes(), partial(_itself, key)) for key in in_agent}
        of_agent = dict.fromkeys(candidate.public for candidate in configured if candidate.public in agent)
        if not self._resolved.identities_only:
            of_agent |= dict.fromkeys(agent)
        offered = set(self._used)
        ordered = [*named, *(agent[public] for public in of_agent), *configured]
        for candidate in ordered:
            candidate = agent.get(candidate.public, candidate)
            if candidate.public not in offered:
                yield candidate
            if candidate.public:
                offered.add(candidate.public)

    def _key_files(self, paths: list[str], *, required: bool) -> list[_Candidate]:
        found = []
        for path in dict.fromkeys(os.path.expanduser(path) for path in paths):
            try:
                file = read_key(path)
            except UnusableKey as error:
                if required or os.path.exists(path):
                    self._tried.append(f"key file {path} (not used: {error})")
                continue
            found.append(_Candidate(f"key file {path}", file.public, partial(self._decrypt, file)))
        return found

    def _decrypt(self, file: KeyFile) -> paramiko.PKey:
        if not file.encrypted:
            return file.load(None)
        if self._settings.password_command:
            try:
                return file.load(self._command_secret())
            except WrongPassphrase:
                if self._prompt is None:
                    raise
        for _ in range(_MAX_QUESTIONS if self._prompt else 0):
            try:
                return file.load(self._ask(f"Passphrase for the key {file.path}: ", echo=False))
            except WrongPassphrase:
                continue
        raise WrongPassphrase("the passphrase is wrong" if self._prompt else "it is encrypted and nobody can be asked")

    # passwords and questions

    def _offer_passwords(self) -> Outcome:
        if self._settings.password_command:
            outcome = self._login.offer_password(self._command_secret())
            self._tried.append("the password of password_command")
            if outcome is not Outcome.REFUSED:
                return outcome
        elif self._prompt is None:
            self._unanswered.append("a password")
        if self._prompt is not None:
            # the server's own questions may be more to the point
            times = 1 if "keyboard-interactive" in self._login.methods else _MAX_QUESTIONS
            for _ in range(times):
                outcome = self._login.offer_password(self._ask(f"{self._resolved.target}'s password: ", echo=False))
                if outcome is not Outcome.REFUSED:
                    return outcome
            self._tried.append("the password that was typed")
        return Outcome.REFUSED

    def _answer_questions(self) -> Outcome:
        self._tried.append("answers to its questions")
        for _ in range(_MAX_QUESTIONS if self._prompt else 1):
            try:
                outcome = self._login.converse(self._answer)
            except _NobodyToAsk:
                return Outcome.REFUSED
            if outcome is not Outcome.REFUSED or "keyboard-interactive" not in self._login.methods:
                return outcome
        return Outcome.REFUSED

    def _answer(self, questions: Questions) -> list[str]:
        answers = []
        introduction = questions.introduction
        for question, echo in questions.prompts:
            if self._settings.password_command and not echo and "password" in question.lower():
                answers.append(self._command_secret())
            elif self._prompt is not None:
                answers.append(self._ask(f"{introduction}\n{question}".lstrip("\n"), echo=echo))
                introduction = ""
            else:
                self._unanswered.append(repr(question.strip()))
                raise _NobodyToAsk
        return answers

    def _ask(self, question: str, *, echo: bool) -> str:
        if self._prompt is None:
            raise _NobodyToAsk
        try:
            return self._prompt(question, echo)
        except EOFError:
            raise AuthenticationFailed(f"the login to {self._resolved.target} was given up: no answer") from None

    def _command_secret(self) -> str:
        if self._secret is None:
            self._secret = run_password_command(self._settings.password_command or "")
        return self._secret

    # failures

    def _failure(self) -> str:
        methods = ", ".join(self._login.methods) or "nothing at all"
        message = f"{self._resolved.target} did not let us in. Tried: {', '.join(self._tried) or 'nothing'}. "
        message += f"The server accepts: {methods}."
        if self._unanswered:
            message += (
                f" It asks for {', '.join(dict.fromkeys(self._unanswered))}, and there is nobody to ask: log in from a "
                "terminal, set password_command, or keep a connection open with `ssh -M` and set transport = openssh."
            )
        return message

    def _closed(self) -> ConnectionFailed:
        said = f" ({self._transport.farewell})" if self._transport.farewell else ""
        if self._tried:
            return AuthenticationFailed(
                f"{self._resolved.target} closed the connection during the login{said}. Tried: "
                f"{', '.join(self._tried)}. Name the right key with keyfile when there are many."
            )
        return ConnectionFailed(f"{self._resolved.target} closed the connection during the login{said}")


def run_password_command(command: str) -> str:
    """Run the user's command on this machine and give what it prints, without the end of the line.

    Parameters
    ----------
    command : str
        Shell text.

    Raises
    ------
    AuthenticationFailed
        It failed.
    """
    try:
        answer = subprocess.run(
            ["/bin/sh", "-c", command],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_COMMAND_TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise AuthenticationFailed(f"password_command gave no password within {_COMMAND_TIMEOUT:g} s") from None
    if answer.returncode:
        raise AuthenticationFailed(f"password_command failed with exit code {answer.returncode}; run it by hand")
    return answer.stdout.decode("utf-8", "surrogateescape").rstrip("\r\n")


def _certificates(resolved: ResolvedHost, settings: SshSettings) -> list[PublicBlob]:
    """Read all certificates that may belong to a key of ours."""
    keys = [settings.keyfile, *resolved.identity_files]
    paths = [settings.certificate, *resolved.certificate_files, *(f"{key}-cert.pub" for key in keys if key)]
    found = []
    for path in dict.fromkeys(os.path.expanduser(path) for path in paths if path):
        try:
            found.append(PublicBlob.from_file(path))
        except (OSError, ValueError) as error:
            if path == settings.certificate:
                raise AuthenticationFailed(f"the certificate {path} can't be read: {error}") from error
    return found


def _certifies(certificate: bytes, public: bytes) -> bool:
    """Tell whether a certificate is for a key: after type and nonce it repeats the key (OpenSSH, PROTOCOL.certkeys)."""
    theirs, ours = Message(certificate), Message(public)
    theirs.get_string()
    theirs.get_string()
    ours.get_string()
    rest = ours.get_remainder()
    return bool(rest) and theirs.get_remainder().startswith(rest)


def _itself(key: AgentKey) -> paramiko.PKey:
    return key


def _agent_name(key: AgentKey) -> str:
    return f"agent key {fingerprint(key.asbytes())}" + (f" ({key.comment})" if key.comment else "")
