-- Queues whose mark is above the next id: what is put there would not be found. It happens when a server takes over that was fed by
-- logical replication, which leaves sequences out. Set them: SELECT setval('pgstore.queue_item_id_seq', max(low)) FROM pgstore.queue_head.
SELECT h.store_id, h.partition, h.low, s.last_value
  FROM pgstore.queue_head h
 CROSS JOIN pgstore.queue_item_id_seq s
 WHERE h.low > s.last_value + 1;
