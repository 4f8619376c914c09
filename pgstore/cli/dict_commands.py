"""`pgstore dict …`: Dicts from a shell."""

from __future__ import annotations

from typing import Annotated

import typer

import pgstore
from pgstore.admin import contents
from pgstore.admin import stores as admin
from pgstore.cli import output, stores, values
from pgstore.cli.groups import Group
from pgstore.cli.options import AsJson, AsRepr, Environment, Everything, Number, Raw, Yes, client_of, confirm, limit_of
from pgstore.cli.stores import Name

Key = Annotated[str, typer.Argument(metavar="KEY", help="The key, a str.", show_default=False)]
Keys = Annotated[list[str], typer.Argument(metavar="KEY …", help="Keys, each a str.", show_default=False)]
JsonKey = Annotated[
    bool, typer.Option("--json-key", help='KEY is JSON: 7 is a number, ["a", 7] a tuple, null is None.')
]
Prefix = Annotated[
    str | None, typer.Option("--prefix", metavar="TEXT", help="Only str keys that start so.", show_default=False)
]
Seconds = Annotated[
    float | None, typer.Option("--ttl", min=0, metavar="SECONDS", help="It expires then.", show_default=False)
]

app = typer.Typer(cls=Group, rich_markup_mode=None)


@app.callback(invoke_without_command=True)
def dict_(context: typer.Context) -> None:
    """
    Dicts: keys and values, in a table.

    Keys are str unless --json-key is given. Showing a value unpickles it, which runs code of whoever wrote it. What cannot be
    loaded here is shown as such; control characters are shown as escapes on a terminal.

    \b
    Example:
      pgstore dict create settings
      pgstore dict put settings limit 10 --json
      pgstore dict items settings
    """
    output.help_if_alone(context)


stores.add_list(app, "dict")


@app.command()
def create(
    context: typer.Context,
    name: Name,
    serializer: Annotated[
        str | None, typer.Option(metavar="pickle|json|cloudpickle", help="How values are stored.", show_default=False)
    ] = None,
    ttl: Seconds = None,
    watch: Annotated[bool, typer.Option("--watch", help="Log changes, for `pgstore dict watch`.")] = False,
    json_projection: Annotated[
        bool, typer.Option("--json-projection", help="Store values as jsonb as well, for SQL.")
    ] = False,
    env: Environment = None,
) -> None:
    """
    Create a Dict; one that exists stays as it is.

    Options are for good. With --ttl entries expire so many seconds after they were put.

    \b
    Example:
      pgstore dict create settings
      pgstore dict create cache --ttl 3600 --serializer json
    """
    with client_of(context, env, auto_migrate=None) as (client, environment):
        options = {
            "serializer": serializer,
            "ttl": ttl,
            "watch": watch or None,
            "json_projection": json_projection or None,
        }
        admin.ensure(client, "dict", name, environment, **options)


stores.add_delete(app, "dict")


@app.command()
def clear(context: typer.Context, name: Name, yes: Yes = False, env: Environment = None) -> None:
    """
    Delete all entries.

    \b
    Example:
      pgstore dict clear cache --yes
    """
    confirm(f"Delete all entries of the Dict {name}?", yes)
    with stores.opened(context, "dict", name, env) as store:
        store.clear()


@app.command()
def info(context: typer.Context, name: Name, as_json: AsJson = False, env: Environment = None) -> None:
    """
    Show what a Dict is and how much it holds, which is counted.

    \b
    Example:
      pgstore dict info settings
    """
    stores.show_details(context, "dict", name, env, as_json)


@app.command("len")
def len_(context: typer.Context, name: Name, env: Environment = None) -> None:
    """
    Print the number of entries, which are counted.

    \b
    Example:
      pgstore dict len settings
    """
    with stores.opened(context, "dict", name, env) as store:
        print(store.len())


