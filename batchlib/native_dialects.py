"""How batch systems write header lines: their options, and what each means in the common vocabulary."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import attrs

from .errors import InvalidValue
from .quantity import Duration, Memory

#: Takes an option's value and what was found so far, and adds to it.
Reader = Callable[[str, "Header"], None]


@attrs.define
class Header:
    """What a script's header lines ask for.

    Parameters
    ----------
    system : str
        The batch system that it was written for: ``slurm``, ``pbs``, ``sge`` or ``lsf``; empty without header lines.
    fields : dict of str to object
        Keywords for `Application`.
    array : str
        Indices of an array, as `parse_array` reads them; empty without.
    not_carried : list of str
        Options that mean nothing here, with their values.
    """

    system: str = ""
    fields: dict[str, Any] = attrs.Factory(dict)
    array: str = ""
    not_carried: list[str] = attrs.Factory(list)


@attrs.frozen
class Dialect:
    """How one batch system writes its header lines.

    Parameters
    ----------
    system : str
        Its name.
    mark : str
        What header lines start with.
    options : mapping of str to callable or None
        What to do with each option; None for those that are ignored because they change nothing that matters.
    flags : frozenset of str
        Options without a value.
    index_variable : str
        The variable with the index of an array's element, which such scripts use.
    """

    system: str
    mark: str
    options: Mapping[str, Reader | None]
    flags: frozenset[str]
    index_variable: str


def _field(name: str, convert: Callable[[str], Any] = str) -> Reader:
    def read(value: str, header: Header) -> None:
        header.fields[name] = convert(value)

    return read


def _flag(name: str, setting: object = True) -> Reader:
    def read(_value: str, header: Header) -> None:
        header.fields[name] = setting

    return read


def _array(value: str, header: Header) -> None:
    most = header.array.partition("%")[2] if header.array.startswith("%") else ""
    header.array = value + (f"%{most}" if most and "%" not in value else "")


def _most_running(value: str, header: Header) -> None:
    header.array = f"{header.array}%{value}"


def _number(value: str) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", value):
        raise InvalidValue(f"{value!r} is no whole number")
    return int(value)


def _output(name: str) -> Reader:
    """Take a file name; patterns for the job's id go, those for the index stay as ours."""

    def read(value: str, header: Header) -> None:
        text = re.sub(r"%a|%I|\$TASK_ID|\$PBS_ARRAYID|\^array_index\^", "{index}", value)
        text = re.sub(r"[._-]?(?:%[jAJ]|\$JOB_ID|\$PBS_JOBID)", "", text)
        text = text.rsplit(":", 1)[-1] if header.system in ("pbs", "sge") else text
        base = text.rstrip("/").rsplit("/", 1)[-1]
        if value.endswith("/") or not base or "%" in base or base in ("null",):
            header.not_carried.append(f"output {value}")
            return
        header.fields[name] = base

    return read


