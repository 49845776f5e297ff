"""The programs that run on a frontend, run by real shells, and how their answers are read."""

from __future__ import annotations

import io
import os
import shlex
import shutil
import subprocess
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from batchlib import sandbox
from batchlib.application import Application
from batchlib.backends import programs
from batchlib.errors import ConnectionLost, InvalidValue
from batchlib.transport.archive import Entry, pack
from batchlib.transport.shell import Completed

SHELLS = [shell for shell in ("/bin/dash", "/bin/bash") if shutil.which(shell)]

texts = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=40)


@pytest.fixture(params=SHELLS)
def shell(request: pytest.FixtureRequest) -> str:
    """Each shell that may run our programs."""
    return str(request.param)


def run(shell: str, text: str, data: bytes = b"", **variables: str) -> Completed:
    environment = {"PATH": os.environ["PATH"], "HOME": "/home/me", **variables}
    done = subprocess.run(
        [shell, "-c", text], input=data, capture_output=True, env=environment, check=False, timeout=60
    )
    return Completed(done.returncode, done.stdout, done.stderr)


# --- words --------------------------------------------------------------------------------------------------------


@settings(max_examples=25)
@given(words=st.lists(texts, min_size=1, max_size=8))
@example(words=["", "'", "\\", "\n.\n", "$x", "`id`", "~", "*", "é\udcff".encode("utf-8", "replace").decode()])
def test_quoted_words_are_read_back_as_they_were(shell: str, words: list[str]) -> None:
    text = f"printf '%s\\0' {' '.join(map(programs.quote, words))}"
    assert run(shell, text).stdout == b"".join(word.encode() + b"\0" for word in words)


@pytest.mark.parametrize(
    ("path", "meaning"),
    [
        ("~", "/home/me"),
        ("~/a b", "/home/me/a b"),
        ("$HOME/x", "/home/me/x"),
        ("${HOME}x", "/home/mex"),
        ("/scratch/$USER/$EMPTY/'q'", "/scratch/me too//'q'"),
        ("$USER", "me too"),
        ("/a/~", "/a/~"),
        ("~other/x", "~other/x"),
        ("$(id)", "$(id)"),
        ("`id`$", "`id`$"),
        ("${HOME:-x}", "${HOME:-x}"),
        ("$1", "$1"),
        ("\\$HOME", "\\/home/me"),
        ("a;b", "a;b"),
        ("*", "*"),
        ("$EVIL", "$(touch evil); *"),
    ],
)
def test_paths_in_which_only_variables_are_expanded(shell: str, path: str, meaning: str) -> None:
    text = f"cd /tmp && printf '%s' {programs.expand(path)}"
    assert run(shell, text, USER="me too", EMPTY="", EVIL="$(touch evil); *").out == meaning


@settings(max_examples=25)
@given(path=texts.filter(lambda text: text))
def test_no_path_is_taken_for_more_than_a_path(shell: str, path: str) -> None:
    got = run(shell, f"printf '%s|' {programs.expand(path)}", A="", B="").out
    assert got.endswith("|")
    if "$" not in path and not path.startswith("~"):
        assert got == path + "|"


# --- several programs in one --------------------------------------------------------------------------------------


def sections(**asked: str) -> programs.Sections:
    made = programs.Sections()
    for name, program in asked.items():
        made.add(name, program)
    return made


def test_answers_are_told_apart(shell: str) -> None:
    made = sections(
        one="echo out; echo err >&2; exit 3",
        two="cat; cd /; x=1",
        three="printf 'no newline'; echo \"${x:-unset}\"; kill -9 $$ 2>/dev/null || :",
    )
    made.text = made.text.replace("kill -9 $$ 2>/dev/null || :", ":")
    found = made.split(run(shell, made.text))
    assert list(found) == ["one", "two", "three"]
    assert (found["one"].exitcode, found["one"].out, found["one"].err) == (3, "out\n", "err\n")
    assert (found["two"].exitcode, found["two"].out) == (0, "")
    assert found["three"].out == "no newlineunset\n"


def test_what_did_not_come_to_its_end_is_no_answer(shell: str) -> None:
    made = sections(one="echo out", two="kill -9 $$", three="echo never")
    found = made.split(run(shell, made.text))
    assert list(found) == ["one"]
    with pytest.raises(ConnectionLost):
        programs.section(found, "two")
    assert programs.section(found, "one").out == "out\n"


