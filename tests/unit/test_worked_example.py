"""The backend that the documentation shows works as it stands there."""

from __future__ import annotations

import importlib.util
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from batchlib import Application, Reason, State
from batchlib.backends.base import Outcome

EXAMPLE = Path(__file__).parents[2] / "docs/examples/tick.py"

TSUB = r"""#!/bin/sh
cd "$TICK" || exit
name=$(sed -n 's/^#TICK name //p' "$OLDPWD/$1")
number=$(($(ls | grep -c '\.name$') + 1))
echo "$name" > $number.name
(cd "$OLDPWD" && TICK_JOB=$number exec setsid sh "$1" </dev/null >/dev/null 2>&1) &
echo $! > $number.pid
echo "welcome to tick"
echo "job $number accepted"
"""
TLIST = r"""#!/bin/sh
cd "$TICK" || exit
for file in *.name; do
  number=${file%.name}
  [ -f "$file" ] || continue
  if [ -f $number.killed ]; then state=killed
  elif read -r _ _ state _ < "/proc/$(cat $number.pid)/stat" && [ "$state" != Z ]; then state=runs
  else state=over; fi 2>/dev/null
  echo "$number $state $(cat $file)"
done
"""
TCANCEL = r"""#!/bin/sh
cd "$TICK" && kill -s TERM -- -"$(cat $1.pid)" && : > $1.killed
"""


@pytest.fixture
def tick(tmp_path: Path) -> Iterator[ModuleType]:
    """The module, and a machine with tick's commands."""
    spec = importlib.util.spec_from_file_location("tick", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["tick"] = module
    spec.loader.exec_module(module)
    (tmp_path / "bin").mkdir()
    (tmp_path / "tick").mkdir()
    for name, text in {"tsub": TSUB, "tlist": TLIST, "tcancel": TCANCEL}.items():
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    yield module
    del sys.modules["tick"]


def test_life_on_a_made_up_batch_system(tick: ModuleType, tmp_path: Path) -> None:
    setup = f"export PATH={tmp_path}/bin:$PATH TICK={tmp_path}/tick"
    backend = tick.TickBackend("tick", spooldir=str(tmp_path / "spool"), setup=setup)
    fine, failing, long = (Application(["sh", "-c", text]) for text in ("echo hello", "exit 3", "sleep 600"))
    assert not any(backend.submit_jobs([fine, failing, long]).values())
    _until(lambda: backend.update_job_state(long) is State.RUNNING)
    assert backend.hold_jobs([long])[long].outcome is Outcome.REFUSED
    backend.cancel_job(long)
    apps = [fine, failing, long]
    _until(lambda: not any(backend.update_job_states(apps).values()) and all(app.execution.state.final for app in apps))
    assert [app.execution.state for app in apps] == [State.DONE, State.FAILED, State.CANCELLED]
    assert failing.execution.exitcode == 3
    assert long.execution.reason is Reason.CANCELLED_BY_USER
    backend.get_results(fine, tmp_path / "out")
    assert (tmp_path / "out/stdout.txt").read_text() == "hello\n"
    assert backend.recover_jobs([]) == {}
    backend.free_jobs(apps)
    assert list((tmp_path / "spool").iterdir()) == []
    backend.close()


def test_a_site_can_replace_the_header_template(tick: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "own.j2").write_text("#TICK name {{ name }}\n#TICK colour {{ queue or 'blue' }}\n")
    backend = tick.TickBackend("tick", header_template=str(tmp_path / "own.j2"))
    assert "#TICK colour blue\n" in backend.render(Application(["true"]))
    assert "#TICK colour red\n" in backend.render(Application(["true"], queue="red"))


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
