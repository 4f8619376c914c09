"""Watching the process that has started the daemon.

The end of its socket does not say that it has ended: children that it has forked have the socket, too. A pidfd does.
"""

from __future__ import annotations

import os


class Gone(Exception):
    """The process has ended already."""


def watch(pid: int) -> int:
    """
    A descriptor that can be read when *pid*, the parent of this process, has ended.

    Raises:
        Gone: it has.
    """
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        raise Gone from None
    if os.getppid() != pid:  # its number may be another's by now
        os.close(descriptor)
        raise Gone
    return descriptor
