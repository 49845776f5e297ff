"""The shell programs that run on a frontend, and how their answers are read.

Each does its work for any number of jobs. They hold nothing of a user's that is not quoted.
"""

from __future__ import annotations

import re
import secrets
import shlex
from collections.abc import Iterable, Mapping, Sequence

import attrs

from ..application import RESERVED
from ..errors import ConnectionLost
from ..quantity import whole_number
from ..sandbox import lines
from ..transport import trees
from ..transport.shell import Completed

quote = shlex.quote

#: Answers in English, times in UTC: for everything but submissions, whose environment jobs inherit.
CLEAN = "export LC_ALL=C TZ=UTC\n"
#: Exit codes of our own programs, apart from those of the tools.
NO_SPOOL = 96
UNPACKING_FAILED = 97
TOO_LARGE = 98

#: What a shell says of a submit command that died of a signal: it may have been done with asking.
KILLED = tuple(128 + signal for signal in (1, 2, 6, 9, 11, 13, 15))

#: Stands for the owner of a sandbox whose job shall never start: see `abandon`.
_ABANDONED = "abandoned"

#: Start of the names of files in the spool directory that are there while a program submits.
_NOTES = ".asking."

_VARIABLE = re.compile(r"\$(?:\{([A-Za-z_]\w*)\}|([A-Za-z_]\w*))")


class Sections:
    """Several programs in one, whose answers can be told apart by a mark made for this occasion."""

    def __init__(self) -> None:
        self.mark = secrets.token_hex(12)
        self.text = ""

    def add(self, name: str, program: str) -> None:
        """Add a program; what it sets or changes does not reach the next one."""
        self.text += f"(\n{program}\n) </dev/null\n{self.end(quote(name), '$?')}\n"

    def end(self, name: str, code: str) -> str:
        """Make the shell text that ends a section, given shell words for its name and exit code."""
        mark = f"{self.mark} %s"
        return f"printf '\\n{mark} %s\\n' {name} {code}; printf '\\n{mark}\\n' {name} >&2"

    def split(self, answer: Completed) -> dict[str, Completed]:
        """Take the answers apart; sections that did not come to their end are left out."""
        mark = re.escape(self.mark.encode())
        errors = _cut(rb"\n" + mark + rb" ([^\n]*)\n", answer.stderr)
        found = {}
        for (name, code), out in _cut(rb"\n" + mark + rb" ([!-~]+) (\d{1,3})\n", answer.stdout).items():
            if (name,) in errors:
                found[name.decode()] = Completed(int(code), out, errors[name,])
        return found


def _cut(pattern: bytes, text: bytes) -> dict[tuple[bytes, ...], bytes]:
    """Map the groups of each end mark to what stood before it."""
    found = {}
    start = 0
    for match in re.finditer(pattern, text):
        found[tuple(match.groups())] = text[start : match.start()]
        start = match.end()
    return found


def section(parts: dict[str, Completed], name: str) -> Completed:
    """Give one section's answer.

    Raises
    ------
    ConnectionLost
        It is not there, so the program was ended before its time.
    """
    if name not in parts:
        raise ConnectionLost("the program on the frontend was ended before its time")
    return parts[name]


def expand(path: str) -> str:
    """Make a shell word of a path in which ``~`` and plain variables, and nothing else, are expanded."""
    if path == "~" or path.startswith("~/"):
        path = "$HOME" + path[1:]
    word, at = "", 0
    for match in _VARIABLE.finditer(path):
        word += _literal(path[at : match.start()]) + f'"${{{match[1] or match[2]}}}"'
        at = match.end()
    return word + _literal(path[at:])


def _literal(text: str) -> str:
    return quote(text) if text else ""


def greet(spooldir: str) -> str:
    """Make the spool directory, see that it can be written, and tell who and where we are."""
    return f"""umask 077
spool={expand(spooldir)}
mkdir -p -- "$spool" && cd -- "$spool" && spool=$(pwd -P) && : > ".probe.$$" && rm -f ".probe.$$" || exit 1
chmod 700 . 2>/dev/null
printf 'spool=%s\\nuser=%s\\nuid=%s\\ntime=%s\\n' "$spool" "$(id -un)" "$(id -u)" "$(date +%s)"
"""


def limit(seconds: float) -> str:
    """Make the shell text that sets ``$limit``, which stands before commands that may hang and ends them after a while.

    What is ended so looks as if it had been killed from outside, which it may have been after its work was done.
    """
    return f'limit=; if command -v timeout >/dev/null; then limit="timeout -s KILL {max(1, int(seconds))}"; fi'