def _slurm_time(value: str) -> Duration:
    """Read minutes, minutes:seconds, hours:minutes:seconds, days-hours[:minutes[:seconds]]."""
    days, dash, clock = value.rpartition("-")
    parts = clock.split(":")
    if not all(re.fullmatch(r"[0-9]{1,9}", part) for part in [*parts, days or "0"]) or len(parts) > 3:
        raise InvalidValue(f"{value!r} is no time")
    numbers = [int(part) for part in parts]
    if dash:
        hours, minutes, seconds = [*numbers, 0, 0][:3]
    elif len(numbers) == 3:
        hours, minutes, seconds = numbers
    else:
        hours, (minutes, seconds) = 0, [*numbers, 0][:2]
    return Duration.of(((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + seconds, "s")


def _clock(value: str) -> Duration:
    """Read ``[[hours:]minutes:]seconds``, as PBS and Grid Engine do."""
    parts = value.split(":")
    if not 1 <= len(parts) <= 3 or not all(re.fullmatch(r"[0-9]{0,9}", part) for part in parts):
        raise InvalidValue(f"{value!r} is no time")
    seconds = 0
    for part in parts:
        seconds = seconds * 60 + int(part or 0)
    return Duration.of(seconds, "s")


def _lsf_time(value: str) -> Duration:
    """Read ``[hours:]minutes``, with a host's name behind a slash."""
    parts = value.partition("/")[0].split(":")
    if len(parts) > 2 or not all(re.fullmatch(r"[0-9]{1,9}", part) for part in parts):
        raise InvalidValue(f"{value!r} is no time")
    minutes = int(parts[-1]) + (60 * int(parts[0]) if len(parts) == 2 else 0)
    return Duration.of(minutes, "min")


def _memory(value: str, unit: str = "MiB") -> Memory:
    """Read an amount of memory as batch systems write it: binary units, and one for a bare number."""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([kKmMgGtTpP]?)(?:i?[bBwW])?", value)
    if match is None:
        raise InvalidValue(f"{value!r} is no amount of memory")
    return Memory.of(float(match[1]), f"{match[2]}iB" if match[2] else unit)


def _mail_events(value: str) -> tuple[str, ...]:
    known = {"BEGIN": "begin", "END": "end", "FAIL": "fail", "b": "begin", "e": "end", "a": "fail"}
    words = value.split(",") if value.isupper() else list(value)
    if "ALL" in words:
        return ("begin", "end", "fail")
    return tuple(dict.fromkeys(known[word] for word in words if word in known))


def _slurm_gpus(value: str, header: Header) -> None:
    match = re.fullmatch(r"(?:gpu:)?(?:[A-Za-z][\w-]*:)?([0-9]{1,4})", value)
    if match is None:
        header.not_carried.append(f"--gres {value}")
        return
    header.fields["requested_gpus"] = int(match[1])


def _pbs_resources(value: str, header: Header) -> None:
    """Read ``-l``: ``walltime=..,select=2:ncpus=4:mem=8gb`` and Torque's ``nodes=2:ppn=4``."""
    for item in value.split(","):
        name, _, amount = item.partition("=")
        if name == "select":
            _pbs_chunks(amount, header)
        elif name == "nodes":
            _torque_nodes(amount, header)
        elif name in _PBS_RESOURCES:
            _PBS_RESOURCES[name](amount, header)
        else:
            header.not_carried.append(f"-l {item}")


def _pbs_chunks(value: str, header: Header) -> None:
    if "+" in value:
        header.not_carried.append(f"-l select={value}")
        return
    count, *parts = value.split(":")
    nodes = _number(count) if "=" not in count else 1
    amounts = dict(part.partition("=")[::2] for part in (parts if "=" not in count else [count, *parts]))
    cores = _number(amounts.pop("ncpus", "1"))
    tasks = _number(amounts.pop("mpiprocs", "1"))
    if nodes > 1 or tasks > 1:
        header.fields.update(requested_nodes=nodes, tasks_per_node=tasks, cores_per_task=max(1, cores // tasks))
    else:
        header.fields["requested_cores"] = cores
    if "mem" in amounts:
        header.fields["requested_memory"] = _memory(amounts.pop("mem"), "B") * nodes
    if "ngpus" in amounts:
        header.fields["requested_gpus"] = _number(amounts.pop("ngpus"))
    header.not_carried += [f"-l select:{name}={amount}" for name, amount in amounts.items()]


def _torque_nodes(value: str, header: Header) -> None:
    count, *parts = value.split(":")
    amounts = dict(part.partition("=")[::2] for part in parts)
    if "+" in value or not count.isdigit():
        header.not_carried.append(f"-l nodes={value}")
        return
    cores = _number(amounts.pop("ppn", "1"))
    if int(count) > 1:
        header.fields.update(requested_nodes=int(count), tasks_per_node=cores, cores_per_task=1)
    else:
        header.fields["requested_cores"] = cores
    if "gpus" in amounts:
        header.fields["requested_gpus"] = _number(amounts.pop("gpus"))
    header.not_carried += [f"-l nodes:{name}" for name in amounts]


def _sge_resources(value: str, header: Header) -> None:
    for item in value.split(","):
        name, _, amount = item.partition("=")
        if name in _SGE_RESOURCES:
            _SGE_RESOURCES[name](amount, header)
        else:
            header.not_carried.append(f"-l {item}")


def _lsf_name(value: str, header: Header) -> None:
    match = re.fullmatch(r"([^\[\]]*)(?:\[([0-9,:-]+)\](%[0-9]+)?)?", value)
    if match is None:
        raise InvalidValue(f"{value!r} is no name of a job or an array")
    if match[1]:
        header.fields["jobname"] = match[1]
    if match[2]:
        header.array = match[2] + (match[3] or "")


def _lsf_resources(value: str, header: Header) -> None:
    memory = re.search(r"rusage\[[^\]]*\bmem=([0-9.]+[kKmMgGtT]?[bB]?)", value)
    if memory:
        header.fields["requested_memory_per_core"] = _memory(memory[1])
    tile = re.search(r"span\[ptile=([0-9]+)\]", value)
    if tile:
        header.fields["tasks_per_node"] = int(tile[1])
    rest = re.sub(r"rusage\[\s*mem=[^\],]*\]|span\[(?:ptile=[0-9]+|hosts=1)\]", "", value).strip(" &")
    if rest:
        header.not_carried.append(f"-R {rest}")


def _variables(value: str, header: Header) -> None:
    """Read ``-v NAME=VALUE,...``; names alone mean the caller's own value, which is not known here."""
    for item in value.split(","):
        name, equals, content = item.partition("=")
        if equals:
            header.fields.setdefault("environment", {})[name] = content
        elif name not in ("ALL", "NONE"):
            header.not_carried.append(f"variable {name}")


_PBS_RESOURCES: Mapping[str, Reader] = {
    "walltime": _field("requested_walltime", _clock),
    "mem": _field("requested_memory", lambda value: _memory(value, "B")),
    "pmem": _field("requested_memory_per_core", lambda value: _memory(value, "B")),
    "ncpus": _field("requested_cores", _number),
    "procs": _field("requested_cores", _number),
    "ngpus": _field("requested_gpus", _number),
    "place": lambda value, header: _flag("exclusive")("", header) if "excl" in value else None,
}
_SGE_RESOURCES: Mapping[str, Reader] = {
    "h_rt": _field("requested_walltime", _clock),
    "s_rt": _field("requested_walltime", _clock),
    "h_vmem": _field("requested_memory_per_core", lambda value: _memory(value, "B")),
    "mem_free": _field("requested_memory_per_core", lambda value: _memory(value, "B")),
    "gpu": _field("requested_gpus", _number),
    "exclusive": lambda value, header: _flag("exclusive")("", header) if value.lower() in ("true", "1") else None,
}


def _both(*pairs: tuple[str, Reader | None]) -> dict[str, Reader | None]:
    """List options under each of their names, written ``-q --queue``."""
    return {name: reader for names, reader in pairs for name in names.split()}


SLURM = Dialect(
    "slurm",
    "#SBATCH",
    _both(
        ("-J --job-name", _field("jobname")),
        ("-p --partition", _field("queue")),
        ("-A --account", _field("account")),
        ("-q --qos", _field("qos")),
        ("-t --time", _field("requested_walltime", _slurm_time)),
        ("-N --nodes", _field("requested_nodes", _number)),
        ("-n --ntasks", _field("requested_cores", _number)),
        ("--ntasks-per-node", _field("tasks_per_node", _number)),
        ("-c --cpus-per-task", _field("cores_per_task", _number)),
        ("--mem", _field("requested_memory", _memory)),
        ("--mem-per-cpu", _field("requested_memory_per_core", _memory)),
        ("--gres -G --gpus --gpus-per-node", _slurm_gpus),
        ("-o --output", _output("stdout")),
        ("-e --error", _output("stderr")),
        ("-a --array", _array),
        ("-C --constraint", _field("constraint")),
        ("--reservation", _field("reservation")),
        ("--exclusive", _flag("exclusive")),
        ("--mail-user", _field("mail_to")),
        ("--mail-type", _field("mail_on", _mail_events)),
        ("--priority", _field("priority", _number)),
        ("-H --hold", _flag("hold")),
        ("--requeue", _flag("rerunnable")),
        ("--no-requeue", _flag("rerunnable", False)),
        ("--export", _variables),
        ("--parsable -Q --quiet -v --verbose", None),
    ),
    frozenset(
        {"--exclusive", "-H", "--hold", "--requeue", "--no-requeue", "--parsable", "-Q", "--quiet", "-v", "--verbose"}
    ),
    "SLURM_ARRAY_TASK_ID",
)
PBS = Dialect(
    "pbs",
    "#PBS",
    _both(
        ("-N", _field("jobname")),
        ("-q", _field("queue")),
        ("-A -P", _field("account")),
        ("-l", _pbs_resources),
        ("-o", _output("stdout")),
        ("-e", _output("stderr")),
        ("-j", lambda value, header: _flag("join")("", header) if value in ("oe", "eo") else None),
        ("-J -t", _array),
        ("-m", lambda value, header: None if value == "n" else _field("mail_on", _mail_events)(value, header)),
        ("-M", _field("mail_to")),
        ("-p", _field("priority", int)),
        ("-h", _flag("hold")),
        ("-r", lambda value, header: _flag("rerunnable", value == "y")("", header)),
        ("-v", _variables),
        ("-V", None),
        ("-S", None),
        ("-k", None),
    ),
    frozenset({"-h", "-V"}),
    "PBS_ARRAY_INDEX",
)
SGE = Dialect(
    "sge",
    "#$",
    _both(
        ("-N", _field("jobname")),
        ("-q", _field("queue")),
        ("-A -P", _field("account")),
        ("-l", _sge_resources),
        ("-pe", _field("requested_cores", lambda value: _number(value.rpartition("-")[2]))),
        ("-o", _output("stdout")),
        ("-e", _output("stderr")),
        ("-j", lambda value, header: _flag("join")("", header) if value in ("y", "yes") else None),
        ("-t", _array),
        ("-tc", _most_running),
        ("-m", lambda value, header: None if value == "n" else _field("mail_on", _mail_events)(value, header)),
        ("-M", _field("mail_to")),
        ("-p", _field("priority", int)),
        ("-h", _flag("hold")),
        ("-r", lambda value, header: _flag("rerunnable", value in ("y", "yes"))("", header)),
        ("-v", _variables),
        ("-V -cwd", None),
        ("-S", None),
    ),
    frozenset({"-h", "-V", "-cwd"}),
    "SGE_TASK_ID",
)
LSF = Dialect(
    "lsf",
    "#BSUB",
    _both(
        ("-J", _lsf_name),
        ("-q", _field("queue")),
        ("-P -G", _field("account")),
        ("-n", _field("requested_cores", lambda value: _number(value.partition(",")[0]))),
        ("-W", _field("requested_walltime", _lsf_time)),
        ("-M", _field("requested_memory_per_core", _memory)),
        ("-R", _lsf_resources),
        ("-o -oo", _output("stdout")),
        ("-e -eo", _output("stderr")),
        ("-u", _field("mail_to")),
        ("-B", _flag("mail_on", ("begin",))),
        ("-N", _flag("mail_on", ("end", "fail"))),
        ("-H", _flag("hold")),
        ("-x", _flag("exclusive")),
        ("-r", _flag("rerunnable")),
        ("-rn", _flag("rerunnable", False)),
        ("-sp", _field("priority", _number)),
        ("-U", _field("reservation")),
        ("-L", None),
    ),
    frozenset({"-B", "-N", "-H", "-x", "-r", "-rn"}),
    "LSB_JOBINDEX",
)
DIALECTS = (SLURM, PBS, SGE, LSF)
