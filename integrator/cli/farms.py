"""Whether a render farm runs this process.

A short list on purpose. A farm that is not in it, or a job that runs by hand in a farm's environment, says so with
``INTEGRATOR_FARM=1`` or ``INTEGRATOR_FARM=0``.
"""

from __future__ import annotations

import os
from typing import Final

#: Variable that Open Job Description sets for every action of a session.
_OPEN_JOB_DESCRIPTION: Final = "OPENJD_SESSION_WORKING_DIR"
#: Variables that farms set for the jobs they run, and publish jobs of two pipelines that know theirs to be one.
_MARKS: Final = {
    _OPEN_JOB_DESCRIPTION: "Open Job Description",
    "DEADLINE_SESSION_ID": "Deadline Cloud",
    "TR_ENV_JID": "Tractor",
    "CUE_FRAME_ID": "OpenCue",
    "AYON_PUBLISH_JOB": "an AYON publish job",
    "OPENPYPE_PUBLISH_JOB": "an OpenPype publish job",
}

#: Seconds that a publish waits for a busy soft lock on a farm; nobody sits in front of it.
FARM_WAIT: Final = 900.0
#: How often a farm may try a publish id that it gave itself, in all and on one host.
FARM_ATTEMPTS: Final = 3
FARM_ATTEMPTS_PER_HOST: Final = 1
#: Seconds that a farm waits for frames that another node has written and that are not seen here yet.
FARM_SETTLE: Final = 60.0


def farm() -> str:
    """What runs this process, "" if it is no farm."""
    said = os.environ.get("INTEGRATOR_FARM", "")
    if said:
        return "" if said == "0" else "INTEGRATOR_FARM"
    return next((name for mark, name in _MARKS.items() if os.environ.get(mark, "0") not in ("", "0")), "")


def open_job_description() -> bool:
    """Whether the session reads ``openjd_`` lines."""
    return bool(os.environ.get(_OPEN_JOB_DESCRIPTION))