def test_text_that_imitates_marks_is_text(shell: str) -> None:
    other = programs.Sections().mark
    imitation = f"\n{other} one 0\n\n{other[:-1]} two 0\n{'f' * 24} one 0\n one 0\n"
    made = sections(one=f"printf '%s' {shlex.quote(imitation)}; printf '%s' {shlex.quote(imitation)} >&2; exit 5")
    found = made.split(run(shell, made.text))
    assert (found["one"].exitcode, found["one"].out, found["one"].err) == (5, imitation, imitation)


@given(st.binary(), st.binary(), st.integers(0, 3), st.integers(0, 3))
def test_no_bytes_break_the_splitting(out: bytes, err: bytes, before: int, after: int) -> None:
    made = sections(one="")
    mark = made.mark.encode()
    for text in (
        out,
        b"\n" + mark + b" " + out,
        out * before + b"\n" + mark + b" one " + b"9" * 5000 + b"\n" + out * after,
    ):
        for name, answer in made.split(Completed(0, text, err)).items():
            assert isinstance(name, str)
            assert answer.exitcode >= 0


# --- submission ---------------------------------------------------------------------------------------------------


class Frontend:
    """A spool directory, and a submit command that does as it is told."""

    def __init__(self, directory: Path, shell: str) -> None:
        self.shell = shell
        self.spool = directory / "spo ol'"
        self.spool.mkdir()
        self.command = directory / "submit"
        self.calls = directory / "calls"
        self.calls.touch()

    def behave(self, text: str) -> None:
        self.command.write_text(f'#!/bin/sh\necho "$PWD $*" >> {shlex.quote(str(self.calls))}\n{text}\n')
        self.command.chmod(0o755)

    def submit(
        self,
        tokens: Sequence[str],
        outer: str = "",
        kept: str = "",
        prelude: str = "",
        at_a_time: int = 1,
        a_second: int | None = None,
        **variables: str,
    ) -> dict[str, Completed]:
        made = programs.submit(
            str(self.spool),
            [(token, f"{self.command} --name 'a  b'") for token in tokens],
            outer=outer,
            kept=kept,
            give_up=["down for now", 'it\'s "late"'],
            prelude=prelude,
            at_a_time=at_a_time,
            a_second=a_second,
        )
        answer = run(self.shell, made.text, self.sandboxes(tokens), **variables)
        assert answer.exitcode == 0, answer.err
        found = made.split(answer)
        assert programs.all_told(found)
        loops = min(at_a_time, a_second or at_a_time, len(tokens))
        signs = found.pop(f"loops.{loops}")
        for number in range(loops):
            del found[f"loop.{number}"]
        # a sign of life for each that was asked, before all answers
        assert signs.out == "." * len(found)
        return found

    @staticmethod
    def sandboxes(tokens: Sequence[str]) -> bytes:
        entries = [entry for token in tokens for entry in sandbox.root_entries(token, f"script of {token}")]
        return b"".join(pack(entries))

    def kept(self) -> set[str]:
        return {path.name for path in self.spool.iterdir()}


@pytest.fixture
def frontend(tmp_path: Path, shell: str) -> Frontend:
    """A frontend whose programs are run by each shell."""
    return Frontend(tmp_path, shell)


def new_tokens(count: int) -> list[str]:
    return [sandbox.new_token() for _ in range(count)]


def test_each_job_is_submitted_from_its_sandbox(frontend: Frontend) -> None:
    frontend.behave('cat; n=$(wc -l < "${0%/*}/calls"); echo "Welcome!"; echo "job $n"; echo noise >&2')
    tokens = new_tokens(3)
    found = frontend.submit(tokens)
    assert [found[token].out for token in tokens] == [f"Welcome!\njob {number}\n" for number in (1, 2, 3)]
    assert {answer.err for answer in found.values()} == {"noise\n"}
    calls = frontend.calls.read_text().splitlines()
    assert calls == [f"{frontend.spool}/{token} --name a  b .batchlib/script" for token in tokens]
    for number, token in enumerate(tokens, 1):
        own = frontend.spool / token / ".batchlib"
        assert (own / "script").read_text() == f"script of {token}"
        assert (own / "answer").read_text() == f"0\nWelcome!\njob {number}\n"


