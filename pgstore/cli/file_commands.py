"""What `pgstore volume` and `pgstore nfs` have in common: the commands about files."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Annotated, Any

import typer

import pgstore
from pgstore.admin import files as admin
from pgstore.admin.stores import CLASSES, Kind
from pgstore.cli import listing, output, transfer
from pgstore.cli.options import AllowMissing, AsJson, Environment
from pgstore.cli.paths import shown
from pgstore.cli.signature import with_fixed
from pgstore.cli.stores import Name, opened

RemotePath = Annotated[str, typer.Argument(metavar="PATH", help="In the store.", show_default=False)]
RemotePaths = Annotated[list[str], typer.Argument(metavar="PATH …", help="In the store.", show_default=False)]
ListedPath = Annotated[str, typer.Argument(metavar="PATH", help="A directory or a pattern such as 'logs/*.txt'.")]
Recursive = Annotated[bool, typer.Option("--recursive", "-r", help="Directories too, with all below them.")]
Null = Annotated[bool, typer.Option("--null", "-0", help="Each path as its bytes and a NUL, for xargs -0.")]
Force = Annotated[bool, typer.Option("--force", "-f", help="Replace files that are there.")]
Trusted = Annotated[
    bool,
    typer.Option(
        "--trusted", help="All who write to it are trusted: links wherever they lead, and setuid bits, as they are."
    ),
]
LocalSource = Annotated[
    str, typer.Argument(metavar="LOCAL", help="A file or a directory; - is standard input.", show_default=False)
]
LocalTarget = Annotated[
    str, typer.Argument(metavar="LOCAL", help="A file, or a directory to put it in; - is standard output.")
]
RemoteTarget = Annotated[
    str, typer.Argument(metavar="REMOTE", help="Its path in the store; one that ends in / is a directory to put it in.")
]
RemoteSource = Annotated[
    str,
    typer.Argument(metavar="REMOTE", help="A file, a directory or a pattern such as 'logs/*.txt'.", show_default=False),
]
Timeout = Annotated[
    float | None,
    typer.Option(min=0, metavar="SECONDS", help="End after so long without a change.", show_default=False),
]
Storage = Annotated[
    str | None,
    typer.Option(
        metavar="rows|large_object", help="Where the bytes of large files live.  [default: rows]", show_default=False
    ),
]
AtVersion = Annotated[
    int | None, typer.Option("--at", metavar="VERSION", help="As it was in this version.", show_default=False)
]


def add_all(app: typer.Typer, kind: Kind) -> None:
    """Give the group of *kind* its commands about files."""
    group = _Group(app, kind)
    for add in (_add_ls, _add_get, _add_cat, _add_put, _add_cp, _add_mv, _add_rm, _add_mkdir, _add_du, _add_info):
        add(group)


class _Group:
    def __init__(self, app: typer.Typer, kind: Kind) -> None:
        self._app = app
        self.kind = kind
        self.shown = CLASSES[kind]
        self.has_versions = kind == "volume"
        self.without_version: dict[str, object] = {} if self.has_versions else {"at": None}

    def add(self, verb: str, help: str, *examples: str, **fixed: object) -> Callable[[Callable[..., None]], None]:
        """Enter a function as the command *verb*. What *fixed* names is no option of it, and has this value."""
        lines = "\n".join(f"  pgstore {self.kind} {verb} {example}" for example in examples)
        enter = self._app.command(verb, help=f"{help.strip()}\n\n\b\nExample:\n{lines}")

        def add(function: Callable[..., None]) -> None:
            enter(with_fixed(function, **fixed))

        return add

    @contextlib.contextmanager
    def files(self, context: typer.Context, name: str, env: str | None, at: int | None = None) -> Iterator[Any]:
        """The store, with messages for a command line."""
        with transfer.advised(), opened(context, self.kind, name, env) as store:
            yield store if at is None else store.at(at)


def _add_ls(group: _Group) -> None:
    text = """
Show what a directory holds, or what matches a pattern.

On a terminal it is a table, else a path a line, in double quotes and with escapes as in C where it has what cannot be printed.
"""

    examples = ["cache", "cache 'logs/*.txt' --json"]
    if group.has_versions:
        examples = ["models", "models v1 -r --at 17", "models -r -0 | xargs -0 -n1 echo"]

    @group.add("ls", text, *examples, **group.without_version)
    def ls(
        context: typer.Context,
        name: Name,
        path: ListedPath = "/",
        recursive: Recursive = False,
        at: AtVersion = None,
        null: Null = False,
        as_json: AsJson = False,
        env: Environment = None,
    ) -> None:
        with group.files(context, name, env, at) as files:
            listing.ls(files, path, recursive=recursive, as_json=as_json, null=null)


def _add_get(group: _Group) -> None:
    text = """
Download a file, a directory with all below it, or what matches a pattern.

A file appears under its name when it is complete. Of a pattern, what follows its part without wildcards becomes the path below
LOCAL. Symbolic links that lead out of LOCAL are left out.
"""

    examples = ["cache logs/a.txt", "cache 'logs/*.txt' here/", "cache dump.sql - | head"]
    if group.has_versions:
        examples = ["models v1/weights.bin", "models / everything --at 17", "models dump.tar - | tar t"]

    @group.add("get", text, *examples, **group.without_version)
    def get(
        context: typer.Context,
        name: Name,
        remote: RemoteSource,
        local: LocalTarget = ".",
        force: Force = False,
        at: AtVersion = None,
        trusted: Trusted = False,
        env: Environment = None,
    ) -> None:
        with group.files(context, name, env, at) as files:
            transfer.get(files, remote, local, force=force, trusted=trusted)


def _add_cat(group: _Group) -> None:
    @group.add("cat", "Write files to standard output, one after the other.", "models v1/config.json")
    def cat(context: typer.Context, name: Name, paths: RemotePaths, env: Environment = None) -> None:
        with group.files(context, name, env) as files:
            transfer.cat(files, paths)


def _add_put(group: _Group) -> None:
    text = """
