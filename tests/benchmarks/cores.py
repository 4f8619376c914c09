"""Cores kept awake during a benchmark, as `idle=poll` would keep them.

On a virtual machine an idle core is handed back to the host, and waking it takes tens of microseconds. Whoever waits for an answer
pays that, ours and the reference alike, so that in a run on an otherwise idle machine it hides what the clients themselves cost;
a machine with work to do has no such pause. A process of the scheduler's idle class on each core runs only where nothing else
would, and gives way at once.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator

SPIN = """
import os, sys
os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
os.sched_setaffinity(0, {int(sys.argv[1])})
parent = int(sys.argv[2])
while os.getppid() == parent:
    for _ in range(10_000_000):
        pass
"""


@contextlib.contextmanager
def awake() -> Iterator[None]:
    """Keep all cores that this process may use from sleeping."""
    spinners = [
        subprocess.Popen([sys.executable, "-c", SPIN, str(core), str(os.getpid())])
        for core in sorted(os.sched_getaffinity(0))
    ]
    try:
        yield
    finally:
        for spinner in spinners:
            spinner.send_signal(signal.SIGKILL)
            spinner.wait()
