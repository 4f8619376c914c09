"""The command line and what it is given: Ctrl-C at any moment, outputs that take nothing, streams that are closed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import psycopg
import pytest

from tests.faults.conftest import until

START = "from pgstore.__main__ import main; main()"
# Sends Ctrl-C when the module that is named first is asked for.
AT_IMPORT = """
import os, signal, sys
module = sys.argv.pop(1)
class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == module:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupting())
from pgstore.__main__ import main
main()
"""
# Sends it when everything is done and the interpreter ends.
AT_EXIT = """
import atexit, os, signal
atexit.register(lambda: os.kill(os.getpid(), signal.SIGINT))
from pgstore.__main__ import main
main()
"""


def run(*arguments, code=START, shell=None, **variables):
    """Exit code and stderr of `pgstore` with *arguments*; *shell* is what a shell would have after them, such as `> /dev/full`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PGSTORE_", "PG", "DATABASE"))}
    command = [sys.executable, "-c", code, *arguments]
    if shell is not None:
        command = ["sh", "-c", f'"$@" {shell}', "sh", *command]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60, env={**kept, **variables})
    return done.returncode, done.stderr


@pytest.mark.parametrize("module", ["pgstore.cli", "typer", "pgstore.cli.status", "psycopg"])
def test_ctrl_c_while_modules_are_imported_is_quiet(database, module):
    """
    Whoever typed the wrong command presses it at once, and half of the time is spent there.
    """
    assert run(module, "status", code=AT_IMPORT, PGSTORE_URL=database) == (130, "")


def test_ctrl_c_while_the_interpreter_ends_is_quiet(database):
    """
    The output is complete by then.
    """
    assert run("status", code=AT_EXIT, PGSTORE_URL=database) == (130, "")


def test_ctrl_c_that_is_ignored_stays_so(database):
    """
    As after nohup, or in the background of a script.
    """
    ignoring = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n"

    assert run("status", code=ignoring + AT_EXIT, PGSTORE_URL=database) == (0, "")


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["status"], ["status", "--json"], ["migrate", "--sql"]],
    ids=" ".join,
)
def test_a_full_disk_is_one_line_and_code_1(database, arguments):
    """
    A script that keeps the output must not go on with half of it.
    """
    code, err = run(*arguments, shell="> /dev/full", PGSTORE_URL=database)

    assert code == 1
    assert err.startswith("error: ")
    assert "no space left" in err
    assert err.count("\n") == 1


def test_output_that_is_closed_is_one_line_and_no_connection_gets_its_place(database):
    """
    What is printed would go to the server.
    """
    code, err = run("status", shell=">&-", PGSTORE_URL=database)

    assert code == 1
    assert "bad file descriptor" in err
    assert err.count("\n") == 1


def test_without_any_stream_the_code_tells(database):
    """
    As where a daemon starts it.
    """
    assert run("migrate", shell="<&- >&- 2>&-", PGSTORE_URL=database)[0] == 1
    assert (
        run("secret", "delete", "none", "--allow-missing", "--yes", shell="<&- >&- 2>&-", PGSTORE_URL=database)[0] == 0
    )


def test_the_help_needs_nothing_that_talks_to_a_database():
    """
    It is there at once, also from a cold disk.
    """
    told = (
        "import sys, atexit\n"
        "late = ('psycopg', 'asyncio', 'rich.console')\n"
        "atexit.register(lambda: print([name for name in late if name in sys.modules], file=sys.stderr))\n"
    )

    assert run("--help", code=told + START) == (0, "[]\n")


def test_a_server_that_dies_in_the_middle_is_one_line(database, proxy):
    """
    Not the warnings of each attempt.
    """
    proxy.cut_after(from_client=3000)

    with subprocess.Popen(
        [sys.executable, "-c", START, "check"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PGSTORE_URL": proxy.url(database)},
    ) as process:
        proxy.wait_for_cut()
        _, err = process.communicate(timeout=60)

    assert process.returncode == 3
    assert err.startswith("error: ")
    assert err.count("\n") == 1


def test_an_interrupted_command_says_so_in_its_code(database, proxy):
    """
    In the middle of a query that is not answered.
    """
    proxy.stall("server")
    with subprocess.Popen(
        [sys.executable, "-c", START, "queue", "list"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PGSTORE_URL": proxy.url(database)},
    ) as process:
        while not proxy.bytes_from["client"]:
            pass
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)

    assert (process.returncode, err) == (130, "")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)], ids=["SIGTERM", "SIGHUP"])
def test_a_command_that_is_told_to_end_leaves_no_half_file(own_database, commands, tmp_path, number, code):
    """
    As of a service that is stopped, or a terminal that is closed, which says so more than once.
    """
    commands.on(own_database).done("volume", "create", "models")
    commands.on(own_database).done("volume", "put", "models", "-", "/large", stdin=os.urandom(1 << 20))
    environ = {**os.environ, "PGSTORE_URL": own_database, "PGSTORE_ENVIRONMENT": commands.environment}
    with psycopg.connect(own_database) as connection:
        connection.execute("LOCK TABLE pgstore.chunk")  # which is read when there is a file to write to
        command = [sys.executable, "-c", START, "volume", "get", "models", "/large", str(tmp_path / "large")]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environ) as process:
            until(lambda: list(tmp_path.iterdir()))
            process.send_signal(number)
            process.send_signal(number)
            _, err = process.communicate(timeout=30)

    assert (process.returncode, err) == (code, "")
    assert list(tmp_path.iterdir()) == []


def test_a_program_that_is_run_ends_at_a_signal_as_under_python(own_database, tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        "import os, signal, pgstore\n"
        "app = pgstore.App('ends')\n"
        "@app.local_entrypoint()\n"
        "def main():\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
    )

    assert run("run", str(program), PGSTORE_URL=own_database) == (-signal.SIGTERM, "")
