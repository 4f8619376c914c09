-- What nothing leads to and collection would not find: blobs without inode, chunks without extent. And what it should have found long
-- ago, were it run: what sessions have left that died more than a day ago. `pgstore check --repair` has it collected.
SELECT b.store_id, 'blob' AS relation, b.id, 'nothing refers to it' AS finding
  FROM pgstore.blob b
 WHERE b.session_id IS NULL
   AND NOT EXISTS (SELECT FROM pgstore.inode i WHERE i.store_id = b.store_id AND i.blob_id = b.id)
   AND NOT EXISTS (SELECT FROM pgstore.blob_candidate l WHERE l.store_id = b.store_id AND l.blob_id = b.id)
   AND EXISTS (SELECT FROM pgstore.store s WHERE s.id = b.store_id)
 UNION ALL
SELECT c.store_id, 'chunk', c.id, 'nothing refers to it'
  FROM pgstore.chunk c
 WHERE NOT EXISTS (SELECT FROM pgstore.extent e WHERE e.store_id = c.store_id AND e.chunk_id = c.id)
   AND NOT EXISTS (SELECT FROM pgstore.chunk_candidate l WHERE l.store_id = c.store_id AND l.chunk_id = c.id)
   AND EXISTS (SELECT FROM pgstore.store s WHERE s.id = c.store_id)
 UNION ALL
SELECT d.store_id, d.relation, d.id, 'its session is dead'
  FROM (SELECT b.store_id, 'blob' AS relation, b.id, b.session_id
          FROM pgstore.blob b
         WHERE b.session_id IS NOT NULL
         UNION ALL
        SELECT p.store_id, 'version_pin', p.version, p.session_id
          FROM pgstore.version_pin p
         UNION ALL
        SELECT h.store_id, 'inode_pin', h.ino, h.session_id
          FROM pgstore.inode_pin h) d
  LEFT JOIN pgstore.session s ON s.id = d.session_id
 WHERE coalesce(s.heartbeat_at, '-infinity') < statement_timestamp() - interval '1 day';
