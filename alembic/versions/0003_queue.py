"""Queue: leases, delays, dead letters, idempotency keys; queue_items, queue_stats and queue_put in SQL.

Runs before the new code does. No row changes. Code of 0002 would put into a Queue that is full and forget how often an item
was leased, so it may no longer be used.
"""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for area in (TABLES, VIEWS, FUNCTIONS, MARKS):
        op.execute(area)


def downgrade() -> None:
    raise NotImplementedError("0002 has no place for items that are leased, delayed or dead")


TABLES = r"""
UPDATE pgstore.installation SET oldest_code_revision = '0003';

ALTER TABLE pgstore.queue_item ADD COLUMN attempts smallint NOT NULL DEFAULT 0;

CREATE SEQUENCE pgstore.queue_deferred_id_seq AS bigint CACHE 1;

CREATE TABLE pgstore.queue_deferred (
    store_id  bigint NOT NULL,
    id        bigint NOT NULL DEFAULT nextval('pgstore.queue_deferred_id_seq'),
    put_at    timestamptz NOT NULL DEFAULT statement_timestamp(),
    due_at    timestamptz,
    attempts  smallint NOT NULL DEFAULT 0,
    kind      "char" NOT NULL CHECK (kind IN ('l', 'd', 'x')),
    codec     "char" NOT NULL DEFAULT 'p',
    partition text COLLATE "C" NOT NULL DEFAULT '',
    payload   bytea NOT NULL,
    reason    text,
    PRIMARY KEY (store_id, id),
    CHECK ((due_at IS NULL) = (kind = 'x')),
    CHECK (octet_length(payload) <= 268435456)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000, autovacuum_vacuum_cost_delay = 0,
        autovacuum_vacuum_insert_scale_factor = 0, autovacuum_vacuum_insert_threshold = 200000,
        autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 100000,
        toast_tuple_target = 8160,
        toast.autovacuum_vacuum_scale_factor = 0, toast.autovacuum_vacuum_threshold = 10000, toast.autovacuum_vacuum_cost_delay = 0);
ALTER TABLE pgstore.queue_deferred ALTER COLUMN payload SET STORAGE EXTERNAL;
CREATE INDEX queue_deferred_due ON pgstore.queue_deferred (store_id, partition, due_at) WHERE due_at IS NOT NULL;

CREATE TABLE pgstore.queue_key (
    store_id bigint NOT NULL,
    key      text COLLATE "C" NOT NULL CHECK (octet_length(key) <= 1024),
    put_at   timestamptz NOT NULL DEFAULT statement_timestamp(),
    PRIMARY KEY (store_id, key)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000, autovacuum_vacuum_cost_delay = 0);
CREATE INDEX queue_key_age ON pgstore.queue_key (store_id, put_at);

CREATE TABLE pgstore.queue_head (
    store_id  bigint NOT NULL,
    partition text COLLATE "C" NOT NULL,
    low       bigint NOT NULL,
    PRIMARY KEY (store_id, partition)
) WITH (fillfactor = 20, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 200)
"""

VIEWS = r"""
CREATE VIEW pgstore.queue_items AS
SELECT s.environment,
       s.name,
       s.id AS store_id,
       q.partition,
       q.id,
       q.put_at,
       q.attempts,
       CASE q.codec
           WHEN 'j' THEN convert_from(q.payload, 'UTF8')::jsonb
           WHEN 'p' THEN pgstore.decode_pickle(q.payload)
       END AS item,
       octet_length(q.payload) AS size_bytes
  FROM pgstore.store s
  JOIN pgstore.queue_item q ON q.store_id = s.id
 WHERE s.kind = 'queue';

CREATE VIEW pgstore.queue_stats AS
SELECT s.environment,
       s.name,
       s.id AS store_id,
       i.depth,
       i.oldest_at,
       statement_timestamp() - i.oldest_at AS oldest_age,
       d.leased,
       d.delayed,
       d.dead
  FROM pgstore.store s
 CROSS JOIN LATERAL (SELECT count(*) AS depth, min(q.put_at) AS oldest_at
                       FROM pgstore.queue_item q
                      WHERE q.store_id = s.id) AS i
 CROSS JOIN LATERAL (SELECT count(*) FILTER (WHERE e.kind = 'l') AS leased,
                            count(*) FILTER (WHERE e.kind = 'd') AS delayed,
                            count(*) FILTER (WHERE e.kind = 'x') AS dead
                       FROM pgstore.queue_deferred e
                      WHERE e.store_id = s.id) AS d
 WHERE s.kind = 'queue'
"""

