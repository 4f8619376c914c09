-- Items below the watermark of their partition, under which it counts as empty: no get finds them. They were put while the sequence was
-- behind the watermark. `pgstore check --repair` gives them new ids, in their order, at the end of the partition.
SELECT h.store_id, h.partition, h.low, b.items, b.first, b.last
  FROM pgstore.queue_head h
 CROSS JOIN LATERAL (
       SELECT count(*) AS items, min(q.id) AS first, max(q.id) AS last
         FROM pgstore.queue_item q
        WHERE q.store_id = h.store_id
          AND q.partition = h.partition
          AND q.id < h.low) b
 WHERE b.items > 0;
