"""The embedded server, with real ones: it is shared, private, durable, and survives what happens to its clients."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psycopg
import pytest

import pgstore
from pgstore import embedded, errors
from pgstore.embedded import binaries as binaries_module
from pgstore.embedded import paths as paths_module
from pgstore.embedded.locks import FileLock

SOURCE = Path(embedded.__file__).parents[2]
PACKAGES = Path(psycopg.__file__).parents[1]
STARTER = "import sys; from pgstore.embedded import Server; server = Server(sys.argv[1]); print(server.start())"

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="about what root must do; this is another user")


def processes_of(directory):
    """The ids of all processes that name *directory* in their command line or work in it."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            here = os.fsencode(directory)
            if here in (entry / "cmdline").read_bytes() or here in os.fsencode(os.readlink(entry / "cwd")):
                found.append(int(entry.name))
    return [pid for pid in found if pid != os.getpid()]


@pytest.fixture
def directory():
    """A place for a server that does not exist yet; its servers are killed in the end."""
    with place() as base:
        yield base / "s"


@contextlib.contextmanager
def place():
    # Not pytest's tmp_path: that is too long for a socket, and no other user may enter it.
    base = Path(tempfile.mkdtemp(prefix="pgs-", dir="/tmp"))
    base.chmod(0o755)
    yield base
    for pid in processes_of(base):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    shutil.rmtree(base, ignore_errors=True)


@pytest.fixture(scope="module")
def made():
    """The directory of a server that most tests share: making one is the slow part, starting it is not."""
    with place() as base:
        embedded.Server(base / "s").start()
        yield base / "s"


@pytest.fixture
def server(made):
    """A running server; a test may kill it, but not spoil it for the next."""
    server = embedded.Server(made)
    server.start()
    return server


@pytest.fixture
def no_system_binaries(monkeypatch):
    """A machine without an installed Postgres."""
    monkeypatch.setattr(binaries_module, "SYSTEM_PLACES", ())
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.delenv("PGSTORE_PGBIN", raising=False)
    if any(found.source == "system" for found in binaries_module._found()):
        pytest.skip("/usr/bin itself has a Postgres server")


@pytest.fixture
def no_namespaces(monkeypatch, tmp_path):
    """A machine on which user namespaces are not to be had."""
    embedded.identity.namespace_prefix.cache_clear()
    monkeypatch.setenv("PATH", str(tmp_path))  # without `unshare`
    yield
    embedded.identity.namespace_prefix.cache_clear()


@pytest.fixture(params=["system", "wheel"])
def binaries(request, monkeypatch):
    """The programs of the system's Postgres, and those of the wheel."""
    if request.param == "wheel":
        request.getfixturevalue("no_system_binaries")
    try:
        found = embedded.find_binaries()
    except errors.EmbeddedServerError as exc:
        pytest.skip(str(exc))
    if found.source != request.param:
        pytest.skip(f"no {request.param} binaries on this machine")
    return found


def connect(url, **options):
    return psycopg.connect(url, autocommit=True, **options)


def postmaster(server):
    pid = server.status().pid
    assert pid is not None
    return pid


def value(url, statement):
    with connect(url) as connection:
        row = connection.execute(statement).fetchone()
    return row[0]


def environment(**more):
    return {**os.environ, "PYTHONPATH": str(SOURCE), **more}


def spawn(program, *arguments, **options):
    options = {"env": environment(), "stdout": subprocess.PIPE, "text": True, "start_new_session": True, **options}
    return subprocess.Popen([sys.executable, "-c", program, *map(str, arguments)], **options)


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def wait_for(condition):
    deadline = time.monotonic() + 20
    while not (result := condition()):
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.001)
    return result