def test_a_refused_job_leaves_no_sandbox_and_spoils_no_neighbour(frontend: Frontend) -> None:
    tokens = new_tokens(3)
    frontend.behave(f'case $PWD in *{tokens[1]}) echo "no such queue" >&2; exit 1 ;; esac; echo job')
    found = frontend.submit(tokens)
    assert [found[token].exitcode for token in tokens] == [0, 1, 0]
    assert found[tokens[1]].err == "no such queue\n"
    assert frontend.kept() == {tokens[0], tokens[2]}


@pytest.mark.parametrize("said", ["down for now", 'it\'s "late"'])
def test_the_program_stops_where_asking_on_is_of_no_use(frontend: Frontend, said: str) -> None:
    tokens = new_tokens(4)
    frontend.behave(
        f'case $PWD in *{tokens[1]}) printf "%s\\n" {shlex.quote("x " + said + " y")} >&2; exit 1 ;; esac; echo job'
    )
    found = frontend.submit(tokens)
    assert list(found) == tokens[:2]
    assert len(frontend.calls.read_text().splitlines()) == 2
    # nobody was asked about the others, and so nothing is left of them
    assert frontend.kept() <= set(tokens[:2])


def test_several_at_a_time_spoil_no_answer(frontend: Frontend) -> None:
    # long enough for what is written to a pipe in one go to be cut
    frontend.behave('i=0; while [ $i -lt 400 ]; do echo "${PWD##*/} $i"; i=$((i + 1)); done; echo "err ${PWD##*/}" >&2')
    tokens = new_tokens(11)
    found = frontend.submit(tokens, at_a_time=4)
    for token in tokens:
        said = "".join(f"{token} {number}\n" for number in range(400))
        assert (found[token].exitcode, found[token].out, found[token].err) == (0, said, f"err {token}\n")
        assert (frontend.spool / token / ".batchlib/answer").read_text() == f"0\n{said}"
    assert frontend.kept() == set(tokens)


@pytest.mark.parametrize("loss", ["rm -f ../.asking.*.1.out", "rm -f ../.asking.*.1.err"])
def test_answers_that_were_lost_are_missed(frontend: Frontend, loss: str) -> None:
    tokens = new_tokens(4)
    frontend.behave(f"case $PWD in *{tokens[1]}) {loss} ;; esac; echo job")
    jobs = [(token, str(frontend.command)) for token in tokens]
    made = programs.submit(str(frontend.spool), jobs, outer="", kept="", give_up=[], at_a_time=2)
    found = made.split(run(frontend.shell, made.text, frontend.sandboxes(tokens)))
    assert {tokens[0], tokens[2]} <= set(found)
    assert tokens[1] not in found
    assert not programs.all_told(found)


def test_as_many_as_allowed_are_asked_for_at_a_time(frontend: Frontend) -> None:
    # each waits until four have come: with fewer at a time the first ones would wait in vain
    frontend.behave(
        'echo >> "${0%/*}/here"; i=0; while [ $(wc -l < "${0%/*}/here") -lt 4 ] && [ $i -lt 500 ]; do '
        "i=$((i + 1)); sleep 0.02; done; echo $i"
    )
    found = frontend.submit(new_tokens(4), at_a_time=4)
    assert all(int(answer.out) < 500 for answer in found.values())


def test_of_several_at_a_time_all_stop_where_asking_on_is_of_no_use(frontend: Frontend) -> None:
    tokens = new_tokens(40)
    frontend.behave("echo down for now >&2; exit 1")
    found = frontend.submit(tokens, at_a_time=4)
    assert 1 <= len(found) <= 4
    assert len(frontend.calls.read_text().splitlines()) == len(found)
    assert frontend.kept() == set()


