"""The cache of inputs in the spool directory: its shell programs, and how their answers are read.

::

    SPOOL/
      cache/sha256/ab/cdef....SIZE.MTIME.MODE    an object, and what it has to look like
      .incoming/TOKEN/NUMBER                     a batch's claim of an object: another link to it
      .incoming/TOKEN/new/NUMBER                 an object that came with the batch

What a batch needs is linked into a directory of its own before anything else is done, so whatever happens to the names
in the cache can't hurt it. What is named in the cache is complete, and is never written to again: an object that does
not look like its name was changed by somebody, and is not used.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import attrs

from ..transport.shell import Completed
from .programs import NO_SPOOL, UNPACKING_FAILED, quote

#: Where objects have their names, and where batches have their claims, below the spool directory.
STORE = "cache/sha256"
INCOMING = ".incoming"

#: Seconds between the signs of life of a program that looks at files, which may take long.
_BEAT = 10

_NAME = "^cache/sha256/[0-9a-f][0-9a-f]/[0-9a-f]+[.][0-9]+[.][0-9]+[.][0-7]+$"

# Objects that nobody else has a link to go, those first whose number of links changed longest ago: a claim changes it.
# Copies take the place of links where there can't be any; they note the time by themselves.
_EVICT = f"""
find {STORE} -type f -exec stat -c '%z %h %s %n' {{}} + | sort | awk -v room="$((quota - missing))" '
  NF == 6 && $6 ~ "{_NAME}" {{ name[++n] = $6; links[n] = $4; size[n] = $5; total += $5 }}
  END {{ for (i = 1; i <= n && total > room; i++) if (links[i] == 1) {{ print name[i]; total -= size[i] }} }}
' | xargs rm -f
find {STORE} -type f -name '.part.*' -mtime +0 -exec rm -f {{}} +
"""


@attrs.frozen
class Wanted:
    """An object as the far side has to know it.

    Parameters
    ----------
    number : int
        Its place among the objects of the batch.
    sha256 : str
        Digest of its content, in hexadecimal digits.
    size : int
        Bytes.
    mtime : int
        Modification time of the local file, in seconds since the epoch.
    mode : int
        Permission bits.
    """

    number: int
    sha256: str
    size: int
    mtime: int
    mode: int

    @property
    def stem(self) -> str:
        """What the names of all objects with this content start with, whenever it was written."""
        return f"{self.sha256[:2]}/{self.sha256[2:]}.{self.size}."

    @property
    def name(self) -> str:
        """The name that it gets in the cache."""
        return f"{self.stem}{self.mtime}.{self.mode:o}"


@attrs.frozen
class Claims:
    """What the far side has, and what it can do.

    Parameters
    ----------
    present : set of int
        Objects that are there, and now held for the batch.
    damaged : tuple of str
        Names in the cache of objects that are not what they were.
    links : bool
        Whether files can have several names there.
    root : bool
        Whether the jobs would run as root.
    """

    present: frozenset[int]
    damaged: tuple[str, ...]
    links: bool
    root: bool


def claim(spool: str, directory: str, wanted: Iterable[Wanted], quota: int) -> str:
    """Make the shell text that claims those of the objects that are there, and makes room for the others.

    Parameters
    ----------
    spool : str
        The spool directory.
    directory : str
        The batch's directory for its claims, below the spool directory.
    wanted : iterable of Wanted
        The objects.
    quota : int
        Bytes that the cache may take.
    """
    listed = "".join(f"{one.number} {one.stem} {one.mode:o} {one.size}\n" for one in wanted)
    return f"""cd {quote(spool)} || exit {NO_SPOOL}
umask 077
mine={directory} quota={quota} missing=0 store=yes
if [ -L {INCOMING} ]; then echo "{INCOMING} is a symbolic link, which is not followed" >&2; exit 1; fi
mkdir -p "$mine" && : > "$mine/probe" || exit 1
# from one directory to another: some file systems can link within a directory only
if ln "$mine/probe" "$mine.probe" 2>/dev/null; then echo links; fi
rm -f "$mine/probe" "$mine.probe"
[ "$(id -u)" != 0 ] || echo root
for directory in {STORE.partition("/")[0]} {STORE}; do
  if [ -L "$directory" ] || ! {{ [ -d "$directory" ] || mkdir -p "$directory"; }}; then store=; fi