def test_the_first_start_makes_a_durable_private_server(directory, binaries):
    """
    What users keep in it must survive a power cut and be nobody else's.
    """
    server = embedded.Server(directory, binaries)

    url = server.start()

    with connect(url) as connection:
        settings = dict(
            connection.execute(
                "SELECT name, setting FROM pg_settings WHERE name IN ('fsync', 'full_page_writes', 'data_checksums',"
                " 'synchronous_commit', 'listen_addresses', 'server_encoding', 'unix_socket_permissions')"
            ).fetchall()
        )
        assert connection.info.server_version // 10000 == binaries.major
        assert connection.info.dbname == "pgstore"
    assert settings == {
        "fsync": "on",
        "full_page_writes": "on",
        "synchronous_commit": "on",
        "listen_addresses": "",
        "server_encoding": "UTF8",
        "data_checksums": "on",
        "unix_socket_permissions": "0700",
    }
    assert [mode(directory), mode(directory / "data"), mode(directory / "run")] == [0o700] * 3
    status = server.status()
    assert (status.running, status.major, status.binaries) == (True, binaries.major, binaries.directory)


def test_starting_again_attaches(server):
    """
    Every program calls start; the second must find the first one's server.
    """
    pid = server.status().pid

    url = embedded.Server(server.directory).start()

    assert url == server.url
    assert embedded.Server(server.directory).status().pid == pid


def test_attaching_starts_no_process(server, monkeypatch):
    """
    It is on the way of every short script: a connection, a few milliseconds, nothing more.
    """

    def refuse(*_arguments, **_options):
        raise AssertionError("a process was started")

    monkeypatch.setattr(subprocess, "Popen", refuse)

    assert embedded.Server(server.directory).start() == server.url


def test_processes_starting_at_once_share_one_server(directory):
    """
    Two servers on one data directory would destroy it; two runs of initdb would lose one's data.
    """
    program = (
        "import sys, psycopg; from pgstore.embedded import Server; server = Server(sys.argv[1]); url = server.start()\n"
        "cursor = psycopg.connect(url).execute('SELECT system_identifier FROM pg_control_system()')\n"
        "print(url, server.status().pid, cursor.fetchone())"
    )
    starters = [spawn(program, directory) for _ in range(4)]

    said = {starter.communicate(timeout=60)[0] for starter in starters}

    assert [starter.returncode for starter in starters] == [0] * 4
    assert len(said) == 1
    assert not list(directory.glob("data.new-*"))


def test_the_server_outlives_its_starter_and_leaves_it_its_pipes(server):
    """
    `url=$(pgstore server start)` must end, and the server go on: so it may hold neither stdout nor stderr.
    """
    server.stop()
    starter = spawn(STARTER, server.directory, stderr=subprocess.PIPE)

    url, complaints = starter.communicate(timeout=30)  # returns at EOF of both pipes

    assert complaints == ""
    assert value(url.strip(), "SELECT 1") == 1


def test_ctrl_c_ends_the_program_and_not_the_server(server):
    """
    The terminal signals the whole process group; other programs use the server.
    """
    server.stop()
    program = STARTER + "; sys.stdout.flush(); import time; time.sleep(60)"
    starter = spawn(program, server.directory, stderr=subprocess.DEVNULL)
    assert starter.stdout is not None
    url = starter.stdout.readline().strip()

    os.killpg(starter.pid, signal.SIGINT)

    assert starter.wait(20) != 0
    starter.stdout.close()
    assert value(url, "SELECT 1") == 1


def test_rows_acknowledged_before_the_postmaster_is_killed_are_there_after(server):
    """
    A commit that returned is a promise; the next start must replay the log without being asked.
    """
    with connect(server.url) as connection:
        connection.execute("CREATE TABLE number (n integer)")
    acknowledged = []

    def write():
        with contextlib.suppress(psycopg.OperationalError), connect(server.url) as connection:
            for n in range(10**6):
                connection.execute("INSERT INTO number VALUES (%s)", (n,))
                acknowledged.append(n)

    writer = threading.Thread(target=write)
    writer.start()
    wait_for(lambda: len(acknowledged) > 50)
    os.kill(postmaster(server), signal.SIGKILL)
    url = server.start()
    writer.join()

    with connect(url) as connection:
        stored = {n for (n,) in connection.execute("SELECT n FROM number")}
    assert set(acknowledged) <= stored
    assert len(stored) <= len(acknowledged) + 1


