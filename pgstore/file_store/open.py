"""Opening files of both kinds of file store: which open file a path and a mode mean."""

from __future__ import annotations

import contextlib
from functools import partial

from pgstore import errors
from pgstore.core.operation import Op
from pgstore.file_store.base import FileStoreBase
from pgstore.fs.content import in_place
from pgstore.fs.content.staged import Staged
from pgstore.fs.io.file_object import FileAt, Mode, parse_mode
from pgstore.fs.io.new_file import attach, check_writable, existing_file, make_file
from pgstore.fs.io.open_file import OpenFile, OpenFixedFile, OpenInPlaceFile, OpenStagedFile
from pgstore.fs.io.opening import opening
from pgstore.fs.model import Node
from pgstore.fs.paths import Names, join, split, split_file
from pgstore.fs.retention.file_pin import FilePin
from pgstore.fs.tree.resolve import Tree


class OpeningFiles(FileStoreBase):
    """open."""

    @opening
    def open(
        self,
        path: str,
        mode: str = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
    ) -> Op[FileAt]:
        """
        Open a file, as the built-in `open` does; `open.aio(…)` gives one whose methods are awaited, also for `async with`.

        The arguments are those of the built-in, but text is UTF-8 unless *encoding* says otherwise, and directories on the way to
        a new file are made. The file belongs to the transaction that it was opened in.

        A file of a **Volume** is read as it was when it was opened. One that is written ("w", "x", "a") is stored as it is written,
        in little memory, and appears with `close`: all of it, at once, in place of what was there, whose mode, owner and extended
        attributes it keeps. Leave its `with` block by an exception, or forget to close it, and everything is as before. Both
        directions at once ("r+", "w+", "a+") are refused.

        A file of a **NetworkFileSystem** is read and written in place, at once for all. A write of up to 1 MiB that is not buffered
        (`buffering=0`, or the whole of a buffer) is atomic, and so is an append. `flush` shows what is buffered to others, `fsync`
        and `close` wait until it is on the server's disk. If Ctrl-C or a lost connection interrupts an append while it is being
        written, `close` writes its buffer once more, and the bytes may be there twice; without buffering nothing is repeated. What
        is read ahead is at most a second old; without buffering nothing is read ahead. The file stays while it is open, also when
        its name is removed or given to another file.

        Raises:
            FileNotFoundError: there is no such file ("r").
            FileExistsError: there is one ("x"); for a Volume also when it is closed.
            IsADirectoryError: *path* is a directory.
            ConflictError: when a file of a Volume is closed: see `put_file`.
            StaleFile: when used: the bytes were collected, because nothing referred to them any more; or a crash of the server may
                have taken a part of the file of a Volume that is being written.
            OutcomeUnknown: by `fsync` and `close` of a NetworkFileSystem's file: the server crashed after a write, and may have
                lost it.
        """
        parsed = parse_mode(mode, buffering, encoding, errors, newline)
        yield from self._resolve_id()
        if parsed.writes and self._read_only_reason is not None:
            raise _invalid(self._read_only_reason)
        if self._changes_class.in_place:
            open_file, position = yield from self._open_in_place(path, parsed)
        elif not parsed.writes:
            open_file, position = (yield from self._open_contents(path)), 0
        elif parsed.updates:
            raise _invalid(
                f"a file of a {self._display_name} is not opened with mode {mode!r}: its contents never change. Read it with 'rb', "
                "then write new contents with 'wb', or add to it with 'ab'; a NetworkFileSystem has files that are changed in place"
            )
        else:
            open_file, position = yield from self._open_staged(path, parsed)
        return FileAt(open_file, parsed, position)

    def _open_node(self, names: Names) -> Op[tuple[Tree, Node]]:
        tree = yield from self._tree()
        return tree, (yield from self._reading(tree, tree.need_file(names)))

    # ---------------------------------------------------------------------------------------------------- of a Volume

    def _open_contents(self, path: str) -> Op[OpenFile]:
        names = split(path)
        tree, node = yield from self._open_node(names)
        pin = FilePin(self._runner.session, tree.store_id, node.ino, node.version)
        return OpenFixedFile(join(names), tree.store_id, node.contents, pin, self._runner.session)

    def _open_staged(self, path: str, mode: Mode) -> Op[tuple[OpenFile, int]]:
        names = split_file(path)
        tree = yield from self._tree()
        exclusive = mode.kind == "x"
        walk = yield from tree.target(names)
        check_writable(walk, names, exclusive=exclusive)
        session = self._runner.session
        staged = yield from Staged.begin(tree.store_id, session)
        if mode.kind == "a" and walk.node is not None:
            with contextlib.suppress(FileNotFoundError):  # removed since
                _, node = yield from self._open_node(names)
                yield from staged.begin_with(node.contents, node.chunk_size)

        def commit(staged: Staged) -> Op[None]:
            yield from self._change(partial(attach, staged=staged, names=names, exclusive=exclusive))

        open_file = OpenStagedFile(join(names), staged, session, commit, append=mode.kind == "a")
        return open_file, staged.size

    # ----------------------------------------------------------------------------------------- of a NetworkFileSystem

    def _open_in_place(self, path: str, mode: Mode) -> Op[tuple[OpenFile, int]]:
        names = split(path) if mode.kind == "r" else split_file(path)
        if mode.kind == "r":
            tree, node = yield from self._open_node(names)
            store_id, ino, size = tree.store_id, node.ino, node.size_bytes
        else:
            tree = yield from self._tree()
            store_id = tree.store_id
            exclusive = mode.kind == "x"
            walk = yield from tree.target(names)
            ino, size = existing_file(walk, names, exclusive=exclusive)
            if not ino:
                ino, size = yield from self._change(lambda tree: make_file(tree, names, exclusive=exclusive))
            if mode.kind == "w" and size:
                yield from in_place.truncate(store_id, ino, 0)
        open_file = OpenInPlaceFile(
            join(names),
            store_id,
            ino,
            self._runner.session,
            FilePin(self._runner.session, store_id, ino, None),
            read=mode.reads,
            write=mode.writes,
            append=mode.kind == "a",
        )
        return open_file, size if mode.kind == "a" else 0


def _invalid(message: str) -> errors.InvalidError:
    # Where `errors` is an argument of `open`.
    return errors.InvalidError(message)
