-- Sequences of Queues that are behind ids in use: a mark that is above the next id, so that what is put there would not be found, or a
-- row that has the id already. It happens when a server takes over that was fed by logical replication, which leaves sequences out.
-- `pgstore check --repair` sets them right.
SELECT h.store_id, h.partition, 'queue_head' AS relation, h.low AS id, s.last_value
  FROM pgstore.queue_head h
 CROSS JOIN pgstore.queue_item_id_seq s
 WHERE h.low > s.last_value + 1
    OR (h.low > s.last_value AND NOT s.is_called)
 UNION ALL
SELECT q.store_id, q.partition, 'queue_item', max(q.id), s.last_value
  FROM pgstore.queue_item q
 CROSS JOIN pgstore.queue_item_id_seq s
 WHERE q.id > s.last_value
    OR (q.id = s.last_value AND NOT s.is_called)
 GROUP BY q.store_id, q.partition, s.last_value
 UNION ALL
SELECT e.store_id, e.partition, 'queue_deferred', max(e.id), s.last_value
  FROM pgstore.queue_deferred e
 CROSS JOIN pgstore.queue_deferred_id_seq s
 WHERE e.id > s.last_value
    OR (e.id = s.last_value AND NOT s.is_called)
 GROUP BY e.store_id, e.partition, s.last_value;
