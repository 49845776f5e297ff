"""Torque.

Facts were measured on Torque 6.1.3; the wording of messages is that of its sources.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import ClassVar

from ..application import Application
from ..array import ArraySpec
from ..quantity import whole_number
from ..run import Reason
from . import pbs_text
from .base import Machine
from .pbs_family import PbsFamily, shape

#: Characters that a list of indices may have: qsub reads directives into a buffer.
_LONGEST_ARRAY = 1000


class TorqueBackend(PbsFamily):
    """A Torque cluster. Parameters are those of `BatchSystem`.

    Ended jobs stay in the queue for a while (the server's ``keep_completed``); after that nobody but their own
    status files knows of them.
    """

    type = "torque"
    product = "Torque"
    template = "torque.sh.j2"
    index_expression = '"$PBS_ARRAYID"'
    outer_variables = "PBS_*"
    kept_variables = "PBS_DEFAULT|PBS_SERVER|PBS_CLIENTRETRY"
    capacity_submit = ("Maximum number of jobs already in queue",)
    transient_submit = (
        "cannot connect to server",
        "Unable to communicate with",
        "Server shutting down",
        "Server busy",
        "currently too busy",
        "No free connections",
        "Resource temporarily unavailable",
        # a job that was to be waited for has ended and is forgotten: its own state tells whether this one may run
        "Invalid Job Dependency",
    )
    # the answer to a request that the server may have carried out was cut off
    unclear_submit = (
        "Batch protocol error",
        "End of File",
        "Error reading data from socket",
        "Socket close detected",
        "Time out",
        "timed out",
    )
    unsupported: ClassVar[Mapping[str, str]] = {
        "qos": "Torque has none; where its scheduler does, say it as a native option, such as '-l qos=NAME'",
        "deadline": "Torque can't be told when a job has to be ended; ask for a walltime",
    }
    # not "signal": qsig reaches the login shell that PBS runs the script with, too; that dies, and the job with it
    capabilities = frozenset({"accounting", "array", "dependency", "hold", "monitoring"})
    # -1 to -3, -7 to -9, -13 and -14 are troubles at the start of a job
    reasons: ClassVar[Mapping[int, Reason]] = {
        -4: Reason.NODE_FAILURE,
        -5: Reason.NODE_FAILURE,
        -6: Reason.NODE_FAILURE,
        -10: Reason.MEMORY,
        -11: Reason.WALLTIME,
        -12: Reason.CPU_TIME,
    }
    killed = 256 + 15

    def validate(self, app: Application) -> None:
        """Check that the resource can run `app`."""
        super().validate(app)
        if app.constraint is not None:
            pbs_text.check_words(
                app.constraint,
                r"[A-Za-z][\w.-]*(:[A-Za-z][\w.-]*)*",
                "constraint",
                "'fast:bigmem' (properties of nodes)",
            )

    def header_values(self, app: Application) -> dict[str, object]:
        """Give the nodes of the request, and the memory on all of them."""
        wanted = shape(app)
        memory = wanted.memory * wanted.nodes if wanted.memory is not None else None
        return {**super().header_values(app), "request": request(app), "memory": memory}

    def takes_array(self, array: ArraySpec) -> bool:
        """Take what can be written in a line."""
        return len(self.native_array(array)) <= _LONGEST_ARRAY

    def native_array(self, array: ArraySpec) -> str:
        """Write the elements as a list of ranges: there are no steps."""
        runs: list[list[int]] = []
        for index in array.indices:
            if runs and index == runs[-1][-1] + 1:
                runs[-1][1:] = [index]
            else:
                runs.append([index])
        listed = ",".join("-".join(map(str, run)) for run in runs)
        return listed + (f"%{array.max_running}" if array.max_running else "")

    def machine(self, name: str, found: pbs_text.Attributes, available: bool) -> Machine:
        """Give the meaning of one node's attributes; what its MoM measured is in its status."""
        status = dict(part.partition("=")[::2] for part in found.get("status", "").split(","))
        cores = whole_number(found.get("np"))
        used = sum(map(pbs_text.count_numbers, re.findall(r"([0-9][0-9,-]*)/", found.get("jobs", ""))))
        load = status.get("loadave", "")
        return Machine(
            name,
            available,
            found.get("state", ""),
            cores,
            max(0, cores - used) if cores is not None else None,
            pbs_text.parse_memory(status.get("physmem", "")),
            float(load) if re.fullmatch(r"[0-9]{1,9}\.[0-9]{1,9}", load) else None,
        )


def request(app: Application) -> str:
    """Write what a job asks for as nodes.

    Parameters
    ----------
    app : Application
        The job.
    """
    wanted = shape(app)
    parts = [str(wanted.nodes), f"ppn={wanted.cores}"]
    if app.requested_gpus:
        parts.append(f"gpus={app.requested_gpus}")
    if app.constraint:
        parts.append(app.constraint)
    return ":".join(parts)
