"""`pgstore queue dead|revive|discard`: dead letters from a shell; `queue_commands` is the rest of the group."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

import pgstore
from pgstore.admin import contents
from pgstore.cli import output, stores, values
from pgstore.cli.options import SHOWN, AsJson, AsRepr, Environment, Everything, Number, Yes, confirm
from pgstore.cli.stores import Name

Ids = Annotated[list[int] | None, typer.Argument(metavar="ID …", help="Those of `dead`.", show_default=False)]


def dead(
    context: typer.Context,
    name: Name,
    number: Number = None,
    use_repr: AsRepr = False,
    as_json: AsJson = False,
    env: Environment = None,
) -> None:
    """
    Show dead letters: items whose last lease, by --max-attempts, came to nothing. The oldest first.

    \b
    Example:
      pgstore queue dead mails
      pgstore queue revive mails 17
    """
    with stores.opened(context, "queue", name, env) as queue:
        found = contents.dead_letters(queue, SHOWN if number is None and not as_json else number)
    if as_json:
        values.write_records(map(_letter, found))
        return
    output.records(
        ["Id", "Partition", "Put at", "Attempts", "Reason", "Item"],
        [
            (
                *(str(each.id), values.cell(each.partition or ""), each.put_at, each.attempts),
                *(None if each.reason is None else values.cell(each.reason), values.cell(each.item, use_repr)),
            )
            for each in found
        ],
        as_json=False,
    )


def _letter(each: contents.Letter) -> dict[str, object]:
    return {
        "id": each.id,
        "partition": each.partition,
        "put_at": each.put_at,
        "attempts": each.attempts,
        "reason": each.reason,
        **values.or_error("item", each.item),
    }


def revive(
    context: typer.Context, name: Name, ids: Ids = None, everything: Everything = False, env: Environment = None
) -> None:
    """
    Put dead letters back to the end of their partitions, as if never leased; all or none of those that are named.

    \b
    Example:
      pgstore queue revive mails 17 18
      pgstore queue revive mails --all
    """
    wanted = _wanted(ids, everything)
    with stores.transaction(context, "queue", name, env) as queue:
        count = _done(queue.revive, wanted, name)
    print(f"{count} revived")


def discard(
    context: typer.Context,
    name: Name,
    ids: Ids = None,
    everything: Everything = False,
    yes: Yes = False,
    env: Environment = None,
) -> None:
    """
    Delete dead letters; all or none of those that are named.

    \b
    Example:
      pgstore queue discard mails 17 --yes
    """
    wanted = _wanted(ids, everything)
    which = "all dead letters" if wanted is None else f"the dead letters {', '.join(map(str, wanted))}"
    confirm(f"Delete {which} of the Queue {name}?", yes)
    with stores.transaction(context, "queue", name, env) as queue:
        count = _done(queue.discard, wanted, name)
    print(f"{count} discarded")


def _wanted(ids: list[int] | None, everything: bool) -> list[int] | None:
    if bool(ids) == everything:
        raise pgstore.InvalidError("give ids, or --all")
    return sorted(set(ids)) if ids else None


def _done(operation: Callable[[list[int] | None], int], ids: list[int] | None, name: str) -> int:
    count = operation(ids)
    if ids is not None and count < len(ids):
        raise pgstore.NotFoundError(
            f"{len(ids) - count} of {len(ids)} ids are of no dead letter of the Queue {name}: nothing was changed"
        )
    return count
