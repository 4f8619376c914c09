"""The lines that `pgstore top` shows of a sample: what fits the screen, the busiest first."""

from __future__ import annotations

import socket
import sys
from collections import Counter, deque
from collections.abc import Callable
from typing import Any, Final

from pgstore.admin.live_model import QueueState, Sample
from pgstore.cli import output
from pgstore.cli.screen import Column, Line, Section, cut, drawn, rooms

HISTORY: Final = 30  # samples of a sparkline
SORTS: Final[dict[str, Callable[[QueueState], Any]]] = {
    "depth": lambda queue: -(queue.depth or 0),
    "rate": lambda queue: -((queue.puts_per_second or 0) + (queue.gets_per_second or 0)),
    "oldest": lambda queue: -(queue.oldest_seconds or 0),
    "name": lambda queue: (queue.name is None, queue.name or "", queue.environment),
}
_BLOCKS: Final = "▁▂▃▄▅▆▇█"
_BLOCKS_ASCII: Final = "_.-=+*%#"


class History:
    """What sparklines are drawn of: the last values of what changes."""

    def __init__(self) -> None:
        self._values: dict[Any, deque[float]] = {}
        encoding = (sys.stdout.encoding or "").lower().replace("-", "")
        self._blocks: Final = _BLOCKS if encoding == "utf8" else _BLOCKS_ASCII

    def add(self, sample: Sample) -> None:
        """Remember what *sample* says."""
        totals = sample.totals
        self._note("transactions", sample.server.transactions_per_second)
        self._note("dicts", totals.dict_changes_per_second)
        self._note("puts", totals.puts_per_second)
        self._note("gets", totals.gets_per_second)
        self._note("files", totals.file_changes_per_second)
        there = {queue.store_id for queue in sample.queues}
        for gone in [key for key in self._values if isinstance(key, int) and key not in there]:
            del self._values[gone]
        for queue in sample.queues:
            self._note(queue.store_id, queue.depth)

    def sparkline(self, key: Any, width: int = 10) -> str:
        """The last *width* values as blocks, from nothing to the most of them."""
        values = list(self._values.get(key, ()))[-width:]
        most = max(values, default=0)
        blocks = self._blocks
        return "".join(blocks[round(value / most * (len(blocks) - 1)) if most else 0] for value in values).rjust(width)

    def _note(self, key: Any, value: float | None) -> None:
        if value is not None:
            self._values.setdefault(key, deque(maxlen=HISTORY)).append(value)


def lines(
    sample: Sample,
    history: History,
    *,
    width: int | None = None,
    height: int | None = None,
    sort: str = "depth",
    message: str | None = None,
) -> list[Line]:
    """
    Args:
        width, height: of the screen; None: all that there is.
        sort: of queues: a key of `SORTS`.
        message: what is to be said at the top.
    """
    shown = [Line(text, "bold" if number == 0 else "") for number, text in enumerate(_head(sample, history))]
    if message is not None:
        shown.insert(1, Line(message, "bold red"))
    sections = [each for each in _sections(sample, history, sort) if each.rows or each.note]
    given = [len(each.rows) for each in sections] if height is None else rooms(sections, height - len(shown))
    for section, room in zip(sections, given, strict=True):
        shown += drawn(section, room, width)
    if width is not None:
        shown = [Line(cut(line.text, width), line.style) for line in shown]
    return shown if height is None else shown[:height]


def _head(sample: Sample, history: History) -> list[str]:
    server, totals = sample.server, sample.totals
    kinds = Counter(file_system.kind for file_system in sample.files)
    up = age((sample.taken_at - server.started_at).total_seconds())
    head = [f"pgstore top   {server.database} as {server.login}   PostgreSQL {server.version}, up {up}   "]
    head[0] += f"{sample.taken_at.astimezone():%H:%M:%S}"
    connections = f"connections {server.connections} of {server.connections_max}: {server.active} active, "
    connections += f"{server.in_transaction} idle in a transaction, {server.on_lock} waiting for a lock"
    if server.hidden:
        connections += f", {server.hidden} that {server.login} may not see"
    transactions = f"transactions {rate(server.transactions_per_second)} {history.sparkline('transactions')}   "
    transactions += f"sessions {sample.sessions_total:,}   mounts of this user {len(sample.mounts)}"
    queues = f"{len(sample.queues):,} queues: ~{count(totals.queue_items)} items, {output.size(totals.queue_bytes)}, "
    queues += f"puts {rate(totals.puts_per_second)} {history.sparkline('puts')} "
    queues += f"gets {rate(totals.gets_per_second)} {history.sparkline('gets')}"
    dicts = f"{len(sample.dicts):,} dicts: ~{count(totals.dict_entries)} entries, {output.size(totals.dict_bytes)}, "
    dicts += f"changes {rate(totals.dict_changes_per_second)} {history.sparkline('dicts')}"
    files = f"{kinds['volume']:,} volumes, {kinds['nfs']:,} nfs: {output.size(totals.file_bytes)}, "
    files += f"changes {rate(totals.file_changes_per_second)} {history.sparkline('files')}   "
    files += f"{len(sample.calls):,} apps: calls spawned {rate(totals.calls_spawned_per_second)}"
    return [*head, connections, transactions, queues, dicts, files, ""]


