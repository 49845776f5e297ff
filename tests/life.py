"""What tests of jobs on any backend share: waiting for them, and telling how they ended."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import attrs

from batchlib import Application
from batchlib.backends.base import Answer, Outcome
from batchlib.backends.batch import BatchSystem
from batchlib.run import Reason, State

#: Seconds that anything but a walltime limit may take, on a busy machine.
PATIENCE = 60.0

End = tuple[State, Reason | None, int | None, int | None]
DONE: End = (State.DONE, Reason.EXITED, 0, None)


def settle(
    backend: BatchSystem, apps: Sequence[Application], until: Callable[[Application], bool], patience: float = PATIENCE
) -> None:
    """Update states until something holds for all jobs."""
    deadline = time.monotonic() + patience
    while not all(map(until, apps)):
        assert time.monotonic() < deadline, [
            (app.jobname, app.execution.state, app.execution.native_state) for app in apps
        ]
        answers = backend.update_job_states(apps)
        assert not any(answers.values()), answers
        time.sleep(0.1)


def in_state(*states: State) -> Callable[[Application], bool]:
    return lambda app: app.execution.state in states


running = in_state(State.RUNNING)


def ended(app: Application) -> bool:
    return app.execution.state.final


def outcome(app: Application) -> End:
    """Tell how a job ended."""
    run = app.execution
    return run.state, run.reason, run.exitcode, run.signal


def outcomes(answers: Mapping[Application, Answer]) -> list[Outcome]:
    return [answer.outcome for answer in answers.values()]


def check_that_everything_arrives(
    backend: BatchSystem, tmp_path: Path, words: Sequence[str], jobname: str = "odd; $(name) 'x'"
) -> None:
    """Check that arguments, environment, inputs and standard input arrive byte for byte, and outputs come back so."""
    data = bytes(range(256)) * 10
    (tmp_path / "in put.bin").write_bytes(data)
    names = " ".join(f"ODD{number}" for number in range(len(words)))
    program = tmp_path / "show"
    program.write_text(
        "#!/bin/sh\nfor word; do printf '%s\\0' \"$word\"; done > arguments.bin\n"
        f'for name in {names}; do eval "printf \'%s\\\\0\' \\"\\$$name\\""; done > values.bin\n'
        'cat "sub dir/$1.bin" > copy.bin\ncat > stdin.bin\n'
    )
    (tmp_path / "text").write_bytes(b"given\0to stdin\n")
    app = Application(
        ["./show", *words],
        inputs={str(program): "show", str(tmp_path / "in put.bin"): f"sub dir/{words[0]}.bin"},
        outputs=["arguments.bin", "values.bin", "copy.bin", "stdin.bin"],
        environment={f"ODD{number}": word for number, word in enumerate(words)},
        stdin=tmp_path / "text",
        jobname=jobname,
    )
    backend.submit_job(app)
    settle(backend, [app], ended)
    collected = backend.get_results(app, tmp_path / "out")
    assert outcome(app) == DONE, (tmp_path / "out/stderr.txt").read_text()
    expected = b"".join(word.encode() + b"\0" for word in words)
    assert (tmp_path / "out/arguments.bin").read_bytes() == expected
    assert (tmp_path / "out/values.bin").read_bytes() == expected
    assert (tmp_path / "out/copy.bin").read_bytes() == data
    assert (tmp_path / "out/stdin.bin").read_bytes() == b"given\0to stdin\n"
    assert collected.missing == ()


@attrs.frozen
class RoundTrips:
    """How many round trips some jobs took: to submit, for the most expensive look, to fetch, to free."""

    submit: int
    look: int
    fetch: int
    free: int


def round_trips(backend: BatchSystem, tmp_path: Path, count: int) -> RoundTrips:
    """Run some jobs with an input to their end, and count."""
    (tmp_path / "in.txt").write_text("data\n")
    # greeting the frontend is not what is counted
    assert backend.spool
    command = ["sh", "-c", "echo $0; cat in.txt"]
    apps = [Application([*command, str(number)], inputs=[str(tmp_path / "in.txt")]) for number in range(count)]
    taken = _Counter(backend)
    assert not any(backend.submit_jobs(apps).values())
    submit = taken()
    looks = []
    deadline = time.monotonic() + 2 * PATIENCE
    while not all(map(ended, apps)):
        assert time.monotonic() < deadline
        assert not any(backend.update_job_states(apps).values())
        looks.append(taken())
        time.sleep(0.1)
    out = tmp_path / f"out{count}"
    backend.collect_jobs({app: out / str(number) for number, app in enumerate(apps)})
    fetch = taken()
    assert not any(backend.free_jobs(apps).values())
    assert {outcome(app) for app in apps} == {DONE}
    assert (out / str(count - 1) / "stdout.txt").read_text() == f"{count - 1}\ndata\n"
    return RoundTrips(submit, max(looks), fetch, taken())


class _Counter:
    """Gives the number of round trips since it was asked last."""

    def __init__(self, backend: BatchSystem) -> None:
        self._transport = backend.transport
        self._before = self._transport.round_trips

    def __call__(self) -> int:
        before, self._before = self._before, self._transport.round_trips
        return self._before - before
