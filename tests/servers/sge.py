"""A real Grid Engine (Son of Grid Engine 8.1.9) on this machine: one host, the queue all.q with 16 slots.

Needs root and Debian's packages gridengine-master, gridengine-exec and gridengine-client, but no cell made by
them: SGE_ROOT is a directory in the state directory with links to Debian's programs. Its two daemons know
no option that binds them to an address: they listen on all, and serve only hosts named localhost.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

from tests.servers.cluster import Cluster
from tests.servers.processes import Daemon, free_ports, kill_left_over, wait_until
from tests.servers.users import PATH

DEBIAN_ROOT = Path("/var/lib/gridengine")
PROGRAMS = Path("/usr/lib/gridengine")
DATA = Path("/usr/share/gridengine")
ADMIN = "sgeadmin"
COMMANDS = (
    *("qsub", "qstat", "qacct", "qdel", "qhold", "qrls", "qmod", "qalter", "qresub"),
    *("qconf", "qhost", "qselect", "qping", "qrsh"),
)
SLOTS = 16

PARALLEL_ENVIRONMENT = """\
pe_name            {name}
slots              999
user_lists         NONE
xuser_lists        NONE
start_proc_args    NONE
stop_proc_args     NONE
allocation_rule    {rule}
control_slaves     TRUE
job_is_first_task  TRUE
urgency_slots      min
accounting_summary TRUE
qsort_args         NONE
"""


class GridEngine(Cluster):
    """Grid Engine with the queue all.q, the parallel environments smp and mpi, and two consumable gpu.

    Accounting records are written at once and the scheduler runs every second; the shell of a job stays
    /bin/sh whatever its first line says (posix_compliant), as it is by default.

    Parameters
    ----------
    directory
        Its state, kept from one start to the next; an ordinary user must be able to enter it.
    user
        The ordinary user of the cluster, made when missing.
    """

    def __init__(self, directory: Path, *, user: str = "hpc") -> None:
        self._root = directory / "root"
        self._common = self._root / "default" / "common"
        self._bin = directory / "bin"
        self._ports = free_ports(2)
        super().__init__(directory, user)

    def _make_daemons(self) -> Iterator[Daemon]:
        # SGE_ND keeps the daemons in the foreground
        environment = self.env | {"SGE_ND": "1", "SGE_EXECD_PIDFILE": str(self.directory / "execd" / "pid")}
        ready = {"sge_qmaster": self._qmaster_answers, "sge_execd": self._host_takes_jobs}
        for name, is_ready in ready.items():
            yield Daemon(
                name,
                [f"/usr/sbin/{name}"],
                directory=self.directory,
                ready=is_ready,
                environment=environment,
                seconds=60,  # an execd that was there before a restart is known again after up to 30 s
            )

    @property
    def env(self) -> dict[str, str]:
        """What Grid Engine's commands need in their environment; PATH has them before Debian's slow wrappers."""
        return {
            "SGE_ROOT": str(self._root),
            "SGE_CELL": "default",
            "SGE_QMASTER_PORT": str(self._ports[0]),
            "SGE_EXECD_PORT": str(self._ports[1]),
            "PATH": f"{self._bin}:{PATH}",
        }

    def start(self) -> None:
        """Start both daemons and wait until the queue takes jobs."""
        kill_left_over(self.directory)
        self._make_directories()
        if not (self.directory / "spooldb" / "sge").exists():
            self._make_cell()
        self.daemon("sge_qmaster").start()
        self._configure()
        self.daemon("sge_execd").start()

    def _end(self, daemon: Daemon) -> None:
        daemon.kill()  # qmaster takes 6 to 9 s to heed SIGTERM, and its spool bears SIGKILL

    def cancel_all(self, seconds: float = 30) -> None:
        """Delete the user's jobs and wait until none is left in the queue."""
        user = self.account.pw_name
        if self.command("qstat", "-u", user):
            self.command("qdel", "-u", user, seconds=seconds)
        wait_until(
            f"the jobs of {user} to end",
            lambda: not self.command("qstat", "-u", user, seconds=seconds),
            seconds,
            self.directory / "qmaster" / "messages",
        )

    def _qmaster_answers(self) -> bool:
        return self.succeeds("qconf", "-sh")

    def _host_takes_jobs(self) -> bool:
        """Tell whether the last column of the queue's line, its state, is empty."""
        return re.search(r"^all\.q@.*\blx-\S+ *$", self.command("qstat", "-f"), re.MULTILINE) is not None

    def _make_directories(self) -> None:
        for directory in (self.directory, self._root, self._bin):
            directory.mkdir(parents=True, exist_ok=True)
            directory.chmod(0o755)
        for name in ("qmaster/job_scripts", "spooldb", "execd"):
            (self.directory / name).mkdir(parents=True, exist_ok=True)
        self._common.mkdir(parents=True, exist_ok=True)
        for name in ("bin", "lib", "util", "utilbin"):
            _link(self._root / name, DEBIAN_ROOT / name)
        for name in COMMANDS:
            _link(self._bin / name, PROGRAMS / name)
        (self._common / "act_qmaster").write_text("localhost\n")
        (self._common / "host_aliases").write_text(f"localhost {' '.join(sorted(_other_names()))}\n")
        own = [self.directory / name for name in ("qmaster", "qmaster/job_scripts", "spooldb", "execd")]
        for path in (*own, self._common.parent, self._common, *self._common.iterdir()):
            shutil.chown(path, ADMIN, ADMIN)

    def _make_cell(self) -> None:
        spool = self.directory / "spooldb"
        bootstrap = _set(
            (DATA / "default-bootstrap").read_text(),
            spooling_params=str(spool),
            qmaster_spool_dir=str(self.directory / "qmaster"),
        )
        (self._common / "bootstrap").write_text(bootstrap)
        # a cell kills what carries one of its group ids; the port is no other cell's
        group = 100_000 + 200 * self._ports[0]
        configuration = self.directory / "configuration"
        configuration.write_text(
            _set(
                (DATA / "default-configuration").read_text(),
                gid_range=f"{group}-{group + 199}",
                execd_spool_dir=str(self.directory / "execd"),
                mailer="/bin/true",
                load_report_time="00:00:05",
                reporting_params="accounting=true reporting=false flush_time=00:00:01 joblog=false"
                " sharelog=00:00:00 accounting_flush_time=00:00:00",
            )
        )
        defaults = str(PROGRAMS / "spooldefaults")
        resources = DATA / "util" / "resources"
        for argv in (
            [str(PROGRAMS / "spoolinit"), "berkeleydb", "libspoolb", str(spool), "init"],
            [defaults, "configuration", str(configuration)],
            [defaults, "complexes", str(resources / "centry")],
            [defaults, "usersets", str(resources / "usersets")],
            [defaults, "managers", ADMIN, "root"],
        ):
            self.command("setpriv", f"--reuid={ADMIN}", f"--regid={ADMIN}", "--clear-groups", *argv)

    def _configure(self) -> None:
        """Set up what qmaster must be asked for; nothing when it has been."""
        if self.succeeds("qconf", "-sq", "all.q"):
            return
        scheduler = _set(
            self.command("qconf", "-ssconf"),
            schedule_interval="0:0:1",
            flush_submit_sec="1",
            flush_finish_sec="1",
            job_load_adjustments="NONE",
            load_adjustment_decay_time="0:0:0",
            schedd_job_info="true",
        )
        self._qconf("-Msconf", scheduler)
        self.command("qconf", "-as", "localhost")
        self._qconf("-Ahgrp", "group_name @allhosts\nhostlist localhost\n")
        self._qconf("-Ap", PARALLEL_ENVIRONMENT.format(name="smp", rule="$pe_slots"))
        self._qconf("-Ap", PARALLEL_ENVIRONMENT.format(name="mpi", rule="$fill_up"))
        complexes = self.command("qconf", "-sc")
        self._qconf("-Mc", re.sub(r"^(?=h_core)", "gpu gpu INT <= YES YES 0 0\n", complexes, flags=re.MULTILINE))
        queue = _set(
            self.command("qconf", "-sq"),
            qname="all.q",
            hostlist="@allhosts",
            load_thresholds="NONE",  # the default stops a busy machine from starting jobs
            pe_list="smp mpi",
            slots=str(SLOTS),
        )
        self._qconf("-Aq", queue)
        self.command("qconf", "-mattr", "exechost", "complex_values", "gpu=2", "localhost")

    def _qconf(self, option: str, text: str) -> None:
        """Hand a text to qconf, which reads files only."""
        file = self.directory / "qconf.txt"
        file.write_text(text)
        self.command("qconf", option, str(file))


def _set(text: str, **values: str) -> str:
    """Change lines of the form ``name  value``, which may go on after a backslash."""
    text = re.sub(r"\\\n\s*", "", text)
    for name, value in values.items():
        text, changes = re.subn(rf"^{name}\s.*$", f"{name} {value}", text, flags=re.MULTILINE)
        if changes != 1:
            raise ValueError(f"{name} stands {changes} times in the text, not once")
    return text


def _link(link: Path, target: Path) -> None:
    if not link.is_symlink():
        link.symlink_to(target)


def _other_names() -> set[str]:
    """Collect the names of this machine: they must all mean localhost.

    A client gives its host name, qmaster looks up 127.0.0.1, and unless both are the same it is refused.
    """
    names = {socket.gethostname()}
    for name in (socket.gethostname(), "localhost", "127.0.0.1"):
        for look_up in (socket.gethostbyname_ex, socket.gethostbyaddr):
            with contextlib.suppress(OSError):
                canonical, aliases, _ = look_up(name)
                names |= {canonical, *aliases}
    return {name for name in names if re.search("[a-z]", name)} - {"localhost"}
