"""`pgstore queue …`: Queues from a shell."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

import pgstore
from pgstore import errors
from pgstore.admin import contents
from pgstore.admin import queues as admin
from pgstore.admin import stores as store_admin
from pgstore.cli import dead_letters, output, stores, values
from pgstore.cli.completion import names_of_group
from pgstore.cli.groups import Group
from pgstore.cli.options import AsJson, AsRepr, Environment, Everything, Number, Raw, Yes, client_of, confirm, limit_of
from pgstore.cli.stores import Name

Partition = Annotated[
    str | None,
    typer.Option(
        "--partition", "-p", metavar="P", help="Of this partition.  [default: the default one]", show_default=False
    ),
]

app = typer.Typer(cls=Group, rich_markup_mode=None)


@app.callback(invoke_without_command=True)
def queue_(context: typer.Context) -> None:
    """
    Queues: items in order, each taken once.

    Showing an item unpickles it, which runs code of whoever wrote it. What cannot be loaded here is shown as such; control
    characters are shown as escapes on a terminal.

    \b
    Example:
      pgstore queue create tasks
      pgstore queue put tasks first second
      pgstore queue get tasks
    """
    output.help_if_alone(context)


@app.command("list")
def list_(context: typer.Context, as_json: AsJson = False, env: Environment = None) -> None:
    """
    Show the Queues of the environment, newest first, with how many items they have, which are counted.

    \b
    Example:
      pgstore queue list
      pgstore queue list --json
    """
    with client_of(context, env) as (client, environment):
        found = admin.queues(client, environment)
    output.records(
        ["Name", "Created at", "Created by", "Partitions", "Total size"],
        [(q.name, q.created_at, q.created_by, q.partitions, q.total_size) for q in found],
        as_json,
    )


@app.command()
def create(
    context: typer.Context,
    name: Name,
    maxsize: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="The most items that wait.", show_default=False)
    ] = None,
    max_attempts: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Leases after which an item is a dead letter.", show_default=False),
    ] = None,
    backoff: Annotated[
        float | None,
        typer.Option(min=0, metavar="SECONDS", help="Until an item comes again that has failed.", show_default=False),
    ] = None,
    env: Environment = None,
) -> None:
    """
    Create a Queue; one that exists stays as it is.

    Options are for good.

    \b
    Example:
      pgstore queue create tasks
      pgstore queue create mails --maxsize 1000 --max-attempts 3
    """
    options: dict[str, Any] = {"maxsize": maxsize, "max_attempts": max_attempts}
    if backoff is not None:
        options["backoff"] = backoff
    with client_of(context, env, auto_migrate=None) as (client, environment):
        store_admin.ensure(client, "queue", name, environment, **options)


stores.add_delete(app, "queue")


@app.command()
def clear(
    context: typer.Context,
    name: Name,
    partition: Partition = None,
    everything: Annotated[bool, typer.Option("--all", "-a", help="Of all partitions.")] = False,
    yes: Yes = False,
    env: Environment = None,
) -> None:
    """
    Delete the items of a partition, or of all. Leased items and dead letters stay.

    \b
    Example:
      pgstore queue clear tasks --all --yes
    """
    _check_one_partition(partition, everything, "--all")
    which = "all partitions" if everything else f"partition {partition!r}" if partition else "the default partition"
    confirm(f"Delete the items of {which} of the Queue {name}?", yes)
    with stores.opened(context, "queue", name, env) as queue:
        queue.clear(partition=partition, all=everything)


def _check_one_partition(partition: str | None, everything: bool, option: str) -> None:
    if everything and partition is not None:
        raise pgstore.InvalidError(f"give --partition or {option}, not both")


@app.command()
def info(context: typer.Context, name: Name, as_json: AsJson = False, env: Environment = None) -> None:
    """
    Show what a Queue is and how much it holds, which is counted.

    \b
    Example:
      pgstore queue info tasks
    """
    stores.show_details(context, "queue", name, env, as_json)


@app.command("len")
def len_(
    context: typer.Context,
    name: Name,
    partition: Partition = None,
    total: Annotated[bool, typer.Option("--total", "-t", help="Of all partitions.")] = False,
    env: Environment = None,
) -> None:
    """
    Print the number of items, which are counted.

    \b
    Example:
      pgstore queue len tasks --total
    """
    _check_one_partition(partition, total, "--total")
    with stores.opened(context, "queue", name, env) as queue:
        print(queue.len(partition=partition, total=total))


@app.command()
def stats(
    context: typer.Context,
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME", help="The store.  [default: all]", show_default=False, autocompletion=names_of_group
        ),
    ] = None,
    as_json: AsJson = False,
    env: Environment = None,
) -> None:
    """
    Show what waits in Queues, since when, and how much has gone through. It is counted.

    Age is that of the oldest item in seconds. Gets and cleared items are counted some ten seconds late.

    \b
    Example:
      pgstore queue stats
      pgstore queue stats tasks --json
    """
    with client_of(context, env) as (client, environment):
        queue = None if name is None else stores.found(client, "queue", name, environment)
        found = admin.stats(client, environment, queue)
    output.records(
        ["Name", "Depth", "Oldest at", "Age", "Leased", "Delayed", "Dead", "Puts", "Gets", "Cleared"],
        [
            (
                *(each.name, each.depth, each.oldest_at),
                None if each.oldest_age is None else round(each.oldest_age.total_seconds()),
                *(each.leased, each.delayed, each.dead, each.puts, each.gets, each.cleared),
            )
            for each in found
        ],
        as_json,
    )


@app.command()
def partitions(context: typer.Context, name: Name, as_json: AsJson = False, env: Environment = None) -> None:
    """
    Show the partitions that have items. The default one has an empty name.

    \b
    Example:
      pgstore queue partitions tasks
    """
    with client_of(context, env) as (client, environment):
        found = admin.partitions(client, stores.found(client, "queue", name, environment))
    rows = [(each.name if as_json else values.cell(each.name), each.items, each.oldest_at) for each in found]
    output.records(["Partition", "Items", "Oldest at"], rows, as_json)


@app.command()
def peek(
    context: typer.Context,
    name: Name,
    number: Annotated[int, typer.Argument(metavar="N", min=1, help="The oldest so many.")] = 1,
    partition: Partition = None,
    use_repr: AsRepr = False,
    as_json: AsJson = False,
    env: Environment = None,
) -> None:
    """
    Print the oldest items, a line each, and leave them in the Queue.

    \b
    Example:
      pgstore queue peek tasks
      pgstore queue peek tasks 10 -p urgent --json
    """
    with stores.opened(context, "queue", name, env) as queue:
        found = (each.item for each in contents.items(queue, partition=partition, limit=number))
        values.write_lines(found, use_repr=use_repr, as_json=as_json)


@app.command()
def items(
    context: typer.Context,
    name: Name,
    number: Number = None,
    everything: Everything = False,
    partition: Partition = None,
    use_repr: AsRepr = False,
    as_json: AsJson = False,
    env: Environment = None,
) -> None:
    """
    Show the items of a partition, the oldest first, and leave them there.

    On a terminal cells are cut at 80 characters. JSON has all items unless N is given, and what JSON does not have as its repr.

    \b
    Example:
      pgstore queue items tasks
      pgstore queue items tasks 5 -p urgent
    """
    limit = limit_of(number, everything)
    with stores.opened(context, "queue", name, env) as queue:
        if as_json:
            values.write_records(map(_record, contents.items(queue, partition=partition, limit=number)))
            return
        rows: list[tuple[object, ...]] = []
        for each in contents.items(queue, partition=partition, limit=None if limit is None else limit + 1):
            is_cut = limit is not None and len(rows) == limit
            shown = (each.put_at, output.size(each.size_bytes), values.cell(each.item, use_repr))
            rows.append(("...", "...", "...") if is_cut else shown)
    output.records(["Put at", "Size", "Item"], rows, as_json=False)


def _record(each: contents.Item) -> dict[str, object]:
    return {"put_at": each.put_at, "size": each.size_bytes, **values.or_error("item", each.item)}


@app.command()
def put(
    context: typer.Context,
    name: Name,
    items: Annotated[list[str], typer.Argument(metavar="ITEM …", help="Each a str; `-`: what comes on stdin.")],
    partition: Partition = None,
    is_json: Annotated[bool, typer.Option("--json", help="Each ITEM is JSON.")] = False,
    is_bytes: Annotated[bool, typer.Option("--bytes", help="Put each ITEM as bytes.")] = False,
    lines: Annotated[bool, typer.Option("--lines", help="With `-`: each line is an item.")] = False,
    delay: Annotated[float, typer.Option(min=0, metavar="SECONDS", help="Until they can be taken.")] = 0,
    idempotency_key: Annotated[
        str | None,
        typer.Option(metavar="KEY", help="Put nothing if this was used in the last day.", show_default=False),
    ] = None,
    partition_ttl: Annotated[
        float | None,
        typer.Option(min=0, metavar="SECONDS", help="Empty the partition so long after this.", show_default=False),
    ] = None,
    timeout: Annotated[
        float | None,
        typer.Option(
            min=0, metavar="SECONDS", help="How long to wait for room.  [default: for ever]", show_default=False
        ),
    ] = None,
    env: Environment = None,
) -> None:
    """
    Put items at the end of a Queue, in their order, all or none.

    What starts with a dash comes after `--`.

    \b
    Example:
      pgstore queue put tasks first second
      pgstore queue put tasks '{"id": 7}' --json -p urgent --delay 60
      pgstore queue put tasks - --lines < tasks.txt
    """
    values.check_kind(is_json=is_json, is_bytes=is_bytes)
    if items.count("-") > 1:
        raise pgstore.InvalidError("give `-` once: stdin can be read once")
    if lines and items != ["-"]:
        raise pgstore.InvalidError("--lines goes with `-` as the only item")
    with stores.opened(context, "queue", name, env) as queue:
        if lines:
            several = values.typed_lines(is_json=is_json, is_bytes=is_bytes)
        else:
            several = [values.typed(item, "ITEM", is_json=is_json, is_bytes=is_bytes) for item in items]
        queue.put_many(
            several,
            timeout=timeout,
            partition=partition,
            delay=delay,
            idempotency_key=idempotency_key,
            partition_ttl=partition_ttl,
        )


@app.command()
def get(
    context: typer.Context,
    name: Name,
    number: Annotated[int, typer.Option("-n", metavar="N", min=1, help="So many, or as many as there are.")] = 1,
    partition: Partition = None,
    block: Annotated[bool, typer.Option("--block", help="Wait for an item.")] = False,
    timeout: Annotated[
        float | None, typer.Option(min=0, metavar="SECONDS", help="Wait at most so long.", show_default=False)
    ] = None,
    use_repr: AsRepr = False,
    as_json: AsJson = False,
    raw: Raw = False,
    env: Environment = None,
) -> None:
    """
    Take the oldest items and print them, a line each; JSON is a list.

    They are gone when they are written: if that fails, or one cannot be loaded here, they all stay. With no item there the exit
    code is 1. Control characters, newlines too, are shown as escapes unless --raw is given.

    \b
    Example:
      pgstore queue get tasks
      pgstore queue get tasks -n 10 --timeout 60 --json
    """
    values.check_form(use_repr=use_repr, as_json=as_json, raw=raw)
    waits = block or timeout is not None
    with stores.transaction(context, "queue", name, env) as queue:
        try:
            found = queue.get_many(number, block=waits, timeout=timeout, partition=partition)
        except errors.QueueEmpty:
            found = []
        if not found:
            which = f"{'' if partition is None else f'partition {partition!r} of '}the Queue {name}"
            raise errors.QueueEmpty(
                f"{which} has no item: --block waits for one"
                if timeout is None
                else f"no item came to {which} within {timeout:g} seconds"
            )
        if as_json:
            values.write_json(found)
        else:
            for item in found:
                if raw:
                    values.write(item, raw=True)
                else:
                    print(values.line(item, use_repr, chars=None))
        sys.stdout.flush()


@app.command()
def watch(
    context: typer.Context,
    name: Name,
    partition: Partition = None,
    timeout: Annotated[
        float | None,
        typer.Option(min=0, metavar="SECONDS", help="End after so long without an item.", show_default=False),
    ] = None,
    use_repr: AsRepr = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print each as a line of JSON.")] = False,
    env: Environment = None,
) -> None:
    """
    Print the items that wait, and each that comes, until Ctrl-C. They stay in the Queue for others.

    \b
    Example:
      pgstore queue watch tasks
    """
    with stores.opened(context, "queue", name, env) as queue:
        for item in contents.coming(queue, partition=partition, timeout=timeout):
            print(values.json_text(values.plain(item)) if as_json else values.line(item, use_repr), flush=True)


app.command()(dead_letters.dead)
app.command()(dead_letters.revive)
app.command()(dead_letters.discard)
