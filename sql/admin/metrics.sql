-- Numbers to watch, for a role that is a member of pgstore_reader. Each query is cheap whatever the stores hold: it reads the catalogue,
-- its statistics, and at most so many index entries of a store as its comment says. Run them all by
--
--     psql -f metrics.sql mydatabase
--
-- or have an exporter of Prometheus run them. `python -m tests.monitoring.generate` makes three files beside this one of it: for
-- sql_exporter, for postgres_exporter, and grafana.json, a dashboard that asks the database and Prometheus. Columns without a comment
-- are labels; a comment says gauge or counter, and what it counts. A metric is called after its query and column: pgstore_queue_depth.
--
-- Ephemeral stores are left out: they would be labels without end. What the statistics say is as of the last ANALYZE; autovacuum does
-- it. Other roles' transactions are seen by members of pg_monitor alone.

-- name: pgstore_info
SELECT r.version_num AS revision,
       current_database() AS database,
       1 AS present                                   -- gauge: always 1; the labels tell the revision of the schema
  FROM pgstore.schema_revision r;

-- At most 100,000 entries of an index a Queue, and the first item of 1,000 partitions.
-- name: pgstore_queue
SELECT s.environment,
       s.name,
       i.depth + d.due AS depth,                      -- gauge: items that can be taken; counted up to 100,000
       coalesce(extract(epoch FROM statement_timestamp() - o.oldest_at), 0)::double precision AS oldest_age_seconds,  -- gauge: how long the longest waiting of the next items has waited; 0: there is none
       d.leased,                                      -- gauge: items that somebody is at work on
       d.delayed,                                     -- gauge: items whose time has not come
       d.dead,                                        -- gauge: dead letters
       c.gets AS gets_total,                          -- counter: items taken for good; told every ten seconds
       c.cleared AS cleared_total,                    -- counter: items removed by clear and discard
       i.depth + d.due + d.leased + d.delayed + d.dead + c.gets + c.cleared AS puts  -- gauge: items ever put; what was taken within the last ten seconds is missing for a while, so this may go back
  FROM pgstore.store s
 CROSS JOIN LATERAL (
       SELECT count(*) AS depth
         FROM (SELECT FROM pgstore.queue_item q WHERE q.store_id = s.id LIMIT 100000) AS counted) AS i
 CROSS JOIN LATERAL (
       SELECT count(*) FILTER (WHERE f.due_at <= statement_timestamp()) AS due,
              count(*) FILTER (WHERE f.kind = 'l' AND f.due_at > statement_timestamp()) AS leased,
              count(*) FILTER (WHERE f.kind = 'd' AND f.due_at > statement_timestamp()) AS delayed,
              count(*) FILTER (WHERE f.kind = 'x') AS dead
         FROM (SELECT e.kind, e.due_at FROM pgstore.queue_deferred e WHERE e.store_id = s.id LIMIT 100000) AS f) AS d
 CROSS JOIN LATERAL (
       SELECT coalesce(sum(n.gets), 0)::bigint AS gets, coalesce(sum(n.cleared), 0)::bigint AS cleared
         FROM pgstore.queue_count n
        WHERE n.store_id = s.id) AS c
 CROSS JOIN LATERAL (
       -- From one partition to the next, without a look at the items between.
       WITH RECURSIVE first AS (
            (SELECT q.partition, q.put_at
               FROM pgstore.queue_item q
              WHERE q.store_id = s.id
              ORDER BY q.partition, q.id
              LIMIT 1)
              UNION ALL
            SELECT n.partition, n.put_at
              FROM first f
             CROSS JOIN LATERAL (
                   SELECT q.partition, q.put_at
                     FROM pgstore.queue_item q
                    WHERE q.store_id = s.id
                      AND q.partition > f.partition
                    ORDER BY q.partition, q.id
                    LIMIT 1) AS n
       )
       SELECT min(p.put_at) AS oldest_at
         FROM (SELECT f.put_at FROM first f LIMIT 1000) AS p) AS o
 WHERE s.kind = 'queue'
   AND s.name IS NOT NULL;

