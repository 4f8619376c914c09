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
    for area in (TABLES, VIEWS, FUNCTIONS):
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