FUNCTIONS = r"""
CREATE FUNCTION pgstore.queue_put(p_store_id bigint, p_item jsonb, p_partition text DEFAULT '') RETURNS void
LANGUAGE plpgsql VOLATILE AS $function$
DECLARE
    crc      CONSTANT bigint := pgstore.crc32(convert_to(p_store_id::text || '/' || p_partition, 'UTF8'));
    settings jsonb;
    maxsize  bigint;
BEGIN
    IF p_item IS NULL OR p_partition IS NULL THEN
        RAISE EXCEPTION 'item and partition of queue_put must not be NULL'
              USING ERRCODE = 'null_value_not_allowed',
                    HINT = $hint$The JSON value null is 'null'::jsonb, the default partition ''.$hint$;
    END IF;
    IF octet_length(p_partition) > 64 THEN
        RAISE EXCEPTION 'partition % has more than 64 bytes', quote_literal(p_partition) USING ERRCODE = 'name_too_long';
    END IF;
    SELECT s.options
      INTO settings
      FROM pgstore.store s
     WHERE s.id = p_store_id
       AND s.kind = 'queue';
    IF NOT FOUND THEN
        RAISE EXCEPTION 'no Queue with id %', coalesce(p_store_id::text, 'NULL') USING ERRCODE = 'no_data_found';
    END IF;
    maxsize := (settings ->> 'maxsize')::bigint;
    IF maxsize IS NOT NULL THEN
        -- As in pgstore/queue/put.py: who puts into a bounded queue holds this lock, and counts after it is taken. 0x70677372.
        PERFORM pg_advisory_xact_lock(1885827954, (CASE WHEN crc < 2147483648 THEN crc ELSE crc - 4294967296 END)::integer);
        IF (SELECT count(*)
              FROM (SELECT
                      FROM pgstore.queue_item q
                     WHERE q.store_id = p_store_id
                       AND q.partition = p_partition COLLATE "C"
                     LIMIT maxsize) AS waiting) >= maxsize THEN
            RAISE EXCEPTION 'the Queue with id % is full: % items', p_store_id, maxsize
                  USING ERRCODE = 'configuration_limit_exceeded';
        END IF;
    END IF;
    -- Before the id is drawn: see queue_advance.
    PERFORM pg_advisory_xact_lock_shared(1885827945, (p_store_id % 2147483648)::integer);
    INSERT INTO pgstore.queue_item (store_id, partition, codec, payload)
    SELECT s.id, p_partition, 'j', convert_to(p_item::text, 'UTF8')
      FROM pgstore.store s
     WHERE s.id = p_store_id;
    PERFORM pgstore.notify_if_awaited(p_store_id, p_partition);
END
$function$;

CREATE FUNCTION pgstore.queue_put(p_name text, p_item jsonb, p_partition text DEFAULT '', p_environment text DEFAULT 'main')
RETURNS void LANGUAGE plpgsql VOLATILE AS $function$
DECLARE
    found_id CONSTANT bigint := (SELECT s.id
                                   FROM pgstore.store s
                                  WHERE s.environment = p_environment COLLATE "C"
                                    AND (CASE s.kind WHEN 'nfs' THEN 'volume' ELSE s.kind END) = 'queue'
                                    AND s.name = p_name COLLATE "C");
BEGIN
    IF found_id IS NULL THEN
        RAISE EXCEPTION 'no Queue % in environment %', quote_nullable(p_name), quote_nullable(p_environment)
              USING ERRCODE = 'no_data_found', HINT = 'Queues are made by pgstore.Queue.from_name(name, create_if_missing=True).';
    END IF;
    PERFORM pgstore.queue_put(found_id, p_item, p_partition);
END
$function$
"""

