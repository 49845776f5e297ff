"""What all LSF commands have in common: options, text, errors, and a server that may be down."""

from __future__ import annotations

import os
import re
import sys
import time

from tests.fakes.model import setting

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from tests.fakes.engine import Engine

#: Whether this is IBM's LSF 10; else it is volclava 2.2, of the same family.
IBM = os.environ.get("FAKE_LSF") == "ibm"
HOST = os.environ.get("FAKE_LSF_HOST") or os.uname().nodename.partition(".")[0]
CLUSTER = "cluster1" if IBM else "volclava"
VERSION = (
    "IBM Spectrum LSF Standard 10.1.0.6, May 25 2018\nCopyright International Business Machines Corp. 1992, 2016."
    if IBM
    else "volclava project 2.2, Nov 20 2026"
)

_USAGES = {
    "bsub": """Usage: bsub [-h] [-V] [-x] [-H] [-r] [-N] [-B] [-I | -K | -Ip | -Is]
\t\t[-L login_shell] [-c cpu_limit[/host_spec]] [-F file_limit]
\t\t[-W run_limit[/host_spec]] [-k chkpnt_dir [chkpnt_period] [method=chkpnt_dir]]
\t\t[-P project_name]\x20
\t\t[-q queue_name ...]  [-R res_req]
\t\t[-m "host_name[+[pref_level]] | host_group[+[pref_level]]...]"
\t\t[-n min_processors[,max_processors]] [-J job_name] [-Jd job_desc]
\t\t[-b begin_time] [-t term_time] [-u mail_user]
\t\t[-i in_file | -is in_file] [-o out_file] [-e err_file]
\t\t[-M mem_limit]  [-D data_limit]  [-S stack_limit]
\t\t[[-f "lfile op [rfile]"] ...] [-w depend_cond]
\t\t[-E "pre_exec_command [argument ...]"] [-Zs]
\t\t[-Ep "post_exec_command [argument ...]"
\t\t[-sp job_priority]
\t\t[-pack job_submission_file]
\t\t[-a additional_esub_information]
\t\tcommand [argument ...]""",
    "bjobs": """Usage: bjobs [-h] [-V] [-w |-l |-UF] [-a] [-d] [-p] [-s] [-r] [-o] [-json] [-A]
             [-m host_name] [-q queue_name] [-u user_name | -u all]
             [-P project_name] [-N host_spec]
             [-J name_spec] [jobId | "jobId[idxList]" ...]""",
    "bkill": """Usage: bkill [-h] [-V] [-l] [-m host_name] [-q queue_name]
               [-u user_name | -u all] [0] [-r | -s sigval] [-J job_name]\x20
               [jobId | "jobId[index_list]"]...""",
    "bstop": """Usage: bstop [-h] [-V]  [-m host_name] [-q queue_name]
               [-u user_name | -u all] [0] [-d] [-a] [-J job_name]\x20
               [jobId | "jobId[index_list]"]...""",
    "bresume": """Usage: bresume [-h] [-V]  [-m host_name] [-q queue_name]
               [-u user_name | -u all] [0] [-J job_name]\x20
               [jobId | "jobId[index_list]"]...""",
}


class Failure(Exception):
    """The command gives up, with this text on standard error."""

    def __init__(self, text: str, code: int = 255) -> None:
        super().__init__(text)
        self.text = text
        self.code = code


class UsageFailure(Failure):
    """The command was called in a wrong way."""

    def __init__(self, command: str, *complaint: str) -> None:
        super().__init__("\n".join([*complaint, _USAGES.get(command, f"Usage: {command} [-h] [-V] ...")]))


class Options:
    """Options and what follows them; of an option given twice, the last one counts."""

    def __init__(self) -> None:
        self.values: dict[str, list[str]] = {}
        self.rest: list[str] = []

    def __contains__(self, name: str) -> bool:
        return name in self.values

    def get(self, name: str) -> str:
        """Give the value of an option, or nothing."""
        return self.values.get(name, [""])[-1]

    def add(self, name: str, value: str = "") -> None:
        self.values.setdefault(name, []).append(value)


