"""Queue: what has left each, one look at what is due for all partitions, bounds of whole Queues, marks that statements find by themselves.

Runs before the new code does. Code of 0004 bounds each partition and takes another lock for it, so it may no longer be used.
"""

from __future__ import annotations

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for area in (TABLES, VIEWS, PUTTING, TAKING):
        op.execute(area)


def downgrade() -> None:
    raise NotImplementedError("0004 takes other locks for the same bounds")


TABLES = r"""
UPDATE pgstore.installation SET oldest_code_revision = '0005';

CREATE INDEX queue_deferred_next ON pgstore.queue_deferred (store_id, due_at) WHERE due_at IS NOT NULL;

CREATE TABLE pgstore.queue_count (
    store_id bigint NOT NULL,
    slot     smallint NOT NULL,
    gets     bigint NOT NULL,
    cleared  bigint NOT NULL,
    PRIMARY KEY (store_id, slot)
) WITH (fillfactor = 20, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 200);
"""

VIEWS = r"""
CREATE OR REPLACE VIEW pgstore.queue_stats AS
SELECT s.environment,
       s.name,
       s.id AS store_id,
       i.depth,
       i.oldest_at,
       statement_timestamp() - i.oldest_at AS oldest_age,
       d.leased,
       d.delayed,
       d.dead,
       i.depth + d.leased + d.delayed + d.dead + c.gets + c.cleared AS puts,
       c.gets,
       c.cleared
  FROM pgstore.store s
 CROSS JOIN LATERAL (SELECT count(*) AS depth, min(q.put_at) AS oldest_at
                       FROM pgstore.queue_item q
                      WHERE q.store_id = s.id) AS i
 CROSS JOIN LATERAL (SELECT count(*) FILTER (WHERE e.kind = 'l') AS leased,
                            count(*) FILTER (WHERE e.kind = 'd') AS delayed,
                            count(*) FILTER (WHERE e.kind = 'x') AS dead
                       FROM pgstore.queue_deferred e
                      WHERE e.store_id = s.id) AS d
 CROSS JOIN LATERAL (SELECT coalesce(sum(n.gets), 0)::bigint AS gets, coalesce(sum(n.cleared), 0)::bigint AS cleared
                       FROM pgstore.queue_count n
                      WHERE n.store_id = s.id) AS c
 WHERE s.kind = 'queue';
"""

PUTTING = r"""
CREATE OR REPLACE FUNCTION pgstore.queue_put(p_store_id bigint, p_item jsonb, p_partition text DEFAULT '') RETURNS void
LANGUAGE plpgsql VOLATILE AS $function$
DECLARE
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
        PERFORM pg_advisory_xact_lock(1885827954, (p_store_id % 2147483648)::integer);
        IF (SELECT count(*)
              FROM (SELECT
                      FROM pgstore.queue_item q
                     WHERE q.store_id = p_store_id
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
"""

TAKING = r"""
CREATE OR REPLACE FUNCTION pgstore.queue_take(p_store_id bigint, p_partition text, p_items bigint, p_low bigint)
RETURNS TABLE (id bigint, put_at timestamptz, codec "char", payload bytea, attempts smallint)
LANGUAGE plpgsql VOLATILE SET enable_seqscan = off SET enable_bitmapscan = off SET plan_cache_mode = force_generic_plan AS $function$
#variable_conflict use_column
BEGIN
    IF p_low = 0 THEN
        p_low := coalesce((SELECT h.low
                             FROM pgstore.queue_head h
                            WHERE h.store_id = p_store_id
                              AND h.partition = p_partition), 0);
    END IF;
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
$function$;
"""