MARKS = r"""
CREATE FUNCTION pgstore.queue_advance(p_store_id bigint, p_partition text, p_last_id bigint, p_inserters text[], p_server text,
                                      OUT low bigint, OUT last_id bigint, OUT inserters text[], OUT server text)
LANGUAGE plpgsql VOLATILE AS $function$
#variable_conflict use_column
DECLARE
    still_there text[];
    oldest      bigint;
    known_low   bigint;
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' OR pg_current_xact_id_if_assigned() IS NOT NULL THEN
        RETURN;
    END IF;
    server := concat_ws('/', extract(epoch FROM pg_postmaster_start_time()),
                        extract(epoch FROM pg_stat_get_bgwriter_stat_reset_time()));  -- a crash resets statistics
    IF server = p_server THEN
        last_id := p_last_id;
        inserters := p_inserters;
    END IF;
    IF last_id IS NULL THEN
        SELECT s.last_value - CASE WHEN s.is_called THEN 0 ELSE 1 END
          INTO last_id
          FROM pgstore.queue_item_id_seq s;
    END IF;
    SELECT coalesce(array_agg(DISTINCT l.virtualtransaction), '{}')
      INTO still_there
      FROM pg_locks l
     WHERE l.locktype = 'advisory'
       AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
       AND l.classid = 1885827945
       AND l.objid = (p_store_id % 2147483648)::oid
       AND l.objsubid = 2;
    IF inserters IS NULL THEN
        inserters := still_there;
    END IF;
    -- A transaction that is prepared changes its number to -1/….
    IF inserters && still_there OR (inserters <> '{}' AND EXISTS (SELECT FROM unnest(still_there) t WHERE t LIKE '-1/%')) THEN
        RETURN;
    END IF;
    known_low := coalesce((SELECT h.low
                             FROM pgstore.queue_head h
                            WHERE h.store_id = p_store_id
                              AND h.partition = p_partition), 0);
    -- An item that someone is taking is still visible, and holds the mark back: it may be given back.
    SELECT q.id
      INTO oldest
      FROM pgstore.queue_item q
     WHERE q.store_id = p_store_id
       AND q.partition = p_partition
       AND q.id >= known_low
     ORDER BY q.id
     LIMIT 1;
    low := least(coalesce(oldest, last_id + 1), last_id + 1);
    IF low > known_low THEN
        INSERT INTO pgstore.queue_head AS h (store_id, partition, low)
        SELECT s.id, p_partition, queue_advance.low
          FROM pgstore.store s
         WHERE s.id = p_store_id
        ON CONFLICT (store_id, partition) DO UPDATE
           SET low = excluded.low
         WHERE h.low < excluded.low;
    END IF;
END
$function$;

CREATE FUNCTION pgstore.queue_take(p_store_id bigint, p_partition text, p_items bigint, p_low bigint)
RETURNS TABLE (id bigint, put_at timestamptz, codec "char", payload bytea, attempts smallint)
LANGUAGE plpgsql VOLATILE SET enable_seqscan = off SET enable_bitmapscan = off SET plan_cache_mode = force_generic_plan AS $function$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    DELETE FROM pgstore.queue_item q
     WHERE q.ctid = ANY (ARRAY(SELECT i.ctid
                                 FROM pgstore.queue_item i
                                WHERE i.store_id = p_store_id
                                  AND i.partition = p_partition
                                  AND i.id >= p_low
                                ORDER BY i.id
                                  FOR UPDATE SKIP LOCKED
                                LIMIT p_items))
    RETURNING q.id, q.put_at, q.codec, q.payload, q.attempts;
END
$function$
"""