def raw(text: str) -> str:
    """Turn text as Python has it into text with a character for each byte."""
    return os.fsencode(text).decode("latin-1")


def real(text: str) -> str:
    """Turn text with a character for each byte into text as Python has it."""
    return os.fsdecode(text.encode("latin-1"))


def parse_words(command: str, words: Sequence[str], takes: Collection[str], flags: Collection[str]) -> Options:
    """Read options as bsub does: whole words first, else a letter with its value behind it."""
    found = Options()
    at = 0
    while at < len(words) and words[at].startswith("-") and len(words[at]) > 1:
        word = words[at][1:]
        at += 1
        if word in flags:
            found.add(word)
        elif word in takes:
            if at == len(words):
                raise UsageFailure(command, f"{command}: option requires an argument -- {word}")
            found.add(word, words[at])
            at += 1
        elif word[0] in takes:
            found.add(word[0], word[1:])
        elif word[0] in flags:
            raise UsageFailure(command, f"{command}: option cannot have an argument -- {word[0]}")
        else:
            raise UsageFailure(command, f"{command}: illegal option -- {word}")
    found.rest = list(words[at:])
    return found


def parse_letters(command: str, words: Sequence[str], takes: str, flags: str, whole: Collection[str] = ()) -> Options:
    """Read options as getopt does: letters may be joined, and options may follow ids."""
    found = Options()
    queue = list(words)
    while queue:
        word = queue.pop(0)
        if not word.startswith("-") or word == "-":
            found.rest.append(word)
            continue
        letters = "" if word[1:] in whole else word[1:]
        if not letters:
            found.add(word[1:])
        while letters:
            letter, letters = letters[0], letters[1:]
            if letter in takes and not (letters or queue):
                raise UsageFailure(command, f"{command}: option requires an argument -- '{letter}'")
            if letter in takes:
                found.add(letter, letters or queue.pop(0))
                letters = ""
            elif letter in flags:
                found.add(letter)
            else:
                raise UsageFailure(command, f"{command}: invalid option -- '{letter}'")
    if "h" in found:
        raise UsageFailure(command)
    if "V" in found:
        # by its manual, IBM's LSF says it on standard error
        print(VERSION, file=sys.stderr if IBM else sys.stdout)
        raise SystemExit(0)
    return found


def parse_id(word: str) -> tuple[int, list[int]]:
    """Take a job id apart: number and, when there are any, indices."""
    match = re.fullmatch(r"(\d+)(?:\[([\d,:-]+)\])?", word)
    if match is None:
        raise Failure(f"{word}: Illegal job ID.")
    return int(match[1]), parse_indices(match[2]) if match[2] else []


def parse_indices(text: str) -> list[int]:
    """Read ``1-10:4,20``; what is no list of indices gives none."""
    found: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"(\d+)(?:-(\d+)(?::(\d+))?)?", part)
        if match is None or int(match[1]) == 0:
            return []
        found += range(int(match[1]), int(match[2] or match[1]) + 1, int(match[3] or 1) or 1)
    return sorted(set(found))


def tries_left(tries: int) -> bool:
    """Tell whether a client tries once more: without LSB_NTRIES it does so for ever."""
    most = os.environ.get("LSB_NTRIES", "")
    return not most.isdigit() or tries < int(most)


def pause() -> None:
    """Wait as long as clients do between two tries: ``FAKE_LSF_RETRY`` seconds, in truth 10."""
    sys.stderr.flush()
    time.sleep(setting("FAKE_LSF_RETRY", 10))


def connect(system: Engine) -> None:
    """Wait for the server, as long as its clients do; ``lim-down`` is a switch beside ``down``."""
    tries = 0
    while (lim := system.switch("lim-down")) or not system.reachable():
        tries += 1
        if not tries_left(tries):
            raise Failure(
                "Failed in an LSF library call: LIM is down; try later" if lim else "Connection refused by server"
            )
        if IBM:
            print("LSF is down. Please wait ..." if lim else "Cannot connect to LSF. Please wait ...", flush=True)
        else:
            who = "LSF daemon (LIM)" if lim else "batch system daemon"
            print(f"{who} not responding ... still trying", file=sys.stderr)
        pause()
