"""Header lines of scripts written for a batch system."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchlib import Application, Duration, Memory
from batchlib.array import parse_array
from batchlib.errors import InvalidValue
from batchlib.native_dialects import DIALECTS
from batchlib.native_script import parse_script, split_words

SLURM = """#!/bin/bash
#SBATCH --job-name="my sim" -p batch   # the usual partition
#SBATCH -A proj
#SBATCH --qos=high
#SBATCH -t 1-02:30
#SBATCH -N2 --ntasks-per-node=4
#SBATCH --cpus-per-task 2
#SBATCH --mem=8G
#SBATCH --gres=gpu:a100:2
#SBATCH -o out/%x.%j.txt
#SBATCH --array=1-10:3%2
#SBATCH --mail-type=END,FAIL --mail-user=me@example.org
#SBATCH --export=ALL,A=1
#SBATCH --requeue
##SBATCH --hold
#SBATCH --ntasks-per-socket=2
srun ./simulate
"""


def test_slurm() -> None:
    header = parse_script(SLURM)
    assert header.system == "slurm"
    assert header.array == "1-10:3%2"
    assert header.fields == {
        "jobname": "my sim",
        "queue": "batch",
        "account": "proj",
        "qos": "high",
        "requested_walltime": Duration("26h30m"),
        "requested_nodes": 2,
        "tasks_per_node": 4,
        "cores_per_task": 2,
        "requested_memory": Memory("16 GiB"),
        "requested_gpus": 2,
        "mail_on": ("end", "fail"),
        "mail_to": "me@example.org",
        "environment": {"A": "1", "SLURM_ARRAY_TASK_ID": "{index}"},
        "rerunnable": True,
    }
    assert header.not_carried == ["output out/%x.%j.txt", "--ntasks-per-socket 2"]


def test_pbs() -> None:
    header = parse_script(
        "#!/bin/sh\n#PBS -N sim -q workq\n#PBS -l select=2:ncpus=8:mpiprocs=4:mem=4gb,walltime=01:30:00\n"
        "#PBS -j oe -o host:/home/me/log.txt\n#PBS -J 0-9:3\n#PBS -m ae\n#PBS -l software=matlab\n"
    )
    assert header.system == "pbs"
    assert header.array == "0-9:3"
    assert header.fields == {
        "jobname": "sim",
        "queue": "workq",
        "requested_nodes": 2,
        "tasks_per_node": 4,
        "cores_per_task": 2,
        "requested_memory": Memory("8 GiB"),
        "requested_walltime": Duration("90 min"),
        "join": True,
        "stdout": "log.txt",
        "mail_on": ("fail", "end"),
        "environment": {"PBS_ARRAY_INDEX": "{index}"},
    }
    assert header.not_carried == ["-l software=matlab"]


def test_torque_nodes() -> None:
    assert parse_script("#PBS -l nodes=1:ppn=8,pmem=2gb\n").fields == {
        "requested_cores": 8,
        "requested_memory_per_core": Memory("2 GiB"),
    }


def test_grid_engine() -> None:
    header = parse_script(
        "#!/bin/bash\n#$ -N sim -cwd -V\n#$-l h_rt=1:0:0,h_vmem=2G\n#$ -pe smp 4\n#$ -t 1-20 -tc 5\n"
        "#$ -o $TASK_ID.out -j y\n"
    )
    assert header.system == "sge"
    assert header.array == "1-20%5"
    assert header.fields == {
        "jobname": "sim",
        "requested_walltime": Duration("1 h"),
        "requested_memory_per_core": Memory("2 GiB"),
        "requested_cores": 4,
        "stdout": "{index}.out",
        "join": True,
        "environment": {"SGE_TASK_ID": "{index}"},
    }
    assert header.not_carried == ["-pe smp"]


def test_lsf() -> None:
    header = parse_script(
        '#BSUB -J "sim[1-10:2]%3" -W 1:30\n#BSUB -n 8 -R "rusage[mem=2000] span[ptile=4]"\n'
        '#BSUB -oo %J.%I.txt -x\n#BSUB -R "select[type==any]"\n'
    )
    assert header.system == "lsf"
    assert header.array == "1-10:2%3"
    assert header.fields == {
        "jobname": "sim",
        "requested_walltime": Duration("90 min"),
        "requested_nodes": 2,
        "tasks_per_node": 4,
        "cores_per_task": 1,
        "requested_memory_per_core": Memory("2000 MiB"),
        "stdout": ".{index}.txt",
        "exclusive": True,
        "environment": {"LSB_JOBINDEX": "{index}"},
    }
    assert header.not_carried == ["-R select[type==any]"]


def test_what_is_found_describes_an_application() -> None:
    header = parse_script(SLURM)
    app = Application(["./script"], **header.fields)
    assert app.total_cores == 16
    assert parse_array(header.array).indices == (1, 4, 7, 10)


def test_a_script_without_header_lines() -> None:
    header = parse_script("#!/bin/sh\necho hello # SBATCH\n")
    assert (header.system, header.fields, header.not_carried) == ("", {}, [])


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("#SBATCH -t tomorrow", "line 1, '#SBATCH -t tomorrow': 'tomorrow' is no time"),
        ("#SBATCH --mem=lots", "'lots' is no amount of memory"),
        ('#SBATCH -J "open', "can't be read from column"),
        ("#SBATCH nonsense", "'nonsense' is no option"),
        ("#PBS -l select=two", "'two' is no whole number"),
    ],
)
def test_what_can_not_be_read_is_named(line: str, sentence: str) -> None:
    with pytest.raises(InvalidValue) as raised:
        parse_script(line + "\n")
    assert sentence in str(raised.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a b", ["a", "b"]),
        ("'a b' \"c 'd\"", ["a b", "c 'd"]),
        (r"a\ b", ["a b"]),
        ('--name="x y" # comment', ["--name=x y"]),
        ("a#b", ["a#b"]),
        ("", []),
    ],
)
def test_words_are_split_as_a_shell_splits_them(text: str, words: list[str]) -> None:
    assert split_words(text) == words


@given(st.sampled_from([dialect.mark for dialect in DIALECTS]), st.text(max_size=60))
def test_nothing_but_invalid_values_is_raised(mark: str, text: str) -> None:
    with contextlib.suppress(InvalidValue):
        parse_script(f"{mark} {text}\n")