def submit(
    spool: str,
    jobs: Iterable[tuple[str, str]],
    *,
    outer: str,
    kept: str,
    give_up: Sequence[str],
    unclear: Sequence[str] = (),
    prelude: str = "",
    limit: str = "limit=",
    unpacked: str = "",
    at_a_time: int = 1,
    a_second: int | None = None,
) -> Sections:
    """Unpack the sandboxes that come on standard input, then submit each.

    Parameters
    ----------
    spool : str
        The spool directory.
    jobs : iterable of (str, str)
        Token and submit command (shell words) of each job.
    outer, kept : str
        Shell patterns: variables of an outer job to unset, and exceptions.
    give_up : sequence of str
        What the submit command says when asking on would be of no use now.
    unclear : sequence of str
        What it says when the job may have been accepted all the same: its sandbox has to stay.
    prelude : str
        Shell text to run before the first submission.
    limit : str
        Shell text that sets ``$limit``, for a submit command that may hang.
    unpacked : str
        Shell text to run after unpacking.
    at_a_time : int
        How many submit commands run at a time.
    a_second : int, optional
        How many are started in a second at most.
    """
    sections = Sections()
    pace = ""
    if a_second is not None:
        at_a_time = min(at_a_time, a_second)
        pace = f"count=$(((count + 1) % {a_second // at_a_time})); [ $count != 0 ] || sleep 1"
    listed = [f"{lines([token]).strip()} {command}\n" for token, command in jobs]
    shares = [share for share in (listed[first::at_a_time] for first in range(at_a_time)) if share]
    sections.text = f"""cd {quote(spool)} || exit {NO_SPOOL}
tar -xpf - || exit {UNPACKING_FAILED}
{unpacked}
{_scrub(outer, kept)}
{prelude}
{limit}
host=$(uname -n)
notes={_NOTES}{sections.mark}
ask() {{ # number
  # the process that asks is this one, whatever $$ says
  asking=$(exec /bin/sh -c 'echo "$PPID"') count=0 asked=0
  while IFS=' ' read -r token command; do
    if [ -e "$notes.stop" ]; then rm -rf "./$token"; continue; fi
    {pace}
    own=$token/{RESERVED}
    printf '%s %s\n' "$asking" "$host" > "$own/asked" || continue
    asked=$((asked + 1))
    answer=$(cd "$token" && eval "$limit $command {RESERVED}/script" 2>"../$notes.$1.said" </dev/null)
    code=$?
    printf '%s\n%s\n' "$code" "$answer" > "$own/answer"
    printf '%s\n' "$answer"
    if [ -s "$notes.$1.said" ]; then cat "$notes.$1.said" >&2; fi
    {sections.end('"$token"', '"$code"')}
    # a sign of life: what is said here is not shown before all have been asked
    printf . >&3
    case $code in 0) continue ;; {"|".join(map(str, KILLED))}) : > "$notes.stop"; continue ;; esac
    case $answer$(cat "$notes.$1.said") in
      {_any_of(unclear)}) : > "$notes.stop"; continue ;;
      {_any_of(give_up)}) : > "$notes.stop" ;;
    esac
    # what told an id may have been accepted all the same
    [ -n "$answer" ] || rm -rf "./$token"
  done
  printf '%s' "$asked"
  {sections.end('"loop.$1"', "0")}
}}
exec 3>&1
{"".join(_share(number, share) for number, share in enumerate(shares))}wait
{sections.end(f"loops.{len(shares)}", "0")}
cat "$notes".*.out
cat "$notes".*.err >&2
rm -f "$notes".*
"""
    return sections


def all_told(parts: Mapping[str, Completed]) -> bool:
    """Tell whether the answers for all that `submit` asked about are there: those that are not may have been lost.

    A file system that is full can swallow some, and so can whoever ends one of the loops.
    """
    loops = [part for name, part in parts.items() if name.startswith("loop.")]
    asked = [whole_number(loop.out) for loop in loops]
    others = len(parts) - len(loops) - 1
    return f"loops.{len(loops)}" in parts and None not in asked and sum(filter(None, asked)) == others


def _share(number: int, jobs: Sequence[str]) -> str:
    """Make the shell text that submits some of the jobs, beside whoever submits others."""
    return f"""ask {number} > "$notes.{number}.out" 2> "$notes.{number}.err" <<'.' &
{"".join(jobs)}.
"""


def _any_of(signs: Sequence[str]) -> str:
    """Make a shell pattern for texts that hold one of these."""
    return "|".join(f"*{quote(sign)}*" for sign in signs) or "''"


def _scrub(outer: str, kept: str) -> str:
    """Unset the variables of an outer job, so that they do not reach the new one."""
    if not outer:
        return ""
    return f"""for name in $(env | sed -n 's/^\\([A-Za-z_][A-Za-z0-9_]*\\)=.*/\\1/p'); do
  case $name in {kept or "''"}) ;; {outer}) unset "$name" ;; esac
done"""


