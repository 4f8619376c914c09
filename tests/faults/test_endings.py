"""Stores that are used while the interpreter ends: that works or raises at once, and the program ends."""

from __future__ import annotations

import subprocess
import sys

import pytest

import pgstore

USES = {
    "a put": "state.put('k', 1)",
    "a transaction": "\n            with client.transaction(): state['k'] = 1",
    "a get that waits": "queue.get(timeout=60)",
    "a lock": "\n            with state.lock('k'): pass",
    "an ephemeral store": "pgstore.Queue.ephemeral(client=client).put(1)",
    "a file": "files.put_file(io.BytesIO(b'x'), 'f')",
    "an awaited put": "asyncio.run(state.put.aio('k', 1))",
    "closing the client": "client.close()",
}
PROGRAM = """
import asyncio, io, sys, threading
# Before pgstore's own, so called after it.
import atexit
late = []
atexit.register(lambda: [use() for use in late])
import pgstore

client = pgstore.Client(sys.argv[1])
state = pgstore.Dict.persist("state", client=client)
queue = pgstore.Queue.persist("queue", client=client)
files = pgstore.Volume.persist("files", client=client)
state["saved"] = 0
queue.put("warm", partition="warm")

def use():
    try:
        {use}
    except pgstore.Error as exc:
        print("raised", type(exc).__name__, flush=True)
    except Exception as exc:
        print("foreign", repr(exc), flush=True)

class Saver:
    def __init__(self):
        self.me = self
    def __del__(self):
        use()

def work():
    while True:
        state["busy"] = 1

threading.Thread(target=work, daemon=True).start()
{when}
print("end of script", flush=True)
"""


@pytest.mark.parametrize("use", USES)
def test_a_program_ends_whose_finalisers_use_a_store(own_database, use):
    finish(PROGRAM.format(use=USES[use], when="Saver()"), own_database)


@pytest.mark.parametrize("use", ["a put", "a lock", "a file", "an awaited put", "an ephemeral store"])
def test_a_function_that_is_called_at_exit_after_the_client_was_closed_uses_a_store(own_database, use):
    output = finish(PROGRAM.format(use=USES[use], when="late.append(use)"), own_database)
    assert "foreign" not in output


def finish(program: str, url: str) -> str:
    done = subprocess.run([sys.executable, "-c", program, url], check=False, capture_output=True, text=True, timeout=40)
    assert "end of script" in done.stdout, done.stderr
    return done.stdout


def test_a_file_that_is_closed_while_the_interpreter_ends_is_written_or_says_so(own_database):
    program = """
import sys, pgstore
store = pgstore.Volume.persist("ends", client=pgstore.Client(sys.argv[1]))
class Log:
    def __init__(self):
        self.me = self
        self.file = store.open("log", "wb")
        self.file.write(b"last words")
    def __del__(self):
        self.file.close()
        print("closed", flush=True)
Log()
print("end of script", flush=True)
"""
    output = finish(program, own_database)
    with pgstore.Client(own_database) as client:
        store = pgstore.Volume.from_name("ends", client=client)
        assert "closed" not in output or b"".join(store.read_file("log")) == b"last words"
