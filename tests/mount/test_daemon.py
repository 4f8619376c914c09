"""The daemon: how it starts, what it is told and asked, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import logging
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import pgstore
from pgstore import Volume, errors
from pgstore.mount import attach, mount_table, runtime
from pgstore.mount.daemon import backends, caller, control
from pgstore.mount.daemon.messages import HEADER, MAGIC, Closed, MessageSocket
from pgstore.mount.daemon.served import DETACH_SECONDS
from tests.mount.programs import MEMORY, Program, is_alive, is_mounted, notes, wait_until

pytestmark = pytest.mark.usefixtures("memory")


@pytest.fixture
def volume(client, store_name):
    return Volume.from_name(store_name, create_if_missing=True, client=client)


@pytest.fixture
def program(memory, database, store_name, place) -> Iterator[Callable[[str], Program]]:
    """Starts programs that have a `volume`, to be mounted at `place`."""
    started: list[Program] = []

    def start(script: str) -> Program:
        started.append(Program(script, database, store_name, str(place)))
        return started[-1]

    yield start
    for each in started:
        if each.process.poll() is None:
            each.kill()
        for pipe in (each.process.stdout, each.process.stderr):
            assert pipe is not None
            pipe.close()


# ------------------------------------------------------------------------------------------------------------- in use


def test_files_are_served_while_it_is_mounted(volume, place):
    with volume.mount(place, mode="fuse") as path:
        Path(path, "a").write_text("a")
        assert os.listdir(place) == ["a"]
        volume.commit()

    assert os.listdir(place) == []
    assert notes(place)[1:] == ["commit", "end"]


def test_it_is_used_without_a_block(volume, place):
    mount = volume.mount(place)
    assert (mount.mode, mount.path, is_mounted(place)) == ("fuse", str(place), True)
    mount.reload()
    mount.close()
    mount.close()

    assert not is_mounted(place)
    with pytest.raises(errors.InvalidError, match="closed"):
        mount.commit()


def test_it_is_unmounted_after_an_exception(volume, place):
    with pytest.raises(ZeroDivisionError), volume.mount(place):
        raise ZeroDivisionError

    assert notes(place)[-1] == "end"
    assert not is_mounted(place)


def test_event_loops_go_on_while_it_mounts_and_commits(volume, place):
    async def use():
        ticks = 0

        async def tick():
            nonlocal ticks
            while True:
                await asyncio.sleep(0.001)
                ticks += 1

        ticking = asyncio.create_task(tick())
        async with await volume.mount.aio(place, mode="fuse"):
            seen = ticks
            await volume.commit.aio()
        ticking.cancel()
        await volume._runner.aclose()
        return seen

    assert asyncio.run(use()) > 0
    assert notes(place)[1:] == ["commit", "end"]


@pytest.mark.filterwarnings("ignore::pgstore.exception.AsyncUsageWarning")
def test_a_mount_that_was_made_blocking_is_left_by_an_event_loop(volume, place):
    async def use():
        async with volume.mount(place) as path:
            assert path == str(place)
        await volume._runner.aclose()

    asyncio.run(use())

    assert notes(place)[-1] == "end"
    assert not is_mounted(place)


def test_one_daemon_serves_mounts_of_several_threads_and_databases(client, own_database, store_name, tmp_path):
    other = pgstore.Client(own_database)
    stores = [
        Volume.from_name(store_name, create_if_missing=True, client=each) for each in (client, other) for _ in "ab"
    ]
    places = [tmp_path / f"place{number}" for number in range(4)]
    mounts = []

    def use(store, place):
        place.mkdir()
        mounts.append(store.mount(place))

    threads = [threading.Thread(target=use, args=each) for each in zip(stores, places, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    pids = {record["pid"] for each in control.control_sockets() for record in control.ask(each, "mounts")}
    for mount in mounts:
        mount.close()
    other.close()

    assert len(mounts) == 4
    assert pids == {caller.running().pid}
    databases = [notes(place)[0] for place in places]
    assert databases[0] == databases[1] != databases[2] == databases[3]


def test_what_the_daemon_logs_is_in_the_log_of_its_caller(volume, place, caplog):
    with caplog.at_level(logging.INFO, logger="pgstore"), volume.mount(place):
        pass

    assert any(
        "the database is" in record.getMessage() for record in caplog.records if record.threadName == "pgstore-daemon"
    )


# ------------------------------------------------------------------------------------------------ what it is told, asked


def test_nothing_secret_is_in_its_arguments_or_environment(database, store_name, place, monkeypatch):
    monkeypatch.setenv("PGPASSWORD", "sesame")
    client = pgstore.Client(f"{database}?application_name=hush", signing_keys=[b"k" * 32])

    with Volume.from_name(store_name, create_if_missing=True, client=client).mount(place):
        process = Path("/proc", str(caller.running().pid))
        seen = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
        status = (process / "status").read_text()
        opened = [os.readlink(each) for each in (process / "fd").iterdir()]
        cwd = os.readlink(process / "cwd")
    client.close()

    assert b"python" in seen
    assert not any(secret in seen for secret in (b"sesame", b"hush", b"kkkk", b"6b6b", b"postgresql"))
    assert "Umask:\t0077" in status
    assert cwd == "/"
    assert not [path for path in opened if path.startswith("/") and not path.startswith("/dev/")]


def test_a_descriptor_that_its_caller_has_left_open_is_closed(volume, place, tmp_path):
    with open(tmp_path / "inherited", "w") as file:
        os.set_inheritable(file.fileno(), True)
        with volume.mount(place):
            process = Path("/proc", str(caller.running().pid), "fd")
            opened = [os.readlink(each) for each in process.iterdir()]

    assert str(tmp_path / "inherited") not in opened


def test_a_function_that_gives_the_url_is_asked_in_its_own_process(database, store_name, place):
    asked = []

    def url():
        asked.append((os.getpid(), threading.current_thread().name))
        return database

    client = pgstore.Client(url)
    volume = Volume.from_name(store_name, create_if_missing=True, client=client)
    volume.hydrate()
    before = len(asked)

    with volume.mount(place):
        pass
    client.close()

    assert (os.getpid(), "pgstore-url") in asked[before:]


def test_what_fails_in_that_function_is_an_error_of_the_mount(database, store_name, place):
    def url():
        if threading.current_thread().name == "pgstore-url":
            raise KeyError("no token")
        return database

    client = pgstore.Client(url)
    volume = Volume.from_name(store_name, create_if_missing=True, client=client)

    with pytest.raises(errors.StoreUnavailable, match="no token"):
        volume.mount(place)
    client.close()

    assert not is_mounted(place)


def test_it_serves_what_somebody_else_has_mounted(volume, place):
    """
    As in a namespace of theirs, which the daemon does not see.
    """
    from pgstore.mount.options import Options
    from pgstore.mount.with_fuse import spec_of

    volume.hydrate()
    attached = attach.attach(str(place), name="elsewhere")
    spec = spec_of(volume, volume._record.id, (), str(place), Options())
    daemon = caller.daemon(spec.factory)
    number = daemon.mount(volume._runner, spec, lambda: None, device=attached.device)
    os.close(attached.device)

    (place / "a").write_text("a")
    daemon.call("commit", number)
    attach.detach(str(place))
    daemon.unmount(number)

    assert notes(place)[-2:] == ["commit", "end"]


# ------------------------------------------------------------------------------------------------------------- errors


def test_paths_that_cannot_be_mounted_at_are_refused(volume, place, tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "full").mkdir()
    (tmp_path / "full/thing").touch()

    for mode in ("fuse", "sync"):
        with pytest.raises(FileNotFoundError, match="missing.*make it first"):
            volume.mount(tmp_path / "missing", mode=mode)
        with pytest.raises(FileNotFoundError, match="no directory"):
            volume.mount("", mode=mode)
        with pytest.raises(NotADirectoryError, match="file"):
            volume.mount(tmp_path / "file", mode=mode)
        with pytest.raises(errors.DirectoryNotEmpty, match="full"):
            volume.mount(tmp_path / "full", mode=mode)
        with volume.mount(place, mode=mode), pytest.raises(errors.FileFailed, match="mount already"):
            volume.mount(place)


def test_a_path_may_be_of_bytes(volume, place):
    with volume.mount(os.fsencode(place)) as path:
        assert path == str(place)


def test_a_file_of_the_store_is_no_directory_to_mount(volume, place):
    volume.put_file(io.BytesIO(b"a"), "/file")

    for read_only in (False, True):
        with pytest.raises(NotADirectoryError, match="file"):
            volume.mount(place, sub_path="file", read_only=read_only)


def test_a_store_that_is_missing_is_not_mounted(client, store_name, place):
    for mode in ("fuse", "sync"):
        with pytest.raises(errors.NotFoundError):
            Volume.from_name(store_name, client=client).mount(place, mode=mode)

    assert not is_mounted(place)


def test_a_server_that_is_down_is_an_error_within_the_time_given(store_name, place):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        client = pgstore.Client(f"postgresql://postgres@127.0.0.1:{silent.getsockname()[1]}/none")
        begun = time.monotonic()

        with pytest.raises((errors.StoreUnavailable, errors.TimedOut)) as caught:
            Volume.from_name(store_name, client=client).mount(place, timeout=1.0)

    assert time.monotonic() - begun < 20
    assert "\n" not in str(caught.value)
    client.close()


def test_without_fuse_it_is_copied_and_the_log_says_why(volume, place, monkeypatch, caplog):
    monkeypatch.setattr(attach, "is_possible", lambda: "there is no such device")

    with volume.mount(place) as path:
        Path(path, "a").write_text("a")
        assert not is_mounted(place)

    assert volume.exists("a")
    assert "without FUSE: there is no such device" in caplog.text
    with pytest.raises(errors.ConfigurationError, match="there is no such device"):
        volume.mount(place, mode="fuse")


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="setpriv is not installed")
def test_where_fusermount3_may_not_mount_either_nothing_can_be_mounted():
    """
    As in most containers. With `mode="auto"` files are then copied, and mounting does not fail.
    """
    limits = ["--bounding-set=-sys_admin", "--inh-caps=-sys_admin"] if os.geteuid() == 0 else ["--no-new-privs"]
    script = "from pgstore.mount import attach; print(attach.is_possible())"

    said = subprocess.run(
        ["setpriv", *limits, sys.executable, "-c", script],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout

    assert "as in a container without CAP_SYS_ADMIN" in said or "fusermount3, which is not installed" in said


def test_what_the_last_commit_fails_with_is_raised_at_the_end(volume, place):
    with pytest.raises(errors.ConflictError, match="is kept in"), volume.mount(place):
        Path(f"{place}.fails").touch()

    assert not is_mounted(place)


def test_what_is_in_use_is_unmounted_and_the_log_names_who_uses_it(volume, place, caplog):
    mount = volume.mount(place)
    with subprocess.Popen(["sleep", "60"], cwd=place) as user:
        mount.close()
        assert not is_mounted(place)
        assert f"sleep ({user.pid})" in caplog.text
        user.kill()

    wait_until(lambda: notes(place)[-1] == "end", "the last user has left")
    assert "commit" in notes(place)


def test_what_is_left_in_use_holds_up_no_end(program, place):
    """
    The program itself has a file open that it never closes.
    """
    started = program("""
        with volume.mount(place):
            left = open(place + "/a", "w")
        begun = time.monotonic()
        caller.end()
        print(time.monotonic() - begun, flush=True)
        os._exit(0)
    """)
    seconds = float(started.line())
    _, complaints = started.end()

    assert seconds < DETACH_SECONDS
    assert f"({started.process.pid})" in complaints
    assert "the kernel" not in complaints


def test_what_another_has_unmounted_is_closed_quietly(volume, place):
    with volume.mount(place):
        attach.detach(str(place))
        wait_until(lambda: notes(place)[-1] == "end", "unmounted")
        with pytest.raises(errors.InvalidError, match="unmounted by another"):
            volume.commit()


def test_a_daemon_that_cannot_start_says_why(volume, place, monkeypatch, caplog):
    monkeypatch.setitem(backends.FACTORIES, "volume", "no.such.module:files_of")

    with pytest.raises(caller.DaemonGone, match="exit code 1"):
        volume.mount(place)

    assert "No module named 'no'" in caplog.text
    assert not is_mounted(place)


def test_what_nobody_waits_for_any_more_is_unmounted(volume, place, monkeypatch):
    monkeypatch.setitem(backends.FACTORIES, "volume", f"{MEMORY.partition(':')[0]}:slow_files_of")

    def interrupt(number, frame):
        raise KeyboardInterrupt

    def interrupt_it():
        wait_until(lambda: os.path.exists(f"{place}.waits"), "the daemon has begun")
        os.kill(os.getpid(), signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, interrupt)
    interrupting = threading.Thread(target=interrupt_it)
    try:
        with pytest.raises(KeyboardInterrupt):
            interrupting.start()
            volume.mount(place)
    finally:
        interrupting.join()
        signal.signal(signal.SIGUSR1, before)
    Path(f"{place}.go").touch()

    wait_until(lambda: os.path.exists(f"{place}.notes") and notes(place)[-1:] == ["end"], "it is unmounted again")
    assert not is_mounted(place)


# ---------------------------------------------------------------------------------------------------------------- ends


def test_whoever_is_told_that_it_was_killed_can_mount_again_at_once(volume, place, monkeypatch):
    """
    Also before the thread that listens to it has noticed.
    """
    mount = volume.mount(place)
    daemon = caller.running()
    awaited = caller._awaited

    def slowly(pid):
        time.sleep(0.3)
        return awaited(pid)

    monkeypatch.setattr(caller, "_awaited", slowly)
    hung_up = select.poll()
    hung_up.register(daemon._peer.fileno(), 0)
    os.kill(daemon.pid, signal.SIGKILL)
    assert hung_up.poll(30_000)

    with pytest.raises(caller.DaemonGone, match="SIGKILL"):
        mount.close()

    with volume.mount(place):
        assert caller.running() is not daemon


def test_it_ends_when_its_caller_is_killed(program, place):
    started = program("""
        volume.mount(place)
        print(caller.running().pid, flush=True)
        time.sleep(60)
    """)
    pid = int(started.line())
    started.kill()

    wait_until(lambda: not is_alive(pid), "the daemon ends")
    assert notes(place)[-1] == "end"
    assert not is_mounted(place)


def test_it_ends_though_a_child_of_its_caller_has_its_socket(program, place):
    started = program("""
        volume.mount(place)
        child = os.fork()
        if child == 0:
            time.sleep(60)
        print(caller.running().pid, child, flush=True)
        time.sleep(60)
    """)
    pid, child = map(int, started.line().split())
    started.kill()
    try:
        wait_until(lambda: not is_alive(pid), "the daemon ends")
        assert is_alive(child)
        assert notes(place)[-1] == "end"
        assert not is_mounted(place)
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_program_that_ends_without_unmounting_has_everything_committed(program, place):
    started = program("""
        volume.mount(place)
        print(caller.running().pid, flush=True)
    """)
    pid = int(started.line())
    code, complaints = started.end()

    assert (code, complaints) == (0, "")
    assert not is_alive(pid)
    assert notes(place)[-1] == "end"
    assert not is_mounted(place)


def test_a_forked_child_has_a_daemon_of_its_own_and_leaves_that_of_its_parent_alone(program, place):
    started = program("""
        os.mkdir(place + ".child")
        with volume.mount(place):
            parents = caller.running().pid
            child = os.fork()
            if child == 0:
                with volume.mount(place + ".child"):
                    assert caller.running().pid != parents
                    assert os.path.ismount(place)
                sys.exit(0)
            _, status = os.waitpid(child, 0)
            assert status == 0, status
            assert os.path.ismount(place)
            volume.commit()
        print("done", flush=True)
    """)

    assert started.line() == "done"
    assert started.end() == (0, "")
    assert notes(place)[1:] == ["commit", "end"]
    assert notes(f"{place}.child")[-1] == "end"


def test_a_forked_child_has_what_it_wrote_committed_by_the_daemon_of_its_parent(program, place):
    started = program("""
        def fails(what, text):
            try:
                what()
            except pgstore.InvalidError as exc:
                assert text in str(exc), exc
            else:
                raise AssertionError("nothing was raised")

        mount = volume.mount(place)
        listen, say = os.pipe()
        child = os.fork()
        if child == 0:
            volume.commit()
            mount.reload()
            with client.transaction():
                fails(volume.commit, "has forked this one: it cannot be committed in a transaction")
            mount.close()
            print("committed", flush=True)
            os.close(say)
            os.read(listen, 1)
            fails(mount.commit, "is not mounted any more")
            fails(volume.reload, "is not mounted any more")
            os._exit(0)
        while "reload" not in open(place + ".notes").read():
            time.sleep(0.01)
        assert os.path.ismount(place)
        mount.close()
        os.close(say)
        print(os.waitpid(child, 0)[1], flush=True)
    """)

    assert started.line() == "committed"
    assert started.line() == "0"
    assert started.end() == (0, "")
    assert notes(place)[1:] == ["commit", "commit", "reload", "end"]


def test_a_forked_child_is_told_that_it_cannot_write_back_what_is_mounted_without_fuse(program, place):
    started = program("""
        with volume.mount(place, mode="sync"):
            child = os.fork()
            if child == 0:
                try:
                    volume.commit()
                except pgstore.InvalidError as exc:
                    print(exc, flush=True)
                os._exit(0)
            os.waitpid(child, 0)
    """)

    assert "by the process that has forked this one, which alone can write it back" in started.line()
    assert started.end() == (0, "")


@pytest.mark.parametrize("way", ["spawn", "fork", "forkserver"])
def test_it_is_used_by_processes_of_multiprocessing(program, place, tmp_path, way):
    module = tmp_path / "work_of_children.py"
    module.write_text("def write(path):\n    open(path, 'w').close()\n")
    started = program(f"""
        import multiprocessing
        sys.path.append({str(tmp_path)!r})
        from work_of_children import write
        with volume.mount(place), multiprocessing.get_context("{way}").Pool(2) as pool:
            pool.map(write, [place + "/a", place + "/b"])
            print(sorted(os.listdir(place)), flush=True)
    """)

    assert started.line() == "['a', 'b']"
    assert started.end() == (0, "")


def test_interrupts_of_a_terminal_are_none_of_its(volume, place):
    with volume.mount(place):
        pid = caller.running().pid
        os.kill(pid, signal.SIGINT)
        os.kill(pid, signal.SIGHUP)
        volume.commit()

        assert os.getsid(pid) == pid != os.getsid(0)


def test_asked_to_terminate_it_commits_and_unmounts(volume, place):
    with volume.mount(place):
        daemon = caller.running()
        os.kill(daemon.pid, signal.SIGTERM)
        daemon.wait()

        assert notes(place)[-1] == "end"
        assert not is_mounted(place)

    with volume.mount(place):
        assert caller.running().pid != daemon.pid


def test_killed_it_leaves_a_path_that_can_be_mounted_at_once_and_an_error_at_the_end(volume, place):
    with pytest.raises(caller.DaemonGone, match=r"by signal 9 \(SIGKILL\).*is lost"), volume.mount(place):
        daemon = caller.running()
        with open(place / "open", "w"):
            os.kill(daemon.pid, signal.SIGKILL)
            daemon.wait()
        with pytest.raises(caller.DaemonGone, match="SIGKILL"):
            volume.commit()
        assert os.listdir(place) == []

    with volume.mount(place):
        (place / "again").touch()
    assert not Path("/proc", str(daemon.pid)).exists()


def test_what_a_killed_daemon_has_left_mounted_is_detached_by_who_mounts_there_next(program, volume, place):
    started = program("""
        volume.mount(place)
        print(caller.running().pid, flush=True)
        time.sleep(60)
    """)
    pid = int(started.line())
    os.kill(started.process.pid, signal.SIGSTOP)  # who would have tidied up
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not is_alive(pid), "the daemon is killed")
    wait_until(lambda: attach.is_stale(str(place)), "nobody serves the mount")

    with volume.mount(place):
        assert len(mount_table.mounts_at(str(place))) == 1
    assert not is_mounted(place)


def test_it_does_not_end_with_the_thread_that_has_started_it(volume, place):
    mounts = []
    thread = threading.Thread(target=lambda: mounts.append(volume.mount(place)))
    thread.start()
    thread.join()

    (place / "a").touch()
    mounts[0].close()
    assert notes(place)[-1] == "end"


# ------------------------------------------------------------------------------------------------------------ the control socket


def test_others_of_the_user_find_out_what_it_has_mounted(volume, place):
    with volume.mount(place, sub_path=None, read_only=True):
        (found,) = control.control_sockets()
        (told,) = control.ask(found, "mounts")

        assert {
            key: told[key] for key in ("path", "kind", "name", "read_only", "cached_bytes", "uncommitted_files")
        } == {
            "path": str(place),
            "kind": "volume",
            "name": volume.name,
            "read_only": True,
            "cached_bytes": 17,
            "uncommitted_files": 3,
        }
        assert control.ask(found, "unmount_path", "/elsewhere") is None
        assert control.ask(found, "unmount_path", str(place)) == []
        assert not is_mounted(place)


def test_nobody_can_mount_by_the_door_and_what_makes_no_sense_ends_a_visit_alone(volume, place):
    with volume.mount(place):
        (found,) = control.control_sockets()
        with pytest.raises(errors.InvalidError, match="does not know 'mount'"):
            control.ask(found, "mount", 1, {}, 1, {})
        for data in (b"GET / HTTP/1.1\r\n\r\n", HEADER.pack(MAGIC, 5) + b"{{{{{", HEADER.pack(MAGIC, 2) + b"[]"):
            with socket.socket(socket.AF_UNIX) as visitor, control._short(found) as short:
                visitor.connect(short)
                visitor.sendall(data)
                visitor.shutdown(socket.SHUT_WR)
                with contextlib.suppress(ConnectionResetError):
                    assert visitor.recv(100) == b""

        assert len(control.ask(found, "mounts")) == 1


def test_the_door_of_a_daemon_that_is_gone_is_removed(volume, place, tmp_path):
    left = runtime.directory() / "999999.sock"
    with socket.socket(socket.AF_UNIX) as listener, control._short(left) as short:
        listener.bind(short)

    with pytest.raises(Closed):
        control.ask(left, "mounts")

    assert not left.exists()


def test_a_runtime_directory_that_others_may_enter_is_refused(tmp_path):
    (tmp_path / "pgstore").mkdir(mode=0o755)

    with pytest.raises(errors.FileUnreadable, match="nobody else may"):
        runtime.directory()


def test_messages_of_any_size_and_their_descriptors_arrive(tmp_path):
    one, other = (MessageSocket(each) for each in socket.socketpair())
    large = ["x" * 3_000_000, {"a": [1, None, True]}]
    with open(tmp_path / "file", "w+") as file:

        def send():
            one.send(large)
            one.send("second", [file.fileno()])

        sending = threading.Thread(target=send)
        sending.start()
        first = other.receive()
        second, (descriptor,) = other.receive()
        sending.join()

    os.write(descriptor, b"through it")
    os.close(descriptor)
    one.close()
    with pytest.raises(Closed):
        other.receive()
    other.close()

    assert first == (large, [])
    assert second == "second"
    assert (tmp_path / "file").read_text() == "through it"


def test_it_is_ready_soon(program):
    """
    Median of three, from the call to the first file, with the start of the interpreter and the connection.
    """
    taken = []
    for _ in range(3):
        started = program("""
            volume.hydrate()
            begun = time.perf_counter()
            with volume.mount(place):
                print(time.perf_counter() - begun, flush=True)
        """)
        taken.append(float(started.line()))
        assert started.end() == (0, "")

    assert sorted(taken)[1] <= 0.4 * max(1.0, os.getloadavg()[0]), json.dumps(taken)