@app.command()
def keys(
    context: typer.Context,
    name: Name,
    prefix: Prefix = None,
    use_repr: AsRepr = False,
    as_json: AsJson = False,
    env: Environment = None,
) -> None:
    """
    Print all keys in their order, a line each.

    \b
    Example:
      pgstore dict keys settings --prefix user:
    """
    with stores.opened(context, "dict", name, env) as store:
        values.write_lines(contents.keys(store, prefix=prefix), use_repr=use_repr, as_json=as_json)


@app.command()
def items(
    context: typer.Context,
    name: Name,
    number: Number = None,
    everything: Everything = False,
    prefix: Prefix = None,
    use_repr: AsRepr = False,
    as_json: AsJson = False,
    env: Environment = None,
) -> None:
    """
    Show entries in the order of their keys.

    On a terminal cells are cut at 80 characters. JSON has all entries unless N is given, and what JSON does not have as its repr.

    \b
    Example:
      pgstore dict items settings
      pgstore dict items settings 5 --repr
      pgstore dict items settings --json
    """
    limit = limit_of(number, everything)
    with stores.opened(context, "dict", name, env) as store:
        if as_json:
            values.write_records(map(_record, contents.entries(store, prefix=prefix, limit=number)))
            return
        rows: list[tuple[str, str]] = []
        for entry in contents.entries(store, prefix=prefix, limit=None if limit is None else limit + 1):
            is_cut = limit is not None and len(rows) == limit
            rows.append(
                ("...", "...") if is_cut else (values.cell(entry.key, use_repr), values.cell(entry.value, use_repr))
            )
    output.table(["Key", "Value"], rows)


def _record(entry: contents.Entry) -> dict[str, object]:
    return {"key": values.plain(entry.key), **values.or_error("value", entry.value)}


@app.command()
def get(
    context: typer.Context,
    name: Name,
    key: Key,
    json_key: JsonKey = False,
    use_repr: AsRepr = False,
    as_json: AsJson = False,
    raw: Raw = False,
    env: Environment = None,
) -> None:
    """
    Print the value of a key; `None` if it is not there.

    Bytes go out as they are, unless to a terminal.

    \b
    Example:
      pgstore dict get settings limit
      pgstore dict get images logo.png > logo.png
    """
    values.check_form(use_repr=use_repr, as_json=as_json, raw=raw)
    wanted = values.typed_key(key, json_key)
    with stores.opened(context, "dict", name, env) as store:
        value = store.get(wanted)
        if raw and value is None:
            raise pgstore.Error(f"{wanted!r} is not in the Dict {name}, or is None")
        values.write(value, use_repr=use_repr, as_json=as_json, raw=raw)


@app.command()
def contains(context: typer.Context, name: Name, key: Key, json_key: JsonKey = False, env: Environment = None) -> int:
    """
    Print `true` or `false`: whether a key is there.

    The exit code is 1 if it is not.

    \b
    Example:
      pgstore dict contains settings limit || pgstore dict put settings limit 10 --json
    """
    wanted = values.typed_key(key, json_key)
    with stores.opened(context, "dict", name, env) as store:
        found = store.contains(wanted)
    print("true" if found else "false")
    return 0 if found else 1


@app.command()
def put(
    context: typer.Context,
    name: Name,
    key: Key,
    value: Annotated[str, typer.Argument(metavar="VALUE", help="A str; `-`: what comes on stdin.", show_default=False)],
    is_json: Annotated[bool, typer.Option("--json", help="VALUE is JSON.")] = False,
    is_bytes: Annotated[bool, typer.Option("--bytes", help="Store VALUE as bytes.")] = False,
    json_key: JsonKey = False,
    ttl: Seconds = None,
    skip_if_exists: Annotated[
        bool, typer.Option("--skip-if-exists", help="Only if the key is not there; else the exit code is 1.")
    ] = False,
    env: Environment = None,
) -> None:
    """
    Store a value under a key, in place of what is there.

    What starts with a dash comes after `--`.

    \b
    Example:
      pgstore dict put settings greeting hello
      pgstore dict put settings limits '{"cpu": 4}' --json
      pgstore dict put images logo.png - --bytes < logo.png
      pgstore dict put settings offset --json -- -5
    """
    values.check_kind(is_json=is_json, is_bytes=is_bytes)
    wanted = values.typed_key(key, json_key)
    with stores.opened(context, "dict", name, env) as store:
        new = values.typed(value, is_json=is_json, is_bytes=is_bytes)
        if not store.put(wanted, new, skip_if_exists=skip_if_exists, ttl=ttl):
            raise pgstore.AlreadyExistsError(f"{wanted!r} is in the Dict {name} already; it was left as it is")