def test_a_backend_still_busy_after_its_postmaster_was_killed_is_waited_for(server):
    """
    It still writes to the data: a second server beside it would corrupt them.
    """
    busy = threading.Event()

    def work():
        with contextlib.suppress(psycopg.OperationalError), connect(server.url) as connection:
            busy.set()
            connection.execute("SELECT count(*) FROM generate_series(1, 4000000) AS a(n) WHERE sqrt(n) < 0")

    worker = threading.Thread(target=work)
    worker.start()
    busy.wait()
    time.sleep(0.1)  # the statement is sent
    killed = postmaster(server)
    os.kill(killed, signal.SIGKILL)

    url = server.start()

    worker.join()
    assert value(url, "SELECT 1") == 1
    assert server.status().pid not in (None, killed)


def test_a_pid_file_that_names_some_other_process_is_not_believed(server):
    """
    In a container process ids repeat: Postgres then says that a server is running, for ever.
    """
    os.kill(postmaster(server), signal.SIGKILL)
    pid_file = server.directory / "data" / "postmaster.pid"
    lines = pid_file.read_text().splitlines()
    wait_for(lambda: not processes_alive(server.directory))
    pid_file.write_text("\n".join([str(os.getpid()), *lines[1:]]) + "\n")

    assert value(server.start(), "SELECT 1") == 1


def processes_alive(directory):
    lock = FileLock(directory / "server.lock")
    if lock.try_acquire():
        lock.release()
        return False
    return True


@pytest.mark.parametrize("victims", ["starter", "starter and initdb"])
def test_killing_the_first_start_in_the_middle_leaves_nothing_to_repair(directory, victims):
    """
    Half a data directory that looks like a whole one would be the end of the embedded server on that machine.
    """
    starter = spawn(STARTER, directory, stderr=subprocess.DEVNULL)
    wait_for(lambda: list(directory.glob("data.new-*/base/1")))

    if victims == "starter":
        starter.kill()
    else:
        os.killpg(starter.pid, signal.SIGKILL)
    starter.communicate()
    assert not (directory / "data").exists()
    url = embedded.Server(directory).start()

    assert value(url, "SELECT 1") == 1
    assert not list(directory.glob("data.new-*"))


def test_a_database_that_is_missing_is_made(server):
    """
    The first start may have been killed between the server and its database.
    """
    with connect(server.url.replace("/pgstore?", "/postgres?")) as connection:
        connection.execute("DROP DATABASE pgstore")

    assert value(server.start(), "SELECT current_database()") == "pgstore"


@pytest.mark.parametrize("immediate", [False, True])
def test_stop_says_whether_one_was_running_and_loses_nothing(server, immediate):
    """
    The command line prints it; a server that is still ending when stop returns would trip the next start.
    """
    with connect(server.url) as connection:
        connection.execute(f"CREATE TABLE kept_{immediate} AS SELECT 1 AS n")

        assert server.stop(immediate=immediate) is True
        assert server.stop() is False

    assert (server.status().running, server.status().pid) == (False, None)
    assert value(server.start(), f"SELECT n FROM kept_{immediate}") == 1


def test_a_server_never_started_has_a_status_and_nothing_to_stop(directory):
    """
    Asking must not make anything.
    """
    server = embedded.Server(directory)

    assert (server.status().running, server.status().major, server.stop()) == (False, None, False)
    assert not directory.exists()


@pytest.mark.parametrize("name", ["x" * 120, "a,b", "with space and %41", 'a"b', "a'b\\c $HOME"])
def test_any_path_will_do(server, directory, name):
    """
    A socket's path has at most 107 bytes, and libpq splits it at commas: neither is the user's concern.
    """
    server.stop()
    moved = embedded.Server(directory.parent / name)
    server.directory.rename(moved.directory)

    url = moved.start()

    with connect(url) as connection:
        assert connection.info.host == str(moved._paths.sockets)
    assert mode(moved._paths.sockets) == 0o700
    assert len(os.fsencode(moved._paths.sockets)) < 100
    assert moved.status().binaries == embedded.find_binaries().directory
    moved.stop()
    assert moved._paths.sockets.exists() == (moved._paths.sockets.parent == moved.directory)  # nothing stays in /tmp
    moved.directory.rename(server.directory)


