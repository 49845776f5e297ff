"""bqueues, bhosts, bparams and lsid: what there is, apart from jobs."""

from __future__ import annotations

from tests.fakes.lsf.longform import LOAD
from tests.fakes.lsf.options import CLUSTER, HOST, VERSION, Failure, connect, parse_letters
from tests.fakes.lsf.system import LSF, status
from tests.fakes.model import Queue, setting

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.fakes.lsf.options import Options

_QUEUES = {"short": (35, "For short jobs"), "normal": (30, "For normal low priority jobs  This is the default queue.")}
_QUEUE_HEADER = "QUEUE_NAME      PRIO STATUS          MAX JL/U JL/P JL/H NJOBS  PEND   RUN  SUSP "
_HOST_HEADER = "HOST_NAME          STATUS       JL/U    MAX  NJOBS    RUN  SSUSP  USUSP    RSV "
_PARAMETERS = """Default Queues:  normal
Job Dispatch Interval:  1 seconds
Job Checking Interval:  1 seconds
Job Accepting Interval:  0 seconds"""
_LONG_PARAMETERS = """
System default queues for automatic queue selection:
    DEFAULT_QUEUE = normal

The amount of time during which finished jobs are kept in core:
    CLEAN_PERIOD = {clean} (seconds)

The default project assigned to jobs.
    DEFAULT_PROJECT = default

The interval to terminate a job.
    JOB_TERMINATE_INTERVAL = {kill:g}\x20

The maximum number of jobs in a job array.
    MAX_JOB_ARRAY_SIZE = 1000

The Maximum JobId defined in the system:
    MAX_JOBID = 999999
"""


def main(name: str, words: Sequence[str]) -> int:
    """Describe the cluster."""
    options = parse_letters(name, words, "mu", "lwaXhV")
    system = LSF()
    if name == "lsid":
        print(f"{VERSION}\n", flush=True)
        if system.switch("lim-down"):
            raise Failure("ls_getclustername(): LIM is down; try later")
        print(f"My cluster name is {CLUSTER}\nMy master name is {HOST}")
        return 0
    connect(system)
    if name == "bparams":
        long = _LONG_PARAMETERS.format(
            clean=int(setting("FAKE_HISTORY", LSF.history)), kill=setting("FAKE_KILL_DELAY", 1)
        )
        print(long if "l" in options or "a" in options else _PARAMETERS)
        return 0
    with system:
        tasks = [(system.job_of(task).queue, status(task)) for task in system.tasks(live=True)]
    if name == "bhosts":
        return _hosts(system, options, [state for _, state in tasks])
    return _queues(system, options, tasks)


def _hosts(system: LSF, options: Options, states: Sequence[str]) -> int:
    for host in options.rest:
        if host != HOST:
            raise Failure(f"{host}: Bad host name, host group name or cluster name")
    run, ssusp, ususp = (states.count(state) for state in ("RUN", "SSUSP", "USUSP"))
    condition = "closed" if run >= system.slots else "unreach" if system.switch("unreachable") else "ok"
    counts = "".join(f"{count:>7}" for count in (system.slots, run + ssusp + ususp, run, ssusp, ususp, 0))
    print(f"{_HOST_HEADER}\n{HOST:<18} {condition:<12}    -{counts}")
    return 0


def _queues(system: LSF, options: Options, tasks: Sequence[tuple[str, str]]) -> int:
    for name in options.rest:
        if name not in system.queues:
            raise Failure(f"{name}: No such queue")
    chosen = [name for name in _QUEUES if not options.rest or name in options.rest]
    if "l" in options:
        print(("\n" + "-" * 79 + "\n").join(_long(name, system.queues[name]) for name in chosen))
        return 0
    print(_QUEUE_HEADER)
    for name in chosen:
        queue = system.queues[name]
        states = [state for where, state in tasks if where == name]
        pending = states.count("PEND") + states.count("PSUSP")
        suspended = states.count("SSUSP") + states.count("USUSP")
        counts = "".join(f"{count:>6}" for count in (len(states), pending, states.count("RUN"), suspended))
        print(f"{name:<15} {_QUEUES[name][0]:>3}{_condition(queue):^18}  -    -    -    -{counts}")
    return 0


def _condition(queue: Queue) -> str:
    return f"{'Open' if queue.enabled else 'Closed'}:{'Active' if queue.started else 'Inact'}"


def _long(name: str, queue: Queue) -> str:
    priority, text = _QUEUES[name]
    limit = f"\n RUNLIMIT                \n {queue.max_walltime / 60:.1f} min                \n"
    return (
        f"\nQUEUE: {name}\n  -- {text}\n\nPARAMETERS/STATISTICS\n"
        "PRIO NICE STATUS          MAX JL/U JL/P JL/H NJOBS  PEND   RUN SSUSP USUSP  RSV \n"
        f" {priority}    0  {_condition(queue):<17} -    -    -    -     0     0     0     0     0    0\n"
        "Schedule delay for a new job is 0 seconds\nInterval for a host to accept two jobs is 0 seconds\n"
        f"{limit if queue.max_walltime else ''}{LOAD.replace(' SCHEDULING PARAMETERS:', 'SCHEDULING PARAMETERS')}"
        "\nUSERS:  all\nHOSTS:  all\n"
    )