def _sections(sample: Sample, history: History, sort: str) -> list[Section]:
    unknown = f"{sample.not_looked_into} queues were not looked into yet" if sample.not_looked_into else None
    queues = Section(
        [
            Column("QUEUE", is_text=True),
            Column("environment", 5, is_text=True),
            Column("depth"),
            Column("last", 4, is_text=True),
            Column("oldest"),
            Column("puts", 1),
            Column("gets", 1),
            Column("waiting", 2),
            Column("leased", 2),
            Column("delayed", 3),
            Column("dead", 1),
        ],
        [
            (
                name(queue.name),
                queue.environment,
                about(queue.depth, queue.depth_is_estimate),
                history.sparkline(queue.store_id),
                age(queue.oldest_seconds),
                rate(queue.puts_per_second),
                rate(queue.gets_per_second),
                *map(count, (queue.waiters, queue.leased, queue.delayed, queue.dead)),
            )
            for queue in sorted(sample.queues, key=SORTS[sort])
        ],
        unknown,
    )
    calls = Section(
        [
            Column("CALLS OF APP", is_text=True),
            Column("environment", 3, is_text=True),
            Column("pending"),
            Column("oldest", 1),
            Column("running"),
            Column("ended", 1),
        ],
        [
            (
                name(app.app),
                app.environment,
                about(app.pending, app.pending_is_estimate),
                age(app.oldest_seconds),
                count(app.running),
                rate(app.ended_per_second),
            )
            for app in sorted(sample.calls, key=lambda app: (-(app.running or 0), -(app.pending or 0), app.app or ""))
        ],
    )
    dicts = Section(
        [Column("DICT", is_text=True), Column("environment", 2, is_text=True), Column("entries"), Column("size")],
        [
            (name(each.name), each.environment, about(each.entries, True), bytes_(each.size_bytes))
            for each in sorted(sample.dicts, key=lambda each: (-(each.size_bytes or 0), each.name or ""))
        ],
    )
    files = Section(
        [
            Column("FILES OF", is_text=True),
            Column("kind", 2, is_text=True),
            Column("environment", 3, is_text=True),
            Column("files"),
            Column("size"),
            Column("version", 1),
            Column("committed", 1),
        ],
        [
            (
                name(each.name),
                each.kind,
                each.environment,
                about(each.files, True),
                bytes_(each.size_bytes),
                count(each.version),
                "-"
                if each.committed_at is None
                else f"{age((sample.taken_at - each.committed_at).total_seconds())} ago",
            )
            for each in sorted(sample.files, key=lambda each: (-(each.size_bytes or 0), each.name or ""))
        ],
    )
    sessions = Section(
        [
            Column("SESSION OF", is_text=True),
            Column("pid"),
            Column("program", 1, is_text=True),
            Column("heartbeat"),
            Column("since", 2),
            Column("ephemeral", 3),
            Column("versions", 3),
            Column("files", 3),
        ],
        [
            (
                each.host,
                str(each.pid),
                _program(each.host, each.pid),
                f"{age(each.heartbeat_seconds)} ago",
                age((sample.taken_at - each.started_at).total_seconds()),
                *map(count, (each.stores, each.versions, each.files)),
            )
            for each in sample.sessions
        ],
    )
    mounts = Section(
        [
            Column("MOUNT AT", is_text=True),
            Column("mode", 2, is_text=True),
            Column("kind", 1, is_text=True),
            Column("name", 0, is_text=True),
        ],
        [(each.path, each.mode, each.kind or "-", each.name or "-") for each in sample.mounts],
    )
    statements = Section(
        [Column("calls", 1), Column("ms a call"), Column("of a core"), Column("STATEMENT", is_text=True)],
        [
            (
                rate(each.calls_per_second),
                f"{each.milliseconds_per_call:,.2f}",
                "-" if each.share is None else f"{each.share:.1%}",
                each.query,
            )
            for each in sample.statements
        ],
        sample.statements_missing and f"slow statements: {sample.statements_missing}",
        wide=3,
    )
    return [queues, calls, dicts, files, sessions, mounts, statements]


def _program(host: str, pid: int) -> str:
    """What runs as *pid*, if that is on this machine and still there."""
    if host != socket.gethostname():
        return "-"
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            words = [word.decode("utf-8", "replace") for word in file.read(400).split(b"\0") if word]
    except OSError:
        return "-"
    return " ".join(words)[:40] or "-"


def name(given: str | None) -> str:
    """A store's name."""
    return "(ephemeral)" if given is None else given


def count(number: float | None) -> str:
    """A number for people: `12,345`, `1.2 M`."""
    if number is None:
        return "-"
    for least, unit in ((1e9, "G"), (1e6, "M")):
        if number >= least:
            return f"{number / least:.1f} {unit}"
    return f"{number:,.0f}"


def about(number: int | None, is_estimate: bool) -> str:
    """A number that may be an estimate: `~12,345`."""
    return "-" if number is None else f"~{count(number)}" if is_estimate else count(number)


def bytes_(size_bytes: int | None) -> str:
    """An estimated size."""
    return "-" if size_bytes is None else f"~{output.size(size_bytes)}"


def rate(per_second: float | None) -> str:
    """How often a second."""
    if per_second is None:
        return "-"
    return f"{per_second:,.0f}/s" if per_second >= 100 else f"{per_second:.1f}/s"


def age(seconds: float | None) -> str:
    """How long: `3 s`, `5 min`, `7 h`, `9 d`."""
    if seconds is None:
        return "-"
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"