@app.command()
def increment(
    context: typer.Context,
    name: Name,
    key: Key,
    by: Annotated[str, typer.Argument(metavar="BY", help="How much; less than 0 after `--`.")] = "1",
    json_key: JsonKey = False,
    ttl: Seconds = None,
    env: Environment = None,
) -> None:
    """
    Add to a number, 0 if it is not there, and print the sum.

    \b
    Example:
      pgstore dict increment counters visits
      pgstore dict increment counters balance -- -2.5
    """
    wanted, summand = values.typed_key(key, json_key), values.number(by, "BY")
    with stores.opened(context, "dict", name, env) as store:
        print(store.increment(wanted, summand, ttl=ttl))


@app.command()
def pop(
    context: typer.Context,
    name: Name,
    key: Key,
    json_key: JsonKey = False,
    use_repr: AsRepr = False,
    as_json: AsJson = False,
    raw: Raw = False,
    env: Environment = None,
) -> None:
    """
    Remove a key and print its value.

    It is removed when the value is written: if that fails it stays.

    \b
    Example:
      pgstore dict pop sessions token
    """
    values.check_form(use_repr=use_repr, as_json=as_json, raw=raw)
    wanted = values.typed_key(key, json_key)
    with stores.transaction(context, "dict", name, env) as store:
        found = store.pop_many([wanted])
        if not found:
            raise _no_key(wanted, name)
        values.write(found[wanted], use_repr=use_repr, as_json=as_json, raw=raw)


@app.command()
def rm(
    context: typer.Context,
    name: Name,
    keys: Keys,
    json_key: JsonKey = False,
    allow_missing: Annotated[bool, typer.Option("--allow-missing", help="They need not exist.")] = False,
    env: Environment = None,
) -> None:
    """
    Remove keys, all or none, without loading their values.

    \b
    Example:
      pgstore dict rm settings limit greeting
    """
    wanted = [values.typed_key(key, json_key) for key in keys]
    with stores.transaction(context, "dict", name, env) as store:
        for key in wanted:
            try:
                del store[key]
            except KeyError:
                if not allow_missing:
                    raise _no_key(key, name) from None


def _no_key(key: object, name: str) -> pgstore.NotFoundError:
    return pgstore.NotFoundError(f"{key!r} is not in the Dict {name}")


@app.command()
def watch(
    context: typer.Context,
    name: Name,
    since: Annotated[
        str | None, typer.Option(metavar="CURSOR", help="Go on after this change.", show_default=False)
    ] = None,
    timeout: Annotated[
        float | None,
        typer.Option(min=0, metavar="SECONDS", help="End after so long without a change.", show_default=False),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print each as a line of JSON, with its cursor.")] = False,
    env: Environment = None,
) -> None:
    """
    Print each change of a Dict that was created with --watch, as it comes, until Ctrl-C.

    `reset` says that changes may have been missed: read the Dict again.

    \b
    Example:
      pgstore dict watch settings
      pgstore dict watch settings --json --timeout 60
    """
    with stores.opened(context, "dict", name, env) as store, store.watch(since=since, timeout=timeout) as changes:
        for change in changes:
            if as_json:
                found = {"kind": change.kind, "key": change.key, "revision": change.revision, "cursor": change.cursor}
                print(values.json_text(found), flush=True)
            else:
                key = "" if change.kind in ("clear", "reset") else f" {values.line(change.key)}"
                print(f"{change.kind}{key}", flush=True)