@attrs.frozen
class Trace:
    """What a sandbox tells about the submission of its job.

    Parameters
    ----------
    owner : str
        Native id that the job itself wrote when it started; empty without.
    asked : bool
        Whether the submit command was called.
    submitter_alive : bool
        Whether the program that called it still runs.
    age : float
        Seconds since it was called.
    exitcode : int, optional
        Its exit code, once it ended.
    answer : str
        What it printed.
    """

    owner: str = ""
    asked: bool = False
    submitter_alive: bool = False
    age: float = 0.0
    exitcode: int | None = None
    answer: str = ""


def recover(spool: str, tokens: Iterable[str]) -> str:
    """Look for traces of submissions in sandboxes; what else a program left behind that was cut off is removed."""
    return f"""cd {quote(spool)} || exit {NO_SPOOL}
find . ! -name . \\( ! -name '{_NOTES}*' -o -mtime -1 \\) -prune -o -exec rm -f {{}} +
host=$(uname -n) now=$(date +%s)
while IFS= read -r token; do
  own=$token/{RESERVED}
  [ -d "$own" ] || continue
  printf '@%s\\n' "$token"
  for file in "$own/owner" "$token"/[0-9]*/{RESERVED}/owner; do
    if [ -f "$file" ]; then IFS= read -r line < "$file"; printf 'owner=%s\\n' "$line"; break; fi
  done
  if [ -f "$own/asked" ]; then
    pid= where=
    IFS=' ' read -r pid where < "$own/asked"
    if [ "$where" = "$host" ] && kill -0 "$pid" 2>/dev/null; then echo alive=yes; fi
    printf 'age=%s\\n' "$((now - $(stat -c %Y "$own/asked")))"
  fi
  if [ -f "$own/answer" ]; then
    code=
    {{
      IFS= read -r code
      printf 'code=%s\\n' "$code"
      while IFS= read -r line; do printf 'answer=%s\\n' "$line"; done
    }} < "$own/answer"
  fi
done <<'.'
{lines(tokens)}.
"""


def parse_recover(answer: Completed) -> dict[str, Trace]:
    """Read the answer of `recover`."""
    if answer.exitcode:
        # a spool directory that is not there proves nothing: its file system may not be mounted now
        raise ConnectionLost("the sandboxes could not be looked at")
    found = {}
    for block in ("\n" + answer.out).split("\n@")[1:]:
        token, *rest = block.split("\n")
        pairs = [line.partition("=")[::2] for line in rest]
        fields = dict(pairs)
        given_up = fields.get("owner") == _ABANDONED
        found[token] = Trace(
            owner="" if given_up else fields.get("owner", ""),
            asked="age" in fields and not given_up,
            submitter_alive="alive" in fields,
            age=float(whole_number(fields.get("age")) or 0),
            exitcode=whole_number(fields.get("code")),
            answer="\n".join(value for key, value in pairs if key == "answer"),
        )
    return found


def abandon(spool: str, tokens: Iterable[str]) -> str:
    """Remove sandboxes, unless their jobs have started: taking the place of the owner decides, once and for all."""
    return f"""cd {quote(spool)} || exit {NO_SPOOL}
while IFS= read -r token; do
  own=$token/{RESERVED}
  set -- "$token"/[0-9]*/{RESERVED}/owner
  [ ! -f "$1" ] || continue
  if [ -d "$own" ] && ! ( set -C; echo {_ABANDONED} > "$own/owner" ) 2>/dev/null; then
    IFS= read -r line < "$own/owner" && [ "$line" = {_ABANDONED} ] || continue
  fi
  rm -rf -- "./$token" && printf 'gone %s\\n' "$token"
done <<'.'
{lines(tokens)}.
"""


def parse_abandon(answer: Completed) -> set[str]:
    """Read which sandboxes are gone."""
    return {line.removeprefix("gone ") for line in answer.out.splitlines() if line.startswith("gone ")}


def collect(spool: str, names: Iterable[str]) -> str:
    """Send files, for `trees.fetch` to read; those that do not exist are left out."""
    return f"{CLEAN}cd {quote(spool)} || exit {NO_SPOOL}\n{trees.packing(names)}"


def collect_small(spool: str, names: Iterable[str], size: int) -> str:
    """Send files as an archive, unless they are larger than some bytes together: then the answer is cut off."""
    words = " ".join(map(quote, names))
    return f"""cd {quote(spool)} || exit {NO_SPOOL}
set -- {words}
used=$(du -sk -- "$@" | awk '{{ sum += $1 }} END {{ print sum + 0 }}')
[ "$used" -le {size >> 10} ] || exit {TOO_LARGE}
# what a file holds may be more than the room that it takes
tar -cf - -- "$@" | head -c {size + 1}
"""
