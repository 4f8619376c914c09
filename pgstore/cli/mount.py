"""`pgstore mount`, `pgstore unmount` and `pgstore mounts`."""

from __future__ import annotations

import json
import signal
import threading
import time
from dataclasses import asdict
from typing import Annotated, Any

import typer

import pgstore
from pgstore import errors
from pgstore.admin import mounts as admin
from pgstore.cli import output
from pgstore.cli.completion import names
from pgstore.cli.options import AsJson, Environment
from pgstore.cli.target import target
from pgstore.core.names import KIND_NAMES
from pgstore.mount.options import BACKGROUND_COMMIT_SECONDS, TIMEOUT_SECONDS, checked, defaults
from pgstore.mount.recovery import About

# Those of `pgstore bucket mount`, too.
Directory = Annotated[str, typer.Argument(metavar="DIR", help="A directory that is there, and empty.")]
ReadOnly = Annotated[bool, typer.Option("--read-only", help="Nothing can be written.")]
Foreground = Annotated[
    bool, typer.Option("--foreground", "-f", help="Stay until Ctrl-C, and unmount then; the log goes to stderr.")
]
LogFile = Annotated[
    str | None, typer.Option(metavar="FILE", help="Where the daemon writes its log.", show_default=False)
]


def mount(
    context: typer.Context,
    kind: Annotated[str, typer.Argument(metavar="volume|nfs", help="What it is.")],
    name: Annotated[
        str,
        typer.Argument(metavar="NAME", help="The Volume or NetworkFileSystem.", autocompletion=names("volume", "nfs")),
    ],
    directory: Directory,
    read_only: ReadOnly = False,
    foreground: Foreground = False,
    sub_path: Annotated[
        str | None, typer.Option(metavar="PATH", help="Only this directory, which is made.", show_default=False)
    ] = None,
    at: Annotated[
        int | None, typer.Option(metavar="VERSION", help="A Volume as it was in this version.", show_default=False)
    ] = None,
    mode: Annotated[
        str, typer.Option(metavar="auto|fuse|sync", help="sync: without FUSE, which takes --foreground.")
    ] = "auto",
    background_commits: Annotated[
        float, typer.Option(min=0, metavar="SECONDS", help="Between commits of a Volume; 0: at the end alone.")
    ] = BACKGROUND_COMMIT_SECONDS,
    timeout: Annotated[
        float, typer.Option(metavar="SECONDS", help="How long programs wait for a server that does not answer.")
    ] = TIMEOUT_SECONDS,
    locks: Annotated[
        str,
        typer.Option(metavar="local|shared", help="Whom flock excludes; shared: all mounts of a NetworkFileSystem."),
    ] = "local",
    log: LogFile = None,
    env: Environment = None,
) -> None:
    """
    Mount a Volume or NetworkFileSystem: any program can open its files then.

    A daemon serves it until `pgstore unmount`, also when the shell has ended. Without FUSE files are copied, and written back
    at the end, which takes --foreground.

    \b
    Example:
      pgstore mount volume models /mnt/models
      pgstore mount volume models /mnt/old --at 17
      pgstore mount nfs cache /mnt/cache --foreground --env staging
    """
    chosen = target(context, env)
    options = checked(
        read_only=read_only or at is not None,
        sub_path=sub_path,
        handle=None,
        must_be_read_only=at is not None,
        mode=mode,
        **{
            **defaults(),
            "background_commits": background_commits or None,
            "timeout": timeout,
            "locks": locks,
        },
    )
    if locks != "local" and kind == "volume":
        raise pgstore.InvalidError("a Volume shares no locks with other mounts, which see what is committed alone")
    with pgstore.Client(chosen.url, environment=chosen.environment) as client:
        store = admin.store_of(kind, name, chosen.environment, client, version=at)
        if foreground:
            begin: Any = store.mount
            given = {name: value for name, value in asdict(options).items() if name in begin.__signature__.parameters}
            given["sub_path"] = b"/".join(options.sub_path).decode(errors="surrogateescape") or None
            stay(begin, directory, **given)
            return
        path, pid = admin.mount(store, directory, options, log=log)
    print(f"mounted at {path} by process {pid}; `pgstore unmount {path}` ends it")