-- By the statistics that the planner has of each table: how its rows and bytes are shared among the stores.
-- name: pgstore_store
WITH kinds (kind, rows_in, bytes_in) AS (
     VALUES ('dict', 'dict_entry', 'dict_entry'), ('queue', 'queue_item', 'queue_item'), ('volume', 'inode', 'chunk'),
            ('nfs', 'inode', 'chunk'), ('app', 'spawned_call', 'spawned_call')
),
parts AS (
     SELECT c.relname AS part,
            greatest(c.reltuples, 0)::double precision AS tuples,
            pg_table_size(c.oid)::double precision AS bytes,
            t.most_common_vals::text::bigint[] AS stores,
            t.most_common_freqs AS shares,
            CASE WHEN t.n_distinct < 0 THEN -t.n_distinct * greatest(c.reltuples, 0) ELSE t.n_distinct END AS stores_in_all
       FROM pg_class c
       LEFT JOIN pg_stats t ON t.schemaname = 'pgstore' AND t.tablename = c.relname AND t.attname = 'store_id'
      WHERE c.relnamespace = (SELECT n.oid FROM pg_namespace n WHERE n.nspname = 'pgstore')
        AND c.relname IN ('dict_entry', 'queue_item', 'inode', 'chunk', 'spawned_call')
),
shares AS (
     SELECT s.id, p.part, p.tuples, p.bytes,
            coalesce((SELECT u.share FROM unnest(p.stores, p.shares) AS u (store_id, share) WHERE u.store_id = s.id),
                     greatest(1 - (SELECT sum(u.share) FROM unnest(p.shares) AS u (share)), 0)
                     / nullif(greatest(p.stores_in_all - cardinality(p.stores), 0), 0),
                     0) AS share
       FROM pgstore.store s
       JOIN kinds k ON k.kind = s.kind
       JOIN parts p ON p.part IN (k.rows_in, k.bytes_in)
)
SELECT s.environment,
       s.kind,
       s.name,
       round(r.tuples * r.share)::bigint AS rows_about,  -- gauge: entries of a Dict, items, files and directories in all versions, or calls; an estimate
       round(b.bytes * b.share)::bigint AS bytes_about   -- gauge: bytes on disk of its values, items, contents or calls; an estimate
  FROM pgstore.store s
  JOIN kinds k ON k.kind = s.kind
  JOIN shares r ON r.id = s.id AND r.part = k.rows_in
  JOIN shares b ON b.id = s.id AND b.part = k.bytes_in
 WHERE s.name IS NOT NULL;

-- At most 100,000 entries of an index an App.
-- name: pgstore_app
SELECT s.environment,
       s.name,
       p.pending,                                     -- gauge: spawned calls that no worker has begun
       p.running,                                     -- gauge: calls that a worker is at work on
       e.done,                                        -- gauge: calls that were done within the last hour
       e.failed                                       -- gauge: calls that failed within the last hour
  FROM pgstore.store s
 CROSS JOIN LATERAL (
       SELECT (SELECT count(*) FROM (SELECT FROM pgstore.queue_item q WHERE q.store_id = s.id LIMIT 100000) AS counted)
              + count(*) FILTER (WHERE f.due_at <= statement_timestamp() OR f.kind = 'd') AS pending,
              count(*) FILTER (WHERE f.kind = 'l' AND f.due_at > statement_timestamp()) AS running
         FROM (SELECT q.kind, q.due_at FROM pgstore.queue_deferred q WHERE q.store_id = s.id LIMIT 100000) AS f) AS p
 CROSS JOIN LATERAL (
       SELECT count(*) FILTER (WHERE c.state = 'd') AS done, count(*) FILTER (WHERE c.state = 'f') AS failed
         FROM (SELECT k.state
                 FROM pgstore.spawned_call k
                WHERE k.store_id = s.id
                  AND k.ended_at > statement_timestamp() - interval '1 hour'
                LIMIT 100000) AS c) AS e
 WHERE s.kind = 'app'
   AND s.name IS NOT NULL;

