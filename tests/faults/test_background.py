"""The threads in the background: whatever goes wrong there, they go on."""

from __future__ import annotations

import threading

import pgstore
from pgstore.core.operation import Listen, Topic
from tests.faults.conftest import until


def _names():
    return {thread.name for thread in threading.enumerate() if thread.name.startswith("pgstore-")}


def test_no_error_ends_a_thread_in_the_background(own_database, eye, monkeypatch):
    """
    Not lost connections, nor tables that are not there: leases are renewed and waiting gets woken as soon as that is over.
    """
    ended: list[threading.ExceptHookArgs] = []
    monkeypatch.setattr(threading, "excepthook", ended.append)
    with pgstore.Client(own_database) as client:
        queue = pgstore.Queue.persist("q", client=client)
        ephemeral = pgstore.Dict.ephemeral(client=client)
        ephemeral["k"] = 1
        queue.put("leased")
        lease = queue.get(lease=1.5, renew=True)
        ticket = client._blocking.listener.register(Listen(Topic(1, "any")))
        until(lambda: eye.waiting() >= 1)
        running = _names()
        assert {"pgstore-listener", "pgstore-scheduler-urgent"} <= running

        eye.rows("ALTER TABLE pgstore.queue_deferred RENAME TO elsewhere")
        eye.rows("ALTER TABLE pgstore.session RENAME TO session_elsewhere")
        for _ in range(3):
            eye.terminate_all()
            until(lambda: eye.waiting() >= 1)
        eye.rows("ALTER TABLE pgstore.session_elsewhere RENAME TO session")
        eye.rows("ALTER TABLE pgstore.elsewhere RENAME TO queue_deferred")

        before = eye.value("SELECT due_at FROM pgstore.queue_deferred")
        until(lambda: eye.value("SELECT due_at FROM pgstore.queue_deferred") > before)
        assert running <= _names()
        assert not lease.is_lost
        lease.ack()
        assert ephemeral["k"] == 1
        ticket.close()

    assert ended == []
