"""What a sample of a database holds, as data: a screen shows it, and `--json` prints it as it is."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from pgstore.admin.mounts import MountedStore


@dataclass(frozen=True)
class ServerState:
    """The server and the connections to this database, ours left out."""

    transactions_per_second: float | None
    """Committed or rolled back, by all programs that use the database; None, as of all rates: not known yet."""
    database: str
    login: str
    version: str
    started_at: datetime
    connections_max: int
    """Of the whole server."""
    connections: int
    active: int
    in_transaction: int
    """Idle, with a transaction open."""
    on_lock: int
    hidden: int
    """Of whose state this login may not know; pg_monitor may."""


@dataclass(frozen=True)
class Totals:
    """Of all stores of the database, in all environments. Rows are estimates; bytes are those of the tables with their indexes."""

    dict_entries: int
    dict_bytes: int
    dict_changes_per_second: float | None
    queue_items: int
    """Those of Apps, which are calls, included; so are they in the rates."""
    queue_bytes: int
    puts_per_second: float | None
    gets_per_second: float | None
    file_bytes: int
    file_changes_per_second: float | None
    calls_spawned_per_second: float | None


@dataclass(frozen=True)
class QueueState:
    """A Queue; None, here and below: not known."""

    environment: str
    name: str | None
    """None, as below: ephemeral."""
    store_id: int
    depth: int | None = None
    """Items that can be taken."""
    depth_is_estimate: bool = False
    oldest_seconds: float | None = None
    """How long the first of them has been there; None: there is none."""
    leased: int | None = None
    delayed: int | None = None
    dead: int | None = None
    waiters: int = 0
    """Who waits in a get of the default partition, on a direct connection."""
    puts_per_second: float | None = None
    gets_per_second: float | None = None


@dataclass(frozen=True)
class CallState:
    """The spawned calls of an App."""

    environment: str
    app: str | None
    store_id: int
    pending: int | None = None
    pending_is_estimate: bool = False
    oldest_seconds: float | None = None
    """How long the first that could run has been waiting."""
    running: int | None = None
    ended_per_second: float | None = None


@dataclass(frozen=True)
class DictState:
    """A Dict; both numbers are estimates."""

    environment: str
    name: str | None
    store_id: int
    entries: int | None
    size_bytes: int | None


@dataclass(frozen=True)
class FileState:
    """A Volume or NetworkFileSystem; files and bytes are estimates, with directories and old versions."""

    environment: str
    kind: str
    """`volume` or `nfs`."""
    name: str | None
    store_id: int
    files: int | None
    size_bytes: int | None
    version: int | None
    """The newest, of a Volume."""
    committed_at: datetime | None


@dataclass(frozen=True)
class SessionState:
    """A process that owns something in the database: ephemeral stores, leases, a version or a file that it reads, a mount."""

    id: int
    host: str
    pid: int
    started_at: datetime
    heartbeat_seconds: float
    """Since its last sign of life; after 600 it is dead."""
    stores: int
    """Ephemeral ones."""
    versions: int
    """Of Volumes, that it keeps readable."""
    files: int
    """Of NetworkFileSystems, that it has open."""


@dataclass(frozen=True)
class SlowStatement:
    """A statement of this database, as pg_stat_statements has it."""

    query: str
    calls_per_second: float | None
    milliseconds_per_call: float
    share: float | None
    """Of a core, or of what else it waits for."""


@dataclass(frozen=True)
class Sample:
    """What there was at one moment."""

    taken_at: datetime
    """By the server's clock."""
    seconds: float | None
    """Since the sample before it, which rates are about; None: it is the first."""
    server: ServerState
    totals: Totals
    queues: list[QueueState]
    calls: list[CallState]
    dicts: list[DictState]
    files: list[FileState]
    sessions: list[SessionState]
    """The 50 that gave a sign of life last."""
    sessions_total: int
    mounts: list[MountedStore]
    """Of this user, on this machine."""
    statements: list[SlowStatement]
    """The five on which most time went since the sample before."""
    statements_missing: str | None
    """Why there are none, or not all."""
    not_looked_into: int
    """Queues and Apps whose turn has not come yet."""