def test_no_more_are_asked_for_in_a_second_than_allowed(frontend: Frontend, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/sleep").write_text(f'#!/bin/sh\necho "sleep $*" >> {shlex.quote(str(frontend.calls))}\n')
    (tmp_path / "bin/sleep").chmod(0o755)
    frontend.behave("echo job")
    found = frontend.submit(new_tokens(7), a_second=3, PATH=f"{tmp_path}/bin:{os.environ['PATH']}")
    assert len(found) == 7
    calls = [line.split()[0] == "sleep" for line in frontend.calls.read_text().splitlines()]
    assert calls == [False, False, True, False, False, False, True, False, False]


@pytest.mark.parametrize("end", ["kill -TERM $$", "kill -9 $$", "echo job; exit 3"])
def test_where_the_job_may_have_been_accepted_its_sandbox_stays(frontend: Frontend, end: str) -> None:
    [token] = new_tokens(1)
    frontend.behave(end)
    found = frontend.submit([token])
    assert found[token].exitcode != 0
    assert frontend.kept() == {token}


def test_variables_of_an_outer_job_do_not_reach_the_new_one(frontend: Frontend) -> None:
    frontend.behave("env")
    [token] = new_tokens(1)
    variables = {"OUT_ID": "7", "OUT_CONF": "/etc/x", "OTHER": "OUT_X=1\nOUT_Y=2", "OUT_MULTI": "a\nHOME=x"}
    found = frontend.submit([token], outer="OUT_*|XX_*", kept="OUT_CONF|OUT_NONE", **variables)
    lines = found[token].out.splitlines()
    assert "OUT_CONF=/etc/x" in lines
    assert not [line for line in lines if line.startswith(("OUT_ID", "OUT_MULTI"))]
    assert "OTHER=OUT_X=1" in lines
    assert "HOME=/home/me" in lines


def test_the_prelude_runs_once(frontend: Frontend) -> None:
    frontend.behave('echo "$SET"')
    tokens = new_tokens(2)
    found = frontend.submit(tokens, prelude=f"echo prelude >> {shlex.quote(str(frontend.calls))}; export SET=yes")
    assert {found[token].out for token in tokens} == {"yes\n"}
    assert frontend.calls.read_text().splitlines().count("prelude") == 1


def test_inputs_that_can_not_be_unpacked_submit_nothing(frontend: Frontend) -> None:
    frontend.behave("echo job")
    [token] = new_tokens(1)
    made = programs.submit(str(frontend.spool), [(token, str(frontend.command))], outer="", kept="", give_up=[])
    cut = frontend.sandboxes([token])[:1540]
    assert run(frontend.shell, made.text, cut).exitcode == programs.UNPACKING_FAILED
    assert run(frontend.shell, made.text.replace("spo ol", "missing")).exitcode == programs.NO_SPOOL
    assert frontend.calls.read_text() == ""


def test_only_our_own_names_are_ever_submitted_or_removed() -> None:
    for evil in ("../x", "", "b" * 15, "b" * 17, "bbbbbbbbbbbbbbb\n", "; rm -rf /", "b/../../bbbbbbbbbbb", "."):
        for make in (
            lambda token: programs.recover("/spool", [token]),
            lambda token: programs.abandon("/spool", [token]),
            lambda token: sandbox.remove_program("/spool", [token]),
            lambda token: sandbox.status_program("/spool", [token]),
            lambda token: programs.submit("/spool", [(token, "x")], outer="", kept="", give_up=[]),
        ):
            with pytest.raises(InvalidValue, match="no name of a sandbox"):
                make(evil)


# --- recovery -----------------------------------------------------------------------------------------------------


def traces(frontend: Frontend, tokens: Sequence[str]) -> dict[str, programs.Trace]:
    return programs.parse_recover(run(frontend.shell, programs.recover(str(frontend.spool), tokens)))


def test_what_a_sandbox_tells_of_its_submission(frontend: Frontend) -> None:
    frontend.behave("echo hello; echo @evil; echo job 12")
    accepted, unasked, started, missing = new_tokens(4)
    frontend.submit([accepted])
    for token in (unasked, started):
        (frontend.spool / token / ".batchlib").mkdir(parents=True)
    (frontend.spool / started / ".batchlib/owner").write_text("34.big\n")
    found = traces(frontend, [accepted, unasked, started, missing])
    assert set(found) == {accepted, unasked, started}
    assert found[accepted].asked
    assert not found[accepted].submitter_alive
    assert (found[accepted].exitcode, found[accepted].answer) == (0, "hello\n@evil\njob 12")
    assert found[accepted].age >= 0
    assert found[unasked] == programs.Trace()
    assert found[started].owner == "34.big"


def test_a_submission_that_still_runs_is_seen(frontend: Frontend) -> None:
    [token] = new_tokens(1)
    own = frontend.spool / token / ".batchlib"
    own.mkdir(parents=True)
    (own / "asked").write_text(f"{os.getpid()} {os.uname().nodename}\n")
    assert traces(frontend, [token])[token].submitter_alive
    for other in (f"{os.getpid()} elsewhere\n", "999999999 x\n", "\n", "", f"x {os.uname().nodename}\n"):
        (own / "asked").write_text(other)
        found = traces(frontend, [token])[token]
        assert (found.asked, found.submitter_alive) == (True, False)


def test_a_submission_is_alive_for_as_long_as_the_process_that_asks(frontend: Frontend) -> None:
    frontend.behave("exit 0")
    [token] = new_tokens(1)
    # through a shell that lives on after the submission, as a connection's does
    made = programs.submit(str(frontend.spool), [(token, str(frontend.command))], outer="", kept="", give_up=[])
    look = programs.recover(str(frontend.spool), [token])
    text = f"( {made.text} ) >/dev/null 2>&1\n{look}"
    found = programs.parse_recover(run(frontend.shell, text, frontend.sandboxes([token])))[token]
    assert (found.asked, found.submitter_alive) == (True, False)
    [token] = new_tokens(1)
    frontend.behave(f"{frontend.shell} -c {shlex.quote(programs.recover(str(frontend.spool), [token]))}")
    asked = frontend.submit([token])[token]
    assert programs.parse_recover(asked)[token].submitter_alive


def test_what_a_program_left_that_was_cut_off_is_removed_after_a_while(frontend: Frontend) -> None:
    old, new = (frontend.spool / f".asking.{name}" for name in ("old.0.out", "new.0.out"))
    for path in (old, new):
        path.touch()
    os.utime(old, (1, 1))
    [token] = new_tokens(1)
    (frontend.spool / token / ".batchlib").mkdir(parents=True)
    (frontend.spool / token / ".asking.of the user").touch()
    os.utime(frontend.spool / token / ".asking.of the user", (1, 1))
    traces(frontend, [token])
    assert frontend.kept() == {new.name, token}
    assert (frontend.spool / token / ".asking.of the user").exists()


def test_a_spool_directory_that_is_gone_proves_nothing(frontend: Frontend) -> None:
    frontend.spool.rmdir()
    with pytest.raises(ConnectionLost):
        traces(frontend, new_tokens(1))


@pytest.mark.parametrize(
    ("text", "trace"),
    [
        ("code=0\nanswer=job", programs.Trace(exitcode=0, answer="job")),
        ("code=²", programs.Trace()),
        ("code=", programs.Trace()),
        ("code=" + "9" * 5000, programs.Trace()),
        ("code=x\nage=-7", programs.Trace(asked=True)),
        ("age=" + "9" * 5000, programs.Trace(asked=True)),
        ("owner=abandoned\nage=7\nalive=yes", programs.Trace(submitter_alive=True, age=7.0)),
        ("answer=a\x0bowner=evil\nanswer=\u2028code=0", programs.Trace(answer="a\x0bowner=evil\n\u2028code=0")),
    ],
)
def test_traces_are_never_read_as_more_than_they_say(text: str, trace: programs.Trace) -> None:
    assert programs.parse_recover(Completed(0, f"@token\n{text}\n".encode(), b"")) == {"token": trace}


@given(st.text(), st.integers(0, 5))
def test_no_text_breaks_the_reading_of_traces(text: str, code: int) -> None:
    try:
        found = programs.parse_recover(Completed(code, text.encode("utf-8", "surrogateescape"), b""))
    except ConnectionLost:
        assert code
        return
    assert all(trace.age >= 0 for trace in found.values())


def test_a_sandbox_is_given_up_unless_its_job_has_started(frontend: Frontend) -> None:
    free, started, missing = new_tokens(3)
    for token in (free, started):
        (frontend.spool / token / ".batchlib").mkdir(parents=True)
    (frontend.spool / started / ".batchlib/owner").write_text("34\n")
    program = programs.abandon(str(frontend.spool), [free, started, missing])
    assert programs.parse_abandon(run(frontend.shell, program)) == {free, missing}
    assert frontend.kept() == {started}


def test_giving_up_can_be_tried_again(frontend: Frontend) -> None:
    [token] = new_tokens(1)
    own = frontend.spool / token / ".batchlib"
    own.mkdir(parents=True)
    # it was given up before, but could not be removed then
    (own / "owner").write_text("abandoned\n")
    (own / "asked").write_text("1 x\n")
    trace = traces(frontend, [token])[token]
    assert (trace.owner, trace.asked) == ("", False)
    assert programs.parse_abandon(run(frontend.shell, programs.abandon(str(frontend.spool), [token]))) == {token}
    assert frontend.kept() == set()


# --- the spool directory ------------------------------------------------------------------------------------------


def test_the_spool_directory_is_made_and_private(tmp_path: Path, shell: str) -> None:
    path = tmp_path / "a b" / "$(x)"
    answer = run(shell, programs.greet(f"{tmp_path}/a b/$(x)"))
    found = dict(line.split("=", 1) for line in answer.out.splitlines())
    assert answer.exitcode == 0, answer.err
    assert found["spool"] == str(path)
    assert found["uid"] == str(os.getuid())
    assert path.stat().st_mode & 0o777 == 0o700
    assert list(path.iterdir()) == []


def test_a_spool_directory_that_can_not_be_made_is_an_error(tmp_path: Path, shell: str) -> None:
    (tmp_path / "file").touch()
    answer = run(shell, programs.greet(f"{tmp_path}/file/spool"))
    assert answer.exitcode == 1
    assert answer.err


def test_outputs_that_exist_are_sent(tmp_path: Path, shell: str) -> None:
    (tmp_path / "b1").mkdir()
    (tmp_path / "b1/a b").write_text("1")
    answer = run(shell, programs.collect(str(tmp_path), ["b1/a b", "b1/missing"]))
    assert b"a b" in answer.stdout
    assert "missing" in answer.err
    assert run(shell, programs.collect(str(tmp_path / "gone"), ["x"])).exitcode == programs.NO_SPOOL


def members(archive: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as found:
        contents = {one.name: found.extractfile(one) for one in found}
        return {os.path.normpath(name): file.read() if file else b"" for name, file in contents.items()}


def test_small_outputs_are_sent_as_large_ones_would_be(tmp_path: Path, shell: str) -> None:
    (tmp_path / "b1/tree").mkdir(parents=True)
    (tmp_path / "b1/a b").write_text("1")
    (tmp_path / "b1/tree/-x").write_text("2")
    names = ["b1/a b", "b1/missing", "b1/tree"]
    small = run(shell, programs.collect_small(str(tmp_path), names, 1 << 20))
    assert small.exitcode == 0
    large = run(shell, programs.collect(str(tmp_path), names))
    assert members(small.stdout) == members(large.stdout) == {"b1/a b": b"1", "b1/tree": b"", "b1/tree/-x": b"2"}
    assert run(shell, programs.collect_small(str(tmp_path / "gone"), names, 1)).exitcode == programs.NO_SPOOL


def test_large_outputs_are_not_sent_as_small_ones(tmp_path: Path, shell: str) -> None:
    (tmp_path / "large").write_bytes(b"x" * (200 << 10))
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/large").write_bytes(b"x" * (200 << 10))
    for name in ("large", "tree"):
        answer = run(shell, programs.collect_small(str(tmp_path), [name], 100 << 10))
        assert (answer.exitcode, answer.stdout) == (programs.TOO_LARGE, b"")
    # a file with a hole takes no room, and is large all the same
    with (tmp_path / "hole").open("wb") as file:
        file.truncate(64 << 20)
    answer = run(shell, programs.collect_small(str(tmp_path), ["hole"], 100 << 10))
    assert len(answer.stdout) == (100 << 10) + 1


def test_entries_carry_the_script_as_it_is() -> None:
    script = "#!/bin/sh\n\udcff"
    [entry] = [entry for entry in sandbox.root_entries("b" * 16, script) if entry.name.endswith("script")]
    assert entry == Entry(f"{'b' * 16}/.batchlib/script", b"#!/bin/sh\n\xff", 0o700)
    assert list(sandbox.input_entries(Application("true"), "b" * 16)) == []
