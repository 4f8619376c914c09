-- Items of Queues that no client wrote: in a partition whose name none can give, leased before they were there, or neither waiting
-- nor dead.
SELECT 'queue_item' AS relation, q.store_id, q.id,
       CASE WHEN q.attempts < 0 THEN pg_catalog.concat('attempts ', q.attempts) ELSE 'the name of its partition has more than 64 bytes' END AS finding
  FROM pgstore.queue_item q
 WHERE q.attempts < 0
    OR pg_catalog.octet_length(q.partition) > 64
 UNION ALL
SELECT 'queue_deferred', e.store_id, e.id,
       CASE WHEN e.kind NOT IN ('l', 'd', 'x') THEN pg_catalog.concat('kind ', e.kind)
            WHEN (e.due_at IS NULL) <> (e.kind = 'x') THEN 'due, and dead; or neither'
            WHEN pg_catalog.octet_length(e.partition) > 64 THEN 'the name of its partition has more than 64 bytes'
            ELSE pg_catalog.concat('attempts ', e.attempts) END
  FROM pgstore.queue_deferred e
 WHERE e.kind NOT IN ('l', 'd', 'x')
    OR (e.due_at IS NULL) <> (e.kind = 'x')
    OR pg_catalog.octet_length(e.partition) > 64
    OR e.attempts < CASE e.kind WHEN 'l' THEN 1 ELSE 0 END;