def test_a_squatted_socket_directory_is_refused(directory):
    """
    In /tmp anyone could have made it, with a server of theirs inside, whose pickles we would load.
    """
    server = embedded.Server(directory / ("x" * 120))
    server._paths.sockets.mkdir(mode=0o755)
    try:
        with pytest.raises(errors.EmbeddedServerError, match="must be a directory that only the user"):
            server.start()
    finally:
        server._paths.sockets.rmdir()


def test_the_starter_s_environment_does_not_matter(directory, monkeypatch):
    """
    The server outlives the program: its settings must not be those of the first shell that happened to start it.
    """
    for name, content in {
        "LC_ALL": "xx_XX.nothing",
        "LANG": "xx_XX.nothing",
        "PGPORT": "1",
        "PGDATA": "/nonexistent",
        "PGHOSTADDR": "192.0.2.1",
        "PGOPTIONS": "-c nonsense=1",
        "TZ": "Asia/Kathmandu",
        "AWS_SECRET_ACCESS_KEY": "hush",
    }.items():
        monkeypatch.setenv(name, content)
    server = embedded.Server(directory)

    server.start()

    for name in ("PGPORT", "PGHOSTADDR", "PGOPTIONS"):
        monkeypatch.delenv(name)
    assert value(server.url, "SHOW timezone") == "UTC"
    assert b"hush" not in Path(f"/proc/{server.status().pid}/environ").read_bytes()


def test_data_of_another_version_get_their_own_programs(server, monkeypatch):
    """
    After an upgrade of the machine the data are still of the old version; without its programs the error must say so.
    """
    major = server.status().major
    other = next((found for found in binaries_module._found() if found.major != major), None)
    if other is None:
        pytest.skip("only one version of PostgreSQL on this machine")
    server.stop()
    upgraded = embedded.Server(server.directory, other)

    assert value(upgraded.start(), "SHOW server_version_num").startswith(str(major))
    upgraded.stop()

    monkeypatch.setattr(binaries_module, "_found", lambda: iter([other]))
    with pytest.raises(errors.EmbeddedServerError, match=f"the data needs PostgreSQL {major}, found: {other.major}"):
        upgraded.start()


def test_a_setting_the_server_refuses_is_quoted_from_its_log(server):
    """
    "Did not start" sends people to a log they have never heard of.
    """
    server.stop()
    conf = server.directory / "data" / "postgresql.conf"
    sound = conf.read_text()
    conf.write_text(sound + "shared_buffers = 'plenty'\n")

    with pytest.raises(errors.EmbeddedServerError, match="ended while starting.*shared_buffers.*plenty") as raised:
        server.start()
    assert "\n" not in str(raised.value)

    conf.write_text(sound)
    assert value(server.start(), "SELECT 1") == 1


def test_the_system_comes_first_and_the_newest_of_it(monkeypatch, tmp_path):
    """
    What the machine's owner installed gets the machine's updates.
    """
    for place, version in {"14": "14.1", "16": "16.2", "9.6": "9.6.1", "wheel/pginstall18": "18.4"}.items():
        bin_directory = tmp_path / place / "bin"
        bin_directory.mkdir(parents=True)
        for program in binaries_module.PROGRAMS:
            (bin_directory / program).write_text(f"#!/bin/sh\necho '{program} (PostgreSQL) {version}'\n")
            (bin_directory / program).chmod(0o755)
    monkeypatch.setattr(binaries_module, "SYSTEM_PLACES", (f"{tmp_path}/[0-9]*/bin".lstrip("/"),))
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.delenv("PGSTORE_PGBIN", raising=False)
    monkeypatch.setattr(binaries_module, "WHEEL", "wheel")
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "wheel" / "__init__.py").touch()

    assert embedded.find_binaries() == embedded.Binaries(tmp_path / "16" / "bin", 16, "system")

    for place in ("14", "16"):
        shutil.rmtree(tmp_path / place)
    wheel = tmp_path / "wheel" / "pginstall18" / "bin"
    assert embedded.find_binaries() == embedded.Binaries(wheel, 18, "wheel")

    shutil.rmtree(wheel)
    with pytest.raises(errors.EmbeddedServerError, match=r"found: 9 in .*pip install 'pgstore\[embedded\]'"):
        embedded.find_binaries()

    monkeypatch.setenv("PGSTORE_PGBIN", str(tmp_path))
    with pytest.raises(errors.EmbeddedServerError, match="which has no program initdb, postgres, pg_ctl"):
        embedded.find_binaries()