def stay(mount: Any, directory: str, **options: Any) -> None:
    """Mount, and wait until somebody wants an end. *mount* is a method, and takes *options*."""
    import logging

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    wanted = threading.Event()
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, lambda _, __: wanted.set())
    with mount(directory, **options) as path:
        print(f"mounted at {path}; Ctrl-C unmounts it", flush=True)
        while not wanted.wait(1.0) and any(each.path == path for each in admin.mounts()):
            pass


def unmount(
    directory: Annotated[str, typer.Argument(metavar="DIR", help="Where it is mounted.")],
) -> None:
    """
    Commit what was written, and unmount.

    Programs that still use it go on with the files that they have open; they are named.

    \b
    Example:
      pgstore unmount /mnt/models
    """
    users = admin.unmount(directory)
    print(f"unmounted {directory}" + (f", which is still used by {', '.join(users)}" if users else ""))


def mounts(
    context: typer.Context,
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME", help="With --recover: the directory whose files to put back.", show_default=False
        ),
    ] = None,
    recover: Annotated[
        bool, typer.Option("--recover", help="Show what could not be committed, or put it back into its store.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """
    Show what this user has mounted, or what an earlier mount could not commit.

    \b
    Example:
      pgstore mounts
      pgstore mounts --recover
      pgstore mounts --recover models-20300101T120000Z-a1b2c3
    """
    if recover and name is not None:
        with pgstore.Client(target(context).url) as client:
            restored = admin.restore(name, client)
        print(f"the files of {restored.path.name} are in {KIND_NAMES[restored.about.kind]} {restored.about.name!r} now")
        return
    if name is not None:
        raise errors.InvalidError("a name is for --recover, as in `pgstore mounts --recover NAME`")
    if recover:
        _show_kept(as_json)
    else:
        _show_mounts(as_json)


def _show_mounts(as_json: bool) -> None:
    found = admin.mounts()
    if as_json:
        print(json.dumps([asdict(each) for each in found], indent=2))
        return
    if not found:
        print("nothing mounted")
        return
    output.table(
        ["Path", "Store", "Mode", "Pid", "Since", "Cached", "Uncommitted"],
        [
            (
                each.path,
                _described(each),
                f"{each.mode}{', read-only' if each.read_only else ''}",
                str(each.pid or ""),
                _moment(each.since),
                "" if each.cached_bytes is None else output.size(each.cached_bytes),
                "" if each.uncommitted_files is None else each.uncommitted_files,
            )
            for each in found
        ],
    )


def _described(mounted: admin.MountedStore) -> str:
    if mounted.kind is None:
        return "its daemon is gone: unmount it"
    if mounted.kind == "bucket":
        return f"{mounted.name}/{mounted.sub_path or ''}"
    version = "" if mounted.version is None else f" at {mounted.version}"
    below = f" /{mounted.sub_path}" if mounted.sub_path else ""
    return f"{mounted.environment}: {KIND_NAMES[mounted.kind]} {mounted.name or '(ephemeral)'}{version}{below}"


def _show_kept(as_json: bool) -> None:
    found = admin.kept()
    if as_json:
        print(json.dumps([{"path": str(each.path), **asdict(each.about)} for each in found], indent=2))
        return
    if not found:
        print("nothing was kept")
        return
    for each in found:
        about = each.about
        output.fields(
            [
                ("name", each.path.name),
                ("store", _store(about)),
                ("kept", _moment(about.kept_at)),
                ("because", about.reason),
                ("files", each.files),
                *([("incomplete", each.incomplete)] if each.incomplete.exists() else ()),
            ]
        )
        print()


def _store(about: About) -> str:
    if about.kind == "bucket":
        return f"{about.name}/{about.sub_path}"
    return f"{about.environment}: {KIND_NAMES.get(about.kind, about.kind)} {about.name or '(ephemeral)'}"


def _moment(seconds: float | None) -> str:
    return "" if seconds is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