Upload a file, a directory with all below it, or standard input.

All of it appears at once, or nothing after an error. Of a directory: its files, also those that links lead to; links to
directories and empty directories are left out. A directory that is put as REMOTE adds to what is there.
"""
    examples = ["models weights.bin v1/", "models ./data /data --force", "models - /dump.tar < dump.tar"]
    fixed = {}
    if not group.has_versions:
        text = f"{text.strip()} Files that are there are replaced."
        examples = ["cache a.txt logs/", "cache - /dump.sql < dump.sql"]
        fixed = {"force": True}

    @group.add("put", text, *examples, **fixed)
    def put(
        context: typer.Context,
        name: Name,
        local: LocalSource,
        remote: RemoteTarget = "/",
        force: Force = False,
        env: Environment = None,
    ) -> None:
        with group.files(context, name, env) as files:
            transfer.put(files, local, remote, force=force)


def _add_cp(group: _Group) -> None:
    text = """
Copy files within the store: into the last path if that is a directory, else one file to this name.

Copies share their bytes, and take no time and no space. All are made at once, and replace files that are there.
"""

    @group.add("cp", text, "models v1/weights.bin v2/weights.bin", "models v1 backup -r")
    def cp(
        context: typer.Context, name: Name, paths: RemotePaths, recursive: Recursive = False, env: Environment = None
    ) -> None:
        *sources, target = _several(paths)
        with group.files(context, name, env) as files:
            files.copy_files(sources, target, recursive)


def _add_mv(group: _Group) -> None:
    text = """
Move or rename files and directories: into the last path if that is a directory or ends in /, else the one to this name.

All of it happens at once. A file that has the new name is replaced.
"""

    @group.add("mv", text, "models draft v1", "models a.txt b.txt texts/")
    def mv(context: typer.Context, name: Name, paths: RemotePaths, env: Environment = None) -> None:
        *sources, target = _several(paths)
        with group.files(context, name, env) as files:
            admin.move(files, sources, target)


def _several(paths: list[str]) -> list[str]:
    if len(paths) < 2:
        raise pgstore.InvalidError(f"{paths[0]!r} is the only path; give what to take, and then where it goes")
    return paths


def _add_rm(group: _Group) -> None:
    @group.add("rm", "Remove files, all at once or none.", "models v1/weights.bin", "models v1 v2 -r")
    def rm(
        context: typer.Context,
        name: Name,
        paths: RemotePaths,
        recursive: Recursive = False,
        allow_missing: AllowMissing = False,
        env: Environment = None,
    ) -> None:
        with group.files(context, name, env) as files:
            admin.remove(files, paths, recursive=recursive, allow_missing=allow_missing)


def _add_mkdir(group: _Group) -> None:
    @group.add("mkdir", "Make a directory.", "models v1", "models v1/checkpoints/best -p")
    def mkdir(
        context: typer.Context,
        name: Name,
        path: RemotePath,
        parents: Annotated[
            bool, typer.Option("--parents", "-p", help="Those on the way, too; it may be there already.")
        ] = False,
        env: Environment = None,
    ) -> None:
        with group.files(context, name, env) as files:
            files.mkdir(path, parents=parents, exist_ok=parents)


def _add_du(group: _Group) -> None:
    text = """
Show how many files are in each directory in PATH and how long they are, and at last those of all of it.

Copies share their bytes and holes have none; here they count each time. `pgstore status` has what is stored.
"""

    @group.add("du", text, "models", "models v1 --json")
    def du(
        context: typer.Context,
        name: Name,
        path: Annotated[str, typer.Argument(metavar="PATH", help="A directory.")] = "/",
        as_json: AsJson = False,
        env: Environment = None,
    ) -> None:
        with group.files(context, name, env) as files:
            show_usage(admin.usage(files, path), as_json)


def show_usage(found: list[admin.Usage], as_json: bool) -> None:
    if as_json:
        output.records(["Path", "Files", "Size"], [(each.path, each.files, each.size_bytes) for each in found], True)
    else:
        rows = [(shown(each.path), each.files, output.size(each.size_bytes)) for each in found]
        output.table(["Path", "Files", "Size"], rows)


def _add_info(group: _Group) -> None:
    @group.add(
        "info", f"Show what a {group.shown} is: who made it, and how it stores files.", "models", "models --json"
    )
    def info(context: typer.Context, name: Name, as_json: AsJson = False, env: Environment = None) -> None:
        with group.files(context, name, env) as files:
            found = admin.info(files)
        if as_json:
            print(json.dumps({**asdict(found), "created_at": found.created_at.isoformat()}, indent=2))
            return
        output.fields(
            [
                ("name", found.name),
                ("environment", found.environment),
                ("id", found.id),
                ("created", output.created(found.created_at, found.created_by)),
                ("storage", f"{found.storage}, in pieces of {output.size(found.chunk_size_bytes)}"),
                ("versions kept", found.versions_kept),
                ("newest version", found.version),
            ]
        )
