"""What a live view asks the server: counters, statistics and the first few rows of each queue, never whole tables."""

from __future__ import annotations

from typing import Final

from pgstore.client.waking import SLOT_CLASS
from pgstore.core.statement import Statement

# Of one queue at most so many items are counted, and the oldest is looked for in so many partitions.
COUNTED_MAX: Final = 1_000
PARTITIONS_MAX: Final = 16
SLOTS: Final = 64  # of a topic, for those who wait

SERVER = Statement(
    """
    SELECT statement_timestamp(),
           d.xact_commit,
           d.xact_rollback,
           current_database()::text,
           current_user::text,
           current_setting('server_version'),
           pg_postmaster_start_time(),
           current_setting('max_connections')::integer,
           a.connections::integer,
           a.active::integer,
           a.in_transaction::integer,
           a.on_lock::integer,
           a.hidden::integer
      FROM pg_stat_database d
     CROSS JOIN (SELECT count(*) AS connections,
                        count(*) FILTER (WHERE b.state = 'active') AS active,
                        count(*) FILTER (WHERE b.state LIKE 'idle in transaction%') AS in_transaction,
                        count(*) FILTER (WHERE b.state = 'active' AND b.wait_event_type = 'Lock') AS on_lock,
                        count(*) FILTER (WHERE b.state IS NULL) AS hidden  -- of others, for a role without pg_monitor
                   FROM pg_stat_activity b
                  WHERE b.datname = current_database()
                    AND coalesce(b.backend_type, 'client backend'::text) = 'client backend'::text
                    AND b.pid <> pg_backend_pid()) AS a
     WHERE d.datname = current_database()
    """,
    read_only=True,
)
# Rows as the statistics have them, which count what is inserted and deleted. After a crash they begin anew: then as the last
# ANALYZE or VACUUM found.
TABLES = Statement(
    """
    SELECT c.relname::text,
           CASE WHEN s.n_live_tup > 0 THEN s.n_live_tup ELSE greatest(c.reltuples::bigint, 0::bigint) END,
           pg_total_relation_size(c.oid::regclass),
           s.n_tup_ins,
           s.n_tup_upd,
           s.n_tup_del
      FROM pg_stat_user_tables s
      JOIN pg_class c ON c.oid = s.relid
     WHERE s.schemaname = 'pgstore'
       AND s.relname = ANY ('{store,dict_entry,queue_item,queue_deferred,spawned_call,inode,chunk}'::name[])
    """,
    read_only=True,
)
STORES = Statement(
    """
    SELECT s.id, s.environment, s.kind, s.name
      FROM pgstore.store s
     WHERE s.environment = coalesce($1, s.environment)
     ORDER BY s.id
    """,
    "text",
    read_only=True,
)
LEFT = Statement(
    """
    SELECT c.store_id, sum(c.gets)::bigint, sum(c.cleared)::bigint
      FROM pgstore.queue_count c
      JOIN pgstore.store s ON s.id = c.store_id
     GROUP BY c.store_id
    """,
    read_only=True,
)
HEADS = Statement(
    """
    SELECT f.store_id, f.head, v.committed_at, f.storage::text, f.chunk_size_bytes::bigint
      FROM pgstore.file_system f
      LEFT JOIN pgstore.volume_version v ON v.store_id = f.store_id
                                        AND v.version::bigint = f.head
    """,
    read_only=True,
)
# Which share of the rows a store has, as the last ANALYZE saw: of the most common stores, and how many others there are.
SHARES = Statement(
    """
    SELECT p.tablename::text, p.n_distinct::float8, p.most_common_vals::text::bigint[], p.most_common_freqs::float8[]
      FROM pg_stats p
     WHERE p.schemaname = 'pgstore'
       AND p.attname = 'store_id'
       AND p.tablename = ANY ('{dict_entry,queue_item,inode,chunk}'::name[])
    """,
    read_only=True,
)
# Who waits for what has an advisory lock on a slot of the topic; behind a pooler nobody does.
WAITERS = Statement(
    f"""
    SELECT l.objid::bigint, count(*)
      FROM pg_locks l
      JOIN pg_database d ON d.oid = l.database
     WHERE l.locktype = 'advisory'
       AND l.granted
       AND l.objsubid = 2
       AND l.classid::bigint BETWEEN {SLOT_CLASS} AND {SLOT_CLASS + SLOTS - 1}
       AND l.mode = 'ExclusiveLock'
       AND d.datname = current_database()
     GROUP BY l.objid
    """,
    read_only=True,
)
SESSIONS = Statement(
    """
    SELECT s.id,
           s.host,
           s.pid,
           s.started_at,
           s.heartbeat_at,
           coalesce(e.stores, 0::bigint)::integer,
           coalesce(v.pins, 0::bigint)::integer,
           coalesce(i.pins, 0::bigint)::integer,
           count(*) OVER ()
      FROM pgstore.session s
      LEFT JOIN (SELECT o.session_id, count(*) AS stores
                   FROM pgstore.store o
                  WHERE o.session_id IS NOT NULL
                  GROUP BY o.session_id) AS e ON e.session_id = s.id
      LEFT JOIN (SELECT p.session_id, count(*) AS pins
                   FROM pgstore.version_pin p
                   JOIN pgstore.store t ON t.id = p.store_id
                  GROUP BY p.session_id) AS v ON v.session_id = s.id
      LEFT JOIN (SELECT p.session_id, count(*) AS pins
                   FROM pgstore.inode_pin p
                   JOIN pgstore.store t ON t.id = p.store_id
                  GROUP BY p.session_id) AS i ON i.session_id = s.id
     ORDER BY s.heartbeat_at DESC, s.id
     LIMIT $1
    """,
    "int8",
    read_only=True,
)
# Of each queue, or App as the queue of its calls: what can be taken, when the oldest of it was put, what is leased, delayed and
# dead; and how long the server was at it when it came to the row. Ids below `low` are gone: the dead rows before it are not looked
# at. A partition that is about to be emptied still counts.
QUEUES = Statement(
    f"""
    WITH found AS MATERIALIZED (
         SELECT s.id, q.items, q.oldest_at, q.is_cut, d.leased, d.delayed, d.due, d.spent, x.dead,
                d.oldest_at AS due_oldest_at
           FROM pgstore.store s
          CROSS JOIN LATERAL (
                WITH RECURSIVE part (partition, number) AS (
                     SELECT ''::text COLLATE "C", 1
                      UNION ALL
                     SELECT (SELECT n.partition
                               FROM pgstore.queue_item n
                              WHERE n.store_id = s.id
                                AND n.partition > p.partition
                              ORDER BY n.partition
                              LIMIT 1),
                            p.number + 1
                       FROM part p
                      WHERE p.partition IS NOT NULL
                        AND p.number < {PARTITIONS_MAX}
                )
                SELECT coalesce(sum(c.items), 0)::bigint AS items,
                       min(o.put_at) AS oldest_at,
                       coalesce(bool_or(c.items > {COUNTED_MAX}), false)
                       OR count(*) FILTER (WHERE p.partition IS NOT NULL) = {PARTITIONS_MAX} AS is_cut
                  FROM part p
                  LEFT JOIN pgstore.queue_head h ON h.store_id = s.id
                                                AND h.partition = p.partition
                 CROSS JOIN LATERAL (SELECT count(*) AS items
                                       FROM (SELECT
                                               FROM pgstore.queue_item i
                                              WHERE i.store_id = s.id
                                                AND i.partition = p.partition
                                                AND i.id >= coalesce(h.low, 0::bigint)
                                              LIMIT {COUNTED_MAX + 1}) AS b) AS c
                  LEFT JOIN LATERAL (SELECT i.put_at
                                       FROM pgstore.queue_item i
                                      WHERE i.store_id = s.id
                                        AND i.partition = p.partition
                                        AND i.id >= coalesce(h.low, 0::bigint)
                                      ORDER BY i.id
                                      LIMIT 1) AS o ON c.items > 0
                ) AS q
          CROSS JOIN LATERAL (
                SELECT count(*) FILTER (WHERE b.state = 'l') AS leased,
                       count(*) FILTER (WHERE b.state = 'd') AS delayed,
                       count(*) FILTER (WHERE b.state = 'i') AS due,
                       count(*) FILTER (WHERE b.state = 'x') AS spent,
                       min(b.put_at) FILTER (WHERE b.state = 'i') AS oldest_at
                  FROM (SELECT e.put_at,
                               CASE WHEN e.due_at > statement_timestamp() THEN e.kind
                                    WHEN e.kind = 'l' AND e.attempts >= (s.options ->> 'max_attempts'::text)::integer THEN 'x'
                                    ELSE 'i'
                                END AS state
                          FROM pgstore.queue_deferred e
                         WHERE e.store_id = s.id
                           AND e.due_at IS NOT NULL
                         LIMIT {COUNTED_MAX}) AS b
                ) AS d
          CROSS JOIN LATERAL (
                SELECT count(*) AS dead
                  FROM (SELECT
                          FROM pgstore.queue_deferred e
                         WHERE e.store_id = s.id
                           AND e.kind = 'x'
                         LIMIT {COUNTED_MAX}) AS b
                ) AS x
          WHERE s.id = ANY ($1)
    )
    SELECT f.id,
           f.items + f.due,
           f.is_cut,
           least(f.oldest_at, f.due_oldest_at),
           f.leased,
           f.delayed,
           f.dead + f.spent,
           (extract(epoch FROM clock_timestamp()) - extract(epoch FROM statement_timestamp()))::float8
      FROM found f
    """,
    "int8[]",
    read_only=True,
)