def test_existing_data_decide_the_default_directory(monkeypatch, tmp_path):
    """
    Were it the version of the programs, installing a newer Postgres would seem to empty every store.
    """
    monkeypatch.setattr(paths_module, "ROOT_BASE", tmp_path / "nowhere")
    monkeypatch.setattr(paths_module, "find_binaries", lambda: embedded.Binaries(tmp_path, 17, "system"))
    for name in ("PGSTORE_SERVER_DIR", "PGSTORE_PGBIN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    base = tmp_path / "pgstore"
    namespaces = os.geteuid() != 0 or embedded.identity.namespace_prefix()
    assert embedded.default_directory() == (base if namespaces else tmp_path / "nowhere") / "pg17"

    for name in ("pg14", "pg15"):
        (base / name / "data").mkdir(parents=True)
        (base / name / "data" / "PG_VERSION").write_text(name[2:])
    assert embedded.default_directory() == base / "pg15"

    monkeypatch.setenv("PGSTORE_SERVER_DIR", "/srv/mine")
    assert embedded.default_directory() == Path("/srv/mine")


def make_file(directory):
    directory.touch()


def make_writable_by_others(directory):
    directory.mkdir()
    directory.chmod(0o777)


def make_data_directory(directory):
    directory.mkdir()
    (directory / "PG_VERSION").write_text("15\n")


def make_foreign(directory):
    directory.mkdir()
    os.chown(directory, 12345, 12345)


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (make_file, "is not a directory"),
        (make_writable_by_others, "other users may write to .*chmod go-w"),
        (make_data_directory, "is itself a Postgres data directory"),
        pytest.param(make_foreign, "belongs to the user with id 12345", marks=as_root),
    ],
)
def test_an_unsafe_directory_is_refused_and_left_as_it_is(directory, make, complaint):
    """
    Whoever may write to it may put another server in our place; and a directory that was there is not ours to chmod.
    """
    make(directory)
    before = directory.stat()

    with pytest.raises(errors.EmbeddedServerError, match=complaint):
        embedded.Server(directory).start()

    assert (before.st_mode, before.st_uid) == (directory.stat().st_mode, directory.stat().st_uid)


def test_what_a_user_makes_is_not_in_the_schema_of_pgstore(server):
    """
    The server's role has the name of the schema, which by default would stand before public.
    """
    with pgstore.Client(server.start()) as client, client.transaction() as tx:
        pgstore.Dict.from_name("any", create_if_missing=True, client=client).hydrate()

        tx.connection.execute("CREATE TABLE store (id integer)")

        assert tx.connection.execute("SELECT to_regclass('public.store') IS NOT NULL").fetchone() == (True,)


def test_a_directory_that_others_may_replace_is_refused(tmp_path):
    """
    Who may write to the directory above it may put one of theirs in its place; not where it is sticky, as /tmp is.
    """
    tmp_path.chmod(0o777)
    with pytest.raises(errors.EmbeddedServerError, match=f"everybody may write to {tmp_path} .*chmod o-w"):
        embedded.Server(tmp_path / "a" / "server").start()

    tmp_path.chmod(0o1777)
    paths_module.Paths(tmp_path / "a" / "server").check()