-- name: pgstore_session
SELECT count(*) FILTER (WHERE s.heartbeat_at > statement_timestamp() - interval '10 minutes') AS alive,  -- gauge: client processes that own something
       count(*) FILTER (WHERE s.heartbeat_at <= statement_timestamp() - interval '10 minutes') AS dead,  -- gauge: those that ended without saying so, and that nobody has swept yet
       (SELECT count(*) FROM pgstore.store t WHERE t.name IS NULL) AS ephemeral_stores  -- gauge: ephemeral stores
  FROM pgstore.session s;

-- name: pgstore_connection
SELECT count(*) AS open,                              -- gauge: connections to this database that call themselves pgstore
       count(*) FILTER (WHERE a.state LIKE 'idle in transaction%') AS idle_in_transaction,  -- gauge: of these, in a transaction that does nothing
       (SELECT count(*)
          FROM pg_locks l
         WHERE l.locktype = 'advisory'
           AND l.classid = 1885827956
           AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())) AS waiters,  -- gauge: topics that clients wait for, such as items of a Queue
       coalesce((SELECT max(extract(epoch FROM statement_timestamp() - o.xact_start))
                   FROM pg_stat_activity o
                  WHERE o.datname = current_database()
                    AND o.backend_xmin IS NOT NULL), 0)::double precision AS oldest_snapshot_seconds  -- gauge: age of the oldest transaction, of whoever, that keeps dead rows from being removed
  FROM pg_stat_activity a
 WHERE a.datname = current_database()
   AND a.application_name LIKE 'pgstore%';

-- At most 100,000 notes each, and 10,000 entries of an index a Dict.
-- name: pgstore_leftover
SELECT l.what,
       l.rows                                         -- gauge: what is to be collected, in passing or by `pgstore gc`
  FROM (SELECT 'blobs' AS what, count(*) AS rows FROM (SELECT FROM pgstore.blob_candidate LIMIT 100000) AS b
         UNION ALL
        SELECT 'chunks', count(*) FROM (SELECT FROM pgstore.chunk_candidate LIMIT 100000) AS c
         UNION ALL
        SELECT 'large objects', count(*) FROM (SELECT FROM pgstore.large_object_left LIMIT 100000) AS o
         UNION ALL
        SELECT 'expired entries', coalesce(sum(e.entries), 0)::bigint
          FROM pgstore.store s
         CROSS JOIN LATERAL (
               SELECT count(*) AS entries
                 FROM (SELECT
                         FROM pgstore.dict_entry d
                        WHERE d.store_id = s.id
                          AND d.expires_at <= statement_timestamp()
                        LIMIT 10000) AS x) AS e
         WHERE s.kind = 'dict') AS l;

-- name: pgstore_table
SELECT c.relname AS relation,
       pg_total_relation_size(c.oid) AS bytes,        -- gauge: size on disk, with indexes
       greatest(c.reltuples, 0)::bigint AS rows_about,  -- gauge: rows, an estimate
       coalesce(t.n_dead_tup, 0) AS dead_rows,        -- gauge: rows that vacuum has to remove, an estimate
       coalesce(extract(epoch FROM statement_timestamp() - greatest(t.last_vacuum, t.last_autovacuum)), 0)::double precision
           AS since_vacuum_seconds                    -- gauge: time since the last vacuum; 0: there was none
  FROM pg_class c
  LEFT JOIN pg_stat_all_tables t ON t.relid = c.oid
 WHERE c.relnamespace = (SELECT n.oid FROM pg_namespace n WHERE n.nspname = 'pgstore')
   AND c.relkind = 'r';
