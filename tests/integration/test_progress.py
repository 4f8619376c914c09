"""Bars of long work: on a terminal, in a notebook, and nowhere else."""

from __future__ import annotations

import contextlib
import io
import os
import pty
import re
import subprocess
import sys
import threading

import nbclient
import nbformat
import pytest

from pgstore.core.progress import Bar, counted

MIB = 1 << 20


class Terminal(io.StringIO):
    """Standard error that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def a_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """To be asked for in the test itself: pytest puts streams of its own in place between fixtures and test."""
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.delenv("NO_COLOR", raising=False)
    return stream


def plain(drawn: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", drawn)


# ----------------------------------------------------------------------------------------------------------- a terminal


def test_uploads_and_downloads_show_what_was_done_on_standard_error_alone(own_database, tmp_path):
    """
    What a program prints may be piped on.
    """
    for number in range(3):
        (tmp_path / f"file{number}").write_bytes(bytes(MIB))
    program = f"""if True:
        import pgstore
        volume = pgstore.Volume.from_name("v", create_if_missing=True)
        volume.put_directory({str(tmp_path)!r}, "[a]", progress=True)
        volume.get_file("[a]/file1", {str(tmp_path / "got")!r}, progress=True)
        from pgstore.core.progress import Bar
        with Bar("at work"):
            print("printed")
    """
    ours, its = pty.openpty()
    environment = os.environ | {"PGSTORE_URL": own_database, "TERM": "xterm", "COLUMNS": "120"}
    with subprocess.Popen(
        [sys.executable, "-W", "error", "-c", program], env=environment, stdout=subprocess.PIPE, stderr=its
    ) as process:
        os.close(its)
        drawn = b""
        with contextlib.suppress(OSError):  # how the end of a terminal is told
            while block := os.read(ours, 65536):
                drawn += block
        assert process.stdout is not None
        printed = process.stdout.read()
    os.close(ours)

    assert printed == b"printed\n"
    said = plain(drawn.decode())
    assert "[a]" in said
    assert "3.0/3.0 MiB" in said
    assert "3 files" in said
    assert "1.0/1.0 MiB" in said


def test_bars_of_two_threads_share_the_terminal(monkeypatch):
    terminal = a_terminal(monkeypatch)
    both = threading.Barrier(2, timeout=10)

    def work(what: str) -> None:
        with Bar(what, 10, unit="rows") as bar:
            both.wait()
            bar.advance(10)
            both.wait()

    thread = threading.Thread(target=work, args=("theirs",))
    thread.start()
    work("ours")
    thread.join()

    said = plain(terminal.getvalue())
    assert "ours" in said
    assert "theirs" in said
    assert "10/10 rows" in said


def test_a_bar_that_cannot_be_drawn_does_not_break_the_work(monkeypatch):
    terminal = a_terminal(monkeypatch)
    written = terminal.write
    calls = []

    def fails(text: str) -> int:
        calls.append(text)
        if len(calls) > 1:
            raise BrokenPipeError("the terminal is gone")
        return written(text)

    monkeypatch.setattr(terminal, "write", fails)

    with Bar("work", 3) as bar:
        for _ in range(3):
            bar.advance(1)

    assert bar.done == 3
    assert len(calls) > 1
    monkeypatch.undo()
    terminal = a_terminal(monkeypatch)
    with Bar("the next", 1) as bar:  # which is none the worse for it
        bar.advance(1)
    assert "the next" in terminal.getvalue()


@pytest.mark.parametrize("kind", ["not a terminal", "a dumb terminal", "no stream"])
def test_nothing_is_shown_elsewhere(kind, monkeypatch):
    stream = io.StringIO() if kind == "not a terminal" else Terminal()
    monkeypatch.setattr(sys, "stderr", None if kind == "no stream" else stream)
    monkeypatch.setenv("TERM", "dumb" if kind == "a dumb terminal" else "xterm")

    with Bar("work", 3) as bar:
        bar.advance(3)

    assert stream.getvalue() == ""


@pytest.mark.parametrize(
    ("done", "total", "unit", "shown"),
    [
        (0, None, "bytes", "0 bytes"),
        (1023, None, "bytes", "1023 bytes"),
        (512, 1536, "bytes", "0.5/1.5 KiB"),
        (3 * MIB, 4 * MIB, "bytes", "3.0/4.0 MiB"),
        (5 << 50, None, "bytes", "5120.0 TiB"),
        (1500, 20_000, "rows", "1,500/20,000 rows"),
    ],
)
def test_what_is_done_is_told_in_the_unit_of_the_whole(done, total, unit, shown):
    bar = Bar("work", total, unit=unit)
    bar.advance(done)

    assert shown == counted(bar)


# ----------------------------------------------------------------------------------------------------------- a notebook

CELLS = {
    "setup": "import pgstore, pathlib\nvolume = pgstore.Volume.from_name('v', create_if_missing=True)",
    # Cells run on an event loop.
    "typed": "volume.write_text('a', 'typed')\ndef look(): return volume.read_text('a')\nprint(look())",
    "awaited": "print(await volume.read_text.aio('a'), volume.read_text('a'))",
    "bar": "volume.put_directory(pathlib.Path(FOLDER), 'd', progress=True)",
    "coroutine": "async def work(): return volume.read_text('a')\nawait work()",
}


@pytest.fixture(scope="module")
def outputs(server, migrated_template, tmp_path_factory):
    """What each cell of a notebook has put out."""
    url = server.create_database(template=migrated_template)
    folder = tmp_path_factory.mktemp("folder")
    for number in range(3):
        (folder / f"file{number}").write_bytes(bytes(MIB))
    cells = [nbformat.v4.new_code_cell(source.replace("FOLDER", repr(str(folder)))) for source in CELLS.values()]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PGSTORE_URL", url)
        done = nbclient.NotebookClient(nbformat.v4.new_notebook(cells=cells), timeout=90).execute()
    server.drop_database(url)
    return {name: cell.outputs for name, cell in zip(CELLS, done.cells, strict=True)}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_bar_in_a_notebook_is_one_output_that_ends_full(outputs):
    (shown,) = outputs["bar"]

    assert shown.output_type == "display_data"
    assert "<progress" in shown.data["text/html"]
    assert f'max="{3 * MIB}" value="{3 * MIB}"' in shown.data["text/html"]
    assert shown.data["text/plain"] == "d: 3.0/3.0 MiB 3 files"


def test_cells_that_block_are_not_warned_of(outputs):
    (typed,), (awaited,) = outputs["typed"], outputs["awaited"]

    assert typed.text == "typed\n"
    assert awaited.text == "typed typed\n"


def test_a_coroutine_of_a_cell_that_blocks_is_warned_of(outputs):
    said = [output.text for output in outputs["coroutine"] if output.get("name") == "stderr"]

    assert "AsyncUsageWarning: Volume.read_text(…) blocks the event loop" in said[0]
