"""`pgstore bucket …`: the files of a bucket from a shell. No database is used, but for a secret that is stored in one."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Annotated

import typer

import pgstore
from pgstore import errors
from pgstore.admin import files as files_admin
from pgstore.admin import mounts
from pgstore.admin.buckets import bucket_at
from pgstore.cli import listing, output, transfer
from pgstore.cli.completion import names
from pgstore.cli.file_commands import Force, LocalSource, LocalTarget, Null, Recursive, show_usage
from pgstore.cli.groups import Group
from pgstore.cli.mount import Directory, Foreground, LogFile, ReadOnly, stay
from pgstore.cli.options import AsJson, Environment, Yes, client_of, confirm
from pgstore.cli.signature import with_options_of

app = typer.Typer(cls=Group, rich_markup_mode=None)

Url = Annotated[
    str,
    typer.Argument(
        metavar="URL", help="s3://BUCKET/PATH, gs://BUCKET/PATH or az://ACCOUNT/CONTAINER/PATH.", show_default=False
    ),
]
SecretName = Annotated[
    str | None,
    typer.Option(
        "--secret",
        metavar="NAME",
        help="The secret with the credentials.  [default: what the provider's SDK finds]",
        show_default=False,
        autocompletion=names("secret"),
    ),
]
EndpointUrl = Annotated[
    str | None,
    typer.Option(metavar="URL", help="Of a service with the provider's interface, as MinIO.", show_default=False),
]
Region = Annotated[str | None, typer.Option(metavar="REGION", help="Of S3.", show_default=False)]
Anonymous = Annotated[bool, typer.Option("--anonymous", help="Without credentials, for public buckets.")]


@app.callback(invoke_without_command=True)
def bucket(context: typer.Context) -> None:
    """
    Buckets: files at S3, Google Cloud Storage and Azure.

    Credentials are those that the provider's SDK finds, as in AWS_ACCESS_KEY_ID or ~/.aws, or of a secret of `pgstore secret`.

    \b
    Example:
      pgstore bucket ls s3://my-data/2026
      pgstore bucket get gs://my-data/2026/jan.csv - | wc -l
      pgstore bucket put results az://account/container/ --secret azure
    """
    output.help_if_alone(context)


@dataclasses.dataclass(frozen=True)
class _Access:
    """How a command reaches buckets: its options after those about files."""

    context: typer.Context
    secret: SecretName = None
    endpoint_url: EndpointUrl = None
    region: Region = None
    anonymous: Anonymous = False
    env: Environment = None

    @contextlib.contextmanager
    def open(self, *urls: str, write: bool = False) -> Iterator[list[tuple[pgstore.CloudBucketMount, str]]]:
        """The buckets of *urls*, each with the path in it."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(_warning_in_one_line())
            stack.enter_context(transfer.advised())
            secret = None
            if self.secret is not None:
                client, environment = stack.enter_context(client_of(self.context, self.env))
                secret = pgstore.Secret.from_name(self.secret, environment_name=environment, client=client)
            yield [
                bucket_at(
                    url,
                    read_only=not write,
                    secret=secret,
                    endpoint_url=self.endpoint_url,
                    region=self.region,
                    anonymous=self.anonymous,
                )
                for url in urls
            ]


