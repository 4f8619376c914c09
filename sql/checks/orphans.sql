-- Rows of stores that do not exist: left by an insert that raced with the deletion of its store, or all that is left of one whose row
-- was lost. `pgstore check --repair` deletes what cannot be the only copy of anything, and of the rest says how the store is made again.
SELECT 'dict_entry' AS relation, e.store_id, count(*) AS rows
  FROM pgstore.dict_entry e
 WHERE NOT EXISTS (SELECT FROM pgstore.store s WHERE s.id = e.store_id)
 GROUP BY e.store_id
 UNION ALL
SELECT 'dict_change', c.store_id, count(*)
  FROM pgstore.dict_change c
 WHERE NOT EXISTS (SELECT FROM pgstore.store s WHERE s.id = c.store_id)
 GROUP BY c.store_id
 UNION ALL
SELECT 'dict_lock', l.store_id, count(*)
  FROM pgstore.dict_lock l
 WHERE NOT EXISTS (SELECT FROM pgstore.store s WHERE s.id = l.store_id)
 GROUP BY l.store_id
 UNION ALL
SELECT 'queue_item', q.store_id, count(*)
  FROM pgstore.queue_item q
 WHERE NOT EXISTS (SELECT FROM pgstore.store s WHERE s.id = q.store_id)
 GROUP BY q.store_id
 UNION ALL
SELECT 'queue_deferred', d.store_id, count(*)
  FROM pgstore.queue_deferred d
 WHERE NOT EXISTS (SELECT FROM pgstore.store s WHERE s.id = d.store_id)
 GROUP BY d.store_id
 UNION ALL
SELECT 'queue_key', k.store_id, count(*)
  FROM pgstore.queue_key k
 WHERE NOT EXISTS (SELECT FROM pgstore.store s WHERE s.id = k.store_id)
 GROUP BY k.store_id
 UNION ALL
SELECT 'queue_lapse', l.store_id, count(*)
  FROM pgstore.queue_lapse l
 WHERE NOT EXISTS (SELECT FROM pgstore.store s WHERE s.id = l.store_id)
 GROUP BY l.store_id
 UNION ALL
SELECT 'queue_head', h.store_id, count(*)
  FROM pgstore.queue_head h
 WHERE NOT EXISTS (SELECT FROM pgstore.store s WHERE s.id = h.store_id)
 GROUP BY h.store_id
 UNION ALL
SELECT 'queue_turn', t.store_id, count(*)
  FROM pgstore.queue_turn t
 WHERE NOT EXISTS (SELECT FROM pgstore.store s WHERE s.id = t.store_id)
 GROUP BY t.store_id
 UNION ALL
SELECT 'queue_count', n.store_id, count(*)
  FROM pgstore.queue_count n
 WHERE NOT EXISTS (SELECT FROM pgstore.store s WHERE s.id = n.store_id)
 GROUP BY n.store_id
 UNION ALL
SELECT 'spawned_call', c.store_id, count(*)
  FROM pgstore.spawned_call c
 WHERE NOT EXISTS (SELECT FROM pgstore.store s WHERE s.id = c.store_id)
 GROUP BY c.store_id
 UNION ALL
SELECT 'inode', i.store_id, count(*)
  FROM pgstore.inode i
 WHERE NOT EXISTS (SELECT FROM pgstore.store s WHERE s.id = i.store_id)
 GROUP BY i.store_id
 UNION ALL
SELECT 'blob', b.store_id, count(*)
  FROM pgstore.blob b
 WHERE NOT EXISTS (SELECT FROM pgstore.store s WHERE s.id = b.store_id)
 GROUP BY b.store_id
 UNION ALL
SELECT 'dirent', d.store_id, count(*)
  FROM pgstore.dirent d
 WHERE NOT EXISTS (SELECT FROM pgstore.store s WHERE s.id = d.store_id)
 GROUP BY d.store_id
 UNION ALL
SELECT 'chunk', c.store_id, count(*)
  FROM pgstore.chunk c
 WHERE NOT EXISTS (SELECT FROM pgstore.store s WHERE s.id = c.store_id)
 GROUP BY c.store_id
 UNION ALL
SELECT 'blob_candidate', b.store_id, count(*)
  FROM pgstore.blob_candidate b
 WHERE NOT EXISTS (SELECT FROM pgstore.store s WHERE s.id = b.store_id)
 GROUP BY b.store_id
 UNION ALL
SELECT 'chunk_candidate', c.store_id, count(*)
  FROM pgstore.chunk_candidate c
 WHERE NOT EXISTS (SELECT FROM pgstore.store s WHERE s.id = c.store_id)
 GROUP BY c.store_id
 UNION ALL
SELECT 'version_pin', v.store_id, count(*)
  FROM pgstore.version_pin v
 WHERE NOT EXISTS (SELECT FROM pgstore.store s WHERE s.id = v.store_id)
 GROUP BY v.store_id
 UNION ALL
SELECT 'file_lock', f.store_id, count(*)
  FROM pgstore.file_lock f
 WHERE NOT EXISTS (SELECT FROM pgstore.store s WHERE s.id = f.store_id)
 GROUP BY f.store_id
 UNION ALL
SELECT 'inode_pin', i.store_id, count(*)
  FROM pgstore.inode_pin i
 WHERE NOT EXISTS (SELECT FROM pgstore.store s WHERE s.id = i.store_id)
 GROUP BY i.store_id
 UNION ALL
SELECT 'volume_version', v.store_id, count(*)
  FROM pgstore.volume_version v
 WHERE NOT EXISTS (SELECT FROM pgstore.store s WHERE s.id = v.store_id)
 GROUP BY v.store_id;
