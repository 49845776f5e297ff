"""The configuration files of the test cluster, as text."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from pathlib import Path

CLUSTER = "lab"
ADDRESS = "127.0.0.1"
NODES = {"node01": (16, 32000), "node02": (4, 8000)}  # CPUs, memory in MB
DATABASE = "slurm_acct_db"
DATABASE_PASSWORD = "slurmdbd"

CGROUP_CONF = """\
CgroupPlugin=cgroup/v1
CgroupMountpoint=/sys/fs/cgroup
CgroupAutomount=no
ConstrainRAMSpace=yes
ConstrainSwapSpace=no
"""


def slurm_conf(
    directory: Path,
    *,
    host: str,
    ports: Mapping[str, int],
    first_job: int,
    accounting: bool,
    memory_limits: bool,
) -> str:
    """Write slurm.conf: two nodes on one host, two partitions, short times."""
    nodes = "\n".join(
        f"NodeName={name} NodeHostname={host} NodeAddr={ADDRESS} Port={ports[name]} CPUs={cpus} Sockets=1"
        f" CoresPerSocket={cpus} ThreadsPerCore=1 RealMemory={memory} State=UNKNOWN"
        for name, (cpus, memory) in NODES.items()
    )
    if accounting:
        # AccountingStoragePass is the name of the munged socket for slurmdbd, where AuthInfo is not asked;
        # without AccountingStorageEnforce any account is accepted at submission
        storage = f"""\
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost={ADDRESS}
AccountingStoragePort={ports["slurmdbd"]}
AccountingStoragePass={munge_socket(directory)}
AccountingStorageEnforce=associations,limits,qos"""
    else:
        storage = "AccountingStorageType=accounting_storage/none"
    return f"""\
ClusterName={CLUSTER}
SlurmctldHost={host}({ADDRESS})
SlurmctldPort={ports["slurmctld"]}
{communication(host)}
SlurmUser=slurm
SlurmdUser=root
AuthType=auth/munge
# cred_expire is also the time that a requeued job must wait, by default 120 s
AuthInfo=socket={munge_socket(directory)},cred_expire=5
CredType=cred/munge
FirstJobId={first_job}
StateSaveLocation={directory}/slurmctld
SlurmctldPidFile={directory}/slurmctld/pid
SlurmdSpoolDir={directory}/slurmd.%n
SlurmdPidFile={directory}/slurmd.%n/pid
SlurmdLogFile={directory}/log/steps.%n.log
SlurmctldDebug=info
SlurmdDebug=info
MpiDefault=none
SwitchType=switch/none
ProctrackType=proctrack/linuxproc
TaskPlugin={"task/cgroup" if memory_limits else "task/none"}
PropagateResourceLimits=NONE
ReturnToService=2
# lets the nodes be larger than this machine
SlurmdParameters=config_overrides
# short times (defaults: MinJobAge 300, KillWait 30, SlurmctldTimeout 120, SlurmdTimeout 300)
MinJobAge=30
KillWait=3
CompleteWait=0
InactiveLimit=0
SlurmctldTimeout=30
SlurmdTimeout=20
MessageTimeout=10
UnkillableStepTimeout=20
OverTimeLimit=0
JobRequeue=1
MaxJobCount=100000
MaxArraySize=20001
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_min_interval=0,sched_interval=2,bf_interval=2,\
default_queue_depth=1000,bf_max_job_test=1000,max_array_tasks=20000
PriorityType=priority/basic
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
DefMemPerCPU=1000
PreemptType=preempt/none
{storage}
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
{nodes}
PartitionName=batch Nodes=node01,node02 Default=YES DefaultTime=01:00:00 MaxTime=1-00:00:00 State=UP
PartitionName=short Nodes=node01 Default=NO DefaultTime=00:05:00 MaxTime=00:10:00 State=UP
"""


def slurmdbd_conf(directory: Path, *, host: str, port: int) -> str:
    """Write slurmdbd.conf; it cannot name a database socket (that is MYSQL_UNIX_PORT in the environment)."""
    return f"""\
AuthType=auth/munge
AuthInfo=socket={munge_socket(directory)}
DbdHost=localhost
DbdAddr={ADDRESS}
DbdPort={port}
{communication(host)}
SlurmUser=slurm
DebugLevel=info
PidFile={directory}/slurmctld/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageUser=slurm
StoragePass={DATABASE_PASSWORD}
StorageLoc={DATABASE}
"""


def munge_socket(directory: Path) -> Path:
    """Say where the cluster's own munged listens."""
    return directory / "munge" / "socket"


def communication(host: str) -> str:
    """Have the daemons listen on 127.0.0.1 only, where that can be had.

    Seen with Slurm 22.05: with these flags slurmctld, slurmd, slurmdbd and srun listen on what the host's
    own name resolves to, whatever their address is in the configuration. With 127.0.0.1 all is well; with
    Debian's 127.0.1.1 srun hangs, since its steps call back to 127.0.0.1. So with any other address than
    127.0.0.1 the daemons listen on all of them, guarded by the key of the cluster's own munged.
    """
    try:
        loopback = socket.gethostbyname(host) == ADDRESS
    except OSError:
        loopback = False
    return "CommunicationParameters=NoCtldInAddrAny,NoInAddrAny" if loopback else ""