def test_a_home_that_cannot_be_written_is_explained(monkeypatch, tmp_path):
    """
    Read-only homes are common in containers; the way out is a variable the user has to learn of.
    """
    (tmp_path / "home").touch()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("PGSTORE_SERVER_DIR", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(paths_module, "ROOT_BASE", tmp_path / "nowhere")

    with pytest.raises(errors.EmbeddedServerError, match="cannot be used: .*not a directory.*PGSTORE_SERVER_DIR"):
        embedded.Server(tmp_path / "home" / ".local" / "pgstore").start()


@as_root
def test_a_full_disk_is_explained(directory):
    """
    The message of the program that found no space is what helps; nothing half-made may stay and fill it further.
    """
    directory.mkdir()
    program = (
        "import sys; from pathlib import Path; from pgstore import embedded, errors\n"
        "try: embedded.Server(sys.argv[1]).start()\n"
        "except errors.EmbeddedServerError as exc: print(exc)\n"
        "print('left:', *Path(sys.argv[1]).glob('data*'))"
    )
    # A mount namespace of its own: the small disk vanishes with the process.
    mount = f'mount -t tmpfs -o size=8m,mode=0700 tmpfs {directory} || exit 77; exec "$@"'
    command = ["unshare", "--mount", "/bin/sh", "-c", mount, "sh", sys.executable, "-c", program, str(directory)]
    run = subprocess.run(command, check=False, env=environment(), capture_output=True, text=True, timeout=60)
    if run.returncode in (1, 77) and "Error" not in run.stderr:
        pytest.skip(f"no mounts here: {run.stderr}")

    said, left = run.stdout.strip().splitlines()  # one line, as of any error
    assert "initdb" in said
    assert "the disk is full (No space left on device)" in said
    assert left == "left:"


@as_root
def test_root_s_files_stay_root_s_in_a_user_namespace(server, directory):
    """
    Only so can data and programs stay below /root, which no other user may enter.
    """
    if not embedded.identity.namespace_prefix():
        pytest.skip("user namespaces are not permitted here")
    home = directory.parent / "home"
    home.mkdir(mode=0o700)
    server.stop()
    below = embedded.Server(home / "s")
    server.directory.rename(below.directory)

    below.start()

    assert (below.directory / "data").stat().st_uid == 0
    assert Path(f"/proc/{postmaster(below)}").stat().st_uid == 0
    below.stop()
    below.directory.rename(server.directory)


@as_root
def test_root_without_namespaces_runs_it_as_another_user(directory, no_namespaces):
    """
    Docker's default profile forbids them: there the data belong to that user, and nothing else changes hands.
    """
    before = directory.parent.stat()
    server = embedded.Server(directory)

    server.start()

    owner = (directory / "data").stat().st_uid
    assert owner != 0
    assert Path(f"/proc/{server.status().pid}").stat().st_uid == owner
    assert (directory.stat().st_uid, mode(directory)) == (0, 0o711)
    assert (before.st_mode, before.st_uid) == (directory.parent.stat().st_mode, directory.parent.stat().st_uid)
    assert embedded.Server(directory).start() == server.url
    os.kill(postmaster(server), signal.SIGKILL)
    assert value(server.start(), "SELECT 1") == 1
    assert server.stop() is True


@as_root
def test_data_made_by_the_one_way_are_used_by_the_other(directory, monkeypatch, request):
    """
    An image built with more rights than it runs with must find its data.
    """
    if not embedded.identity.namespace_prefix():
        pytest.skip("user namespaces are not permitted here")
    directory.mkdir(mode=0o755)
    server = embedded.Server(directory)
    server.start()
    with connect(server.url) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 1 AS n")
    server.stop()

    request.getfixturevalue("no_namespaces")
    assert value(server.start(), "SELECT n FROM kept") == 1
    server.stop()

    monkeypatch.undo()
    embedded.identity.namespace_prefix.cache_clear()
    assert value(server.start(), "SELECT n FROM kept") == 1


@as_root
def test_programs_the_server_s_user_cannot_reach_are_copied(directory, no_system_binaries, monkeypatch, request):
    """
    A venv below /root is the usual place of the wheel; opening that home to everybody is not ours to do.
    """
    try:
        wheel = embedded.find_binaries()
    except errors.EmbeddedServerError as exc:
        pytest.skip(str(exc))
    request.getfixturevalue("no_namespaces")
    hidden = directory.parent / "hidden"
    hidden.mkdir(mode=0o700)
    package = wheel.directory.parents[1]
    prefix = hidden / package.name / "pginstall"
    shutil.copytree(wheel.directory.parent, prefix, symlinks=True)
    shutil.copytree(f"{package}.libs", f"{prefix.parent}.libs")
    server = embedded.Server(directory, embedded.Binaries(prefix / "bin", wheel.major, "wheel"))

    server.start()

    assert value(server.url, "SELECT 1") == 1
    assert mode(hidden) == 0o700
    used = server.status().binaries
    assert used is not None
    assert directory in used.parents


@as_root
def test_a_directory_the_server_s_user_cannot_enter_is_named(directory, no_namespaces):
    """
    Its parents are not ours to open; the error says where to go instead.
    """
    closed = directory.parent / "closed"
    closed.mkdir(mode=0o700)

    with pytest.raises(errors.EmbeddedServerError, match="cannot enter .*set PGSTORE_SERVER_DIR to .*/var/lib/pgstore"):
        embedded.Server(closed / "s").start()

    assert mode(closed) == 0o700


@pytest.fixture
def other_python():
    """A command that runs this package's Python code as `nobody`."""
    python = "/usr/bin/python3"
    options: dict[str, Any] = {
        "user": "nobody",
        "group": "nogroup",
        "extra_groups": [],
        "cwd": "/",
        "env": {
            "PATH": "/usr/bin:/bin:/root/closed",
            "PYTHONPATH": f"{PACKAGES}:{SOURCE}",
            "PYTHONDONTWRITEBYTECODE": "1",
        },
        "capture_output": True,
        "text": True,
        "timeout": 60,
    }

    def run(program, *arguments):
        return subprocess.run([python, "-c", program, *map(str, arguments)], check=False, **options)

    try:
        tried = run("import psycopg, pgstore.embedded")
    except (OSError, KeyError, LookupError) as exc:
        pytest.skip(f"nobody cannot run {python}: {exc}")
    if tried.returncode:
        pytest.skip(f"{python} cannot import the package as nobody: {tried.stderr[-300:]}")
    return run


@as_root
def test_an_ordinary_user_runs_it_directly(directory, other_python):
    """
    The usual case, which tests as root would never see.
    """
    directory.mkdir()
    os.chown(directory, 65534, 65534)
    program = (
        "import sys; from pgstore.embedded import Server; server = Server(sys.argv[1] + '/deep/s')\n"
        "import psycopg; connection = psycopg.connect(server.start())\n"
        "print(connection.execute('SELECT 1').fetchone(), server.status().running, server.stop(), server.stop())"
    )

    run = other_python(program, directory)

    assert run.stderr == ""
    assert run.stdout == "(1,) True True False\n"
    assert (directory / "deep").stat().st_mode & 0o777 == 0o700


@as_root
def test_another_user_cannot_connect(server, other_python):
    """
    There is no password: the kernel must refuse whoever does not own the socket's directory.
    """
    program = "import sys, socket; socket.socket(socket.AF_UNIX).connect(sys.argv[1])"

    run = other_python(program, server.directory / "run" / ".s.PGSQL.5432")

    assert "PermissionError" in run.stderr


def test_nothing_listens_on_tcp(server):
    """
    On a shared machine a port of localhost is open to every user.
    """
    listening = Path("/proc/net/tcp").read_text() + Path("/proc/net/tcp6").read_text()
    inodes = {line.split()[9] for line in listening.splitlines() if len(line.split()) > 9}
    owned = set()
    for pid in processes_of(server.directory):
        for fd in Path(f"/proc/{pid}/fd").glob("*"):
            with contextlib.suppress(OSError):
                owned.add(os.readlink(fd))

    assert any(link.startswith("socket:") for link in owned)
    assert not [inode for inode in inodes if f"socket:[{inode}]" in owned]


def test_a_worker_forked_while_a_lock_is_held_does_not_keep_it(tmp_path):
    """
    It would look like a server that never ends: threads that fork while another starts the server are common.
    """
    lock = FileLock(tmp_path / "lock")
    assert lock.try_acquire()
    context = multiprocessing.get_context("fork")
    worker = context.Process(target=time.sleep, args=(30,))
    worker.start()
    try:
        lock.leave()

        assert wait_for(FileLock(tmp_path / "lock").try_acquire)
    finally:
        worker.kill()
        worker.join()


def test_a_socket_nobody_answers_is_not_a_server(directory):
    """
    kill -9 leaves the socket's file behind.
    """
    (directory / "run").mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(directory / "run" / ".s.PGSQL.5432"))

    assert embedded.Server(directory).status().running is False
