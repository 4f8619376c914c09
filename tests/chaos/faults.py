"""What goes wrong. `strike` brings a fault about once, and has the scene put it right `later` where it would last."""

from __future__ import annotations

import abc
import contextlib
import os
import random
import signal
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from typing import ClassVar, Protocol

import psycopg

from tests.fixtures.proxy import Proxy
from tests.fixtures.server import Server

STOPPED_SECONDS = (0.3, 3.0)  # some longer than a lease, some shorter
SWALLOWED_SECONDS = (0.5, 5.0)


class Scene(Protocol):
    """What faults need to know of a run."""

    rng: random.Random
    server: Server
    proxy: Proxy
    paused: set[int]

    @property
    def processes(self) -> list[BaseProcess]: ...

    def later(self, seconds: float, action: Callable[[], object]) -> None: ...

    def backends(self, action: str, condition: str) -> int: ...

    def wait_for_work(self, operations: int) -> None: ...


class Fault(abc.ABC):
    """Something that goes wrong."""

    name: ClassVar[str]
    weight: ClassVar[float]
    """How often it strikes, in proportion to other faults."""

    @abc.abstractmethod
    def strike(self, scene: Scene) -> int:
        """Do it; return how many it has hit."""


def _victim(scene: Scene) -> BaseProcess | None:
    running = [process for process in scene.processes if process.is_alive() and process.pid not in scene.paused]
    return scene.rng.choice(running) if running else None


class Kill(Fault):
    name = "workers killed"
    weight = 3

    def strike(self, scene: Scene) -> int:
        victim = _victim(scene)
        if victim is None:
            return 0
        victim.kill()
        return 1


class Pause(Fault):
    name = "workers paused"
    weight = 3

    def strike(self, scene: Scene) -> int:
        victim = _victim(scene)
        if victim is None or victim.pid is None:
            return 0
        pid = victim.pid

        def go_on() -> None:
            scene.paused.discard(pid)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

        os.kill(pid, signal.SIGSTOP)
        scene.paused.add(pid)
        scene.later(scene.rng.uniform(*STOPPED_SECONDS), go_on)
        return 1


class Terminate(Fault):
    name = "backends terminated"
    weight = 8

    def strike(self, scene: Scene) -> int:
        return scene.backends("pg_terminate_backend", "true")


class Cancel(Fault):
    name = "statements cancelled"
    weight = 6

    def strike(self, scene: Scene) -> int:
        return scene.backends("pg_cancel_backend", "state = 'active'")


class Cut(Fault):
    name = "connections cut"
    weight = 5

    def strike(self, scene: Scene) -> int:
        return scene.proxy.cut_some(scene.rng.choice((0.2, 1.0)), scene.rng)


class BlackHole(Fault):
    name = "black holes"
    weight = 1

    def strike(self, scene: Scene) -> int:
        scene.proxy.swallow()
        scene.later(scene.rng.uniform(*SWALLOWED_SECONDS), scene.proxy.spit_out)
        return 1


class Crash(Fault):
    name = "immediate restarts"
    weight = 0.7

    def strike(self, scene: Scene) -> int:
        scene.server.terminate(signal.SIGQUIT)  # what `pg_ctl stop -m immediate` sends
        scene.server.start()
        return 1


class PowerCut(Fault):
    name = "servers killed"
    weight = 0.3

    def strike(self, scene: Scene) -> int:
        scene.server.kill()
        scene.server.start()
        return 1


ALL: tuple[Fault, ...] = (Kill(), Pause(), Terminate(), Cancel(), Cut(), BlackHole(), Crash(), PowerCut())


class Backends:
    """A connection that signals other backends, made again when it is lost."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._connection: psycopg.Connection | None = None

    def strike(self, action: str, condition: str, rng: random.Random, *, at_most: int = 1) -> int:
        """Call *action* for some of pgstore's backends that meet *condition*; half of the time those that are at work go first."""
        order = "state = 'active' DESC, random()" if rng.random() < 0.5 else "random()"
        query = f"""
            SELECT {action}(pid)
              FROM (SELECT pid FROM pg_stat_activity
                     WHERE application_name = 'pgstore' AND backend_type = 'client backend' AND {condition}
                     ORDER BY {order} LIMIT %s) AS victims
        """
        try:
            if self._connection is None or self._connection.closed:
                self._connection = psycopg.connect(
                    self._url, autocommit=True, application_name="chaos", connect_timeout=5
                )
            return sum(done for (done,) in self._connection.execute(query.encode(), [at_most]).fetchall())
        except psycopg.Error:
            self._connection = None
            return 0

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