done
while IFS=' ' read -r number stem mode size; do
  found=
  for file in {STORE}/"$stem"*".$mode"; do
    [ -n "$store" ] && [ -f "$file" ] && [ ! -L "$file" ] && [ ! -L "${{file%/*}}" ] || continue
    if {{ ln "$file" "$mine/$number" || {{ cp -p "$file" "$mine/$number" && touch -a "$file"; }}; }} 2>/dev/null; then
      found=${{file##*/}}
      break
    fi
    rm -f "$mine/$number"
  done
  if [ -n "$found" ]; then echo "claim $number $found"; else missing=$((missing + size)); fi
done <<'.'
{listed}.
find "$mine" -type f -exec stat -c 'facts %n %s.%Y.%a' {{}} +
for old in {INCOMING}/* {INCOMING}/.[!.]*; do
  # what nothing was written to for a day belongs to a client that was ended
  [ ! -e "$old" ] || [ "$old" = "$mine" ] || [ -n "$(find "$old" -mtime -1 | head -n 1)" ] || rm -rf "./$old"
done
[ -n "$store" ] && [ "$missing" -gt 0 ] || exit 0
{_EVICT}
exit 0
"""


def take_in(spool: str, upload: str, place: str) -> str:
    """Make the shell text that moves a file that was sent by itself to where the batch's objects are.

    Parameters
    ----------
    spool, upload : str
        The spool directory, and the file.
    place : str
        Where it belongs, below the spool directory.
    """
    directory = place.rpartition("/")[0]
    return f"cd {quote(spool)} && mkdir -p {quote(directory)} && mv -f {quote(upload)} {quote(place)}"


def parse_claim(answer: Completed, wanted: Iterable[Wanted]) -> Claims:
    """Read the answer of `claim`.

    Parameters
    ----------
    answer : Completed
        The answer.
    wanted : iterable of Wanted
        The objects that were asked for.
    """
    claimed: dict[str, str] = {}
    facts: dict[str, str] = {}
    words: set[str] = set()
    for line in answer.out.split("\n"):
        word, _, rest = line.partition(" ")
        first, _, second = rest.partition(" ")
        if word == "claim":
            claimed[first] = second
        elif word == "facts":
            facts[first.rpartition("/")[2]] = second
        else:
            words.add(line)
    present, damaged = set(), []
    for one in wanted:
        name = claimed.get(str(one.number))
        if name is not None and name == f"{one.sha256[2:]}.{facts.get(str(one.number))}":
            present.add(one.number)
        elif name is not None:
            damaged.append(f"{one.sha256[:2]}/{name}")
    return Claims(frozenset(present), tuple(damaged), "links" in words, "root" in words)


def arrive(
    directory: str, new: Sequence[Wanted], *, damaged: Iterable[str] = (), kept: Iterable[Wanted], put: str = ""
) -> str:
    """Make the shell text that checks the objects that came, names them in the cache, and puts them into sandboxes.

    Parameters
    ----------
    directory : str
        The batch's directory, below the spool directory, in which the shell is.
    new : sequence of Wanted
        What came.
    damaged : iterable of str
        Names in the cache to remove.
    kept : iterable of Wanted
        Those of the new ones that get a name in the cache.
    put : str
        Shell text that puts an object into a sandbox (see `PUT`), where links in the archive have not done so.
    """
    steps = [f'. "./{directory}/places"'] if put else []
    if new:
        steps = ["check || exit 1", "publish", *steps]
    if not steps:
        return f"rm -rf ./{directory}\n"
    return f"""mine={directory}
{_check(directory, new)}
{_publish(damaged, kept)}
{put}
# an empty line now and then shows that this goes on
( trap 'kill "$!"; exit' TERM; while :; do sleep {_BEAT} >/dev/null 2>&1 & wait "$!"; echo; done ) &
beat=$!
( {"; ".join(steps)} )
code=$?
kill "$beat" 2>/dev/null
wait "$beat" 2>/dev/null
rm -rf "./$mine"
[ "$code" = 0 ] || exit {UNPACKING_FAILED}
"""


def _check(directory: str, new: Iterable[Wanted]) -> str:
    sums = "".join(f"{one.sha256}  {directory}/new/{one.number}\n" for one in new)
    sizes = "".join(f"{one.size} {directory}/new/{one.number}\n" for one in new)
    return f"""check() {{
  if command -v sha256sum >/dev/null; then
    sha256sum -c >/dev/null <<'.'
{sums}.
    return
  fi
  while IFS=' ' read -r size file; do
    [ "$(stat -c %s "$file")" = "$size" ] || {{ echo "$file is incomplete" >&2; return 1; }}
  done <<'.'
{sizes}.
}}"""


def _publish(damaged: Iterable[str], kept: Iterable[Wanted]) -> str:
    spoilt = "".join(f"{name}\n" for name in damaged)
    names = "".join(f"{one.number} {one.name}\n" for one in kept)
    return f"""publish() (
  exec 2>/dev/null
  umask 077
  if [ -L {STORE.partition("/")[0]} ] || [ -L {STORE} ]; then exit; fi
  while IFS= read -r name; do rm -f "{STORE}/$name"; done <<'.'
{spoilt}.
  while IFS=' ' read -r number name; do
    file={STORE}/$name shelf={STORE}/${{name%%/*}}
    [ -d "$shelf" ] || mkdir -p "$shelf"
    [ ! -L "$shelf" ] || continue
    # somebody else may have been faster
    ln "$mine/new/$number" "$file" || [ -e "$file" ] || {{
      part=$shelf/.part.${{mine##*/}}
      cp -p "$mine/new/$number" "$part" && mv -f "$part" "$file" || rm -f "$part"
    }}
  done <<'.'
{names}.
)"""


#: How an object is put into a sandbox, one by one. A file can't have any number of names: where it has as many as it
#: may, a copy takes its place.
PUT: Mapping[bool, str] = {
    True: """put() { # number object mode target
    eval "from=\\${from$1:-\\$2}"
    ln -f -- "$from" "$4" 2>/dev/null && return
    rm -f -- "$4"
    cp -p -- "$from" "$4" && eval "from$1=\\$4"
  }""",
    False: """put() { # number object mode target
    rm -f -- "$4"
    cp -p -- "$2" "$4" && chmod "$3" "$4"
  }""",
}


def place(number: int, source: str, mode: int, target: str) -> str:
    """Make the line of shell text that puts an object into a sandbox."""
    return f"put {number} {source} {mode:o} {quote(target)} || exit 1\n"