@contextlib.contextmanager
def _warning_in_one_line() -> Iterator[None]:
    def show(message: Warning | str, *_: object, **__: object) -> None:
        print(f"warning: {message}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.simplefilter("always", errors.KeysLeftOut)
        warnings.showwarning = show  # which `catch_warnings` puts back
        yield


def _command(function: Callable[..., None]) -> Callable[..., None]:
    """Enter *function* as a command of the group; its *access* is made from the options of `_Access`."""
    return app.command()(with_options_of(_Access, function, into="access"))


@_command
def ls(
    access: _Access,
    url: Url,
    recursive: Recursive = False,
    null: Null = False,
    as_json: AsJson = False,
) -> None:
    """
    Show what a directory holds, or what matches a pattern, as the provider lists it.

    On a terminal it is a table, else a path a line: the key, in double quotes and with escapes as in C where it has what cannot be
    printed.

    \b
    Example:
      pgstore bucket ls s3://my-data/2026
      pgstore bucket ls 's3://my-data/2026/*.csv' --json
      pgstore bucket ls s3://public-data -r --anonymous
    """
    with access.open(url) as [(files, path)]:
        listing.ls(files, path, recursive=recursive, as_json=as_json, null=null)


@_command
def get(
    access: _Access,
    url: Url,
    local: LocalTarget = ".",
    force: Force = False,
) -> None:
    """
    Download a file, a directory with all below it, or what matches a pattern.

    A file appears under its name when it is complete. Of a pattern, what follows its part without wildcards becomes the path below
    LOCAL.

    \b
    Example:
      pgstore bucket get s3://my-data/2026/jan.csv
      pgstore bucket get 'gs://my-data/**/*.csv' here/
      pgstore bucket get s3://my-data/dump.sql - | psql
    """
    with access.open(url) as [(files, path)]:
        transfer.get(files, path, local, force=force)


@_command
def cat(
    access: _Access,
    urls: Annotated[list[str], typer.Argument(metavar="URL …", help="Files.", show_default=False)],
) -> None:
    """
    Write files to standard output, one after the other.

    \b
    Example:
      pgstore bucket cat s3://my-data/2026/jan.csv
    """
    with access.open(*urls) as found:
        for files, path in found:
            transfer.cat(files, [path])


@_command
def put(
    access: _Access,
    local: LocalSource,
    url: Annotated[
        str,
        typer.Argument(
            metavar="URL", help="Where to; one that ends in / is a directory to put it in.", show_default=False
        ),
    ],
    force: Force = False,
) -> None:
    """
    Upload a file, a directory with all below it, or standard input.

    Each file appears when all of it has arrived. Of a directory: its files, also those that links lead to; links to directories and
    empty directories are left out. After an error those that had appeared stay.

    \b
    Example:
      pgstore bucket put jan.csv s3://my-data/2026/
      pgstore bucket put results s3://my-data/results --force
      pg_dump app | pgstore bucket put - s3://my-data/app.sql
    """
    with access.open(url, write=True) as [(files, path)]:
        transfer.put(files, local, path, force=force, is_bucket=True)


@_command
def cp(
    access: _Access,
    source: Annotated[str, typer.Argument(metavar="FROM", help="A file or a directory.", show_default=False)],
    target: Annotated[
        str, typer.Argument(metavar="TO", help="A name for it, or a directory to put it in.", show_default=False)
    ],
    recursive: Recursive = False,
) -> None:
    """
    Copy a file or a directory within a bucket, which the provider does. Files that are there are replaced.

    \b
    Example:
      pgstore bucket cp s3://my-data/2026/jan.csv s3://my-data/archive/jan.csv
      pgstore bucket cp s3://my-data/2026 s3://my-data/archive -r
    """
    with access.open(source, target, write=True) as [(files, path), (elsewhere, new)]:
        if files != elsewhere:
            raise pgstore.InvalidError(
                f"{target!r} is in another bucket than {source!r}: `pgstore bucket get` and `put` copy from one to another"
            )
        files.copy_files([path], new, recursive)


@_command
def rm(
    access: _Access,
    url: Url,
    recursive: Recursive = False,
    yes: Yes = False,
) -> None:
    """
    Remove a file or a directory, object by object.

    \b
    Example:
      pgstore bucket rm s3://my-data/2026/jan.csv
      pgstore bucket rm s3://my-data/2026 -r --yes
    """
    with access.open(url, write=True) as [(files, path)]:
        confirm(f"Remove {url}{' and all below it' if recursive else ''}?", yes)
        files.remove_file(path, recursive=recursive)


@_command
def du(
    access: _Access,
    url: Url,
    as_json: AsJson = False,
) -> None:
    """
    Show how many files are in each directory and how long they are, and at last those of all of it.

    All keys below URL are listed for it.

    \b
    Example:
      pgstore bucket du s3://my-data/2026
    """
    with access.open(url) as [(files, path)]:
        show_usage(files_admin.usage(files, path), as_json)


@_command
def mount(
    access: _Access,
    url: Url,
    directory: Directory,
    read_only: ReadOnly = False,
    foreground: Foreground = False,
    log: LogFile = None,
) -> None:
    """
    Mount a bucket, or a directory of it: any program can open its files then.

    A daemon serves it until `pgstore unmount`, also when the shell has ended. A file is put when it is closed, as a whole. Without
    FUSE files are copied, and put at the end, which takes --foreground.

    \b
    Example:
      pgstore bucket mount s3://my-data/2026 /mnt/data --read-only
      pgstore unmount /mnt/data
    """
    with access.open(url, write=not read_only) as [(files, path)]:
        below = dataclasses.replace(files, key_prefix="" if path == "/" else f"{path.rstrip('/')}/")
        if foreground:
            stay(below.mount, directory)
            return
        place, pid = mounts.mount_bucket(below, directory, log=log)
    print(f"mounted at {place} by process {pid}; `pgstore unmount {place}` ends it")
