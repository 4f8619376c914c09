-- Extents without blob or chunk, beyond the end of every file that has them, whose chunk is too large, which say like another that no
-- other has their chunk, or in which a file of a NetworkFileSystem would be written although others have the chunk as well.
WITH size AS (
     SELECT i.store_id, i.blob_id, max(i.size_bytes::bigint) AS size_bytes
       FROM pgstore.inode i
      WHERE i.blob_id IS NOT NULL
      GROUP BY i.store_id, i.blob_id
), owned AS (
     SELECT o.store_id, o.chunk_id, count(*) AS owners
       FROM pgstore.extent o
      WHERE o.is_owned
      GROUP BY o.store_id, o.chunk_id
     HAVING count(*) > 1
)
SELECT e.store_id, e.blob_id, e.position, e.chunk_id,
       CASE WHEN b.id IS NULL THEN 'its blob is missing'
            WHEN c.id IS NULL THEN 'its chunk is missing'
            WHEN e.position::bigint * b.chunk_size_bytes::integer >= s.size_bytes THEN 'beyond the end of the file'
            WHEN pg_catalog.octet_length(c.data) > b.chunk_size_bytes::integer THEN 'its chunk is too large'
            WHEN n.id IS NOT NULL AND e.position::bigint * b.chunk_size_bytes::integer + octet_length(c.data) > s.size_bytes
            THEN 'its chunk goes on behind the end of the file, where growing would uncover it'
            WHEN w.owners > 1 THEN 'another owns its chunk as well'
            ELSE 'not the only one that has its chunk'
       END AS finding
  FROM pgstore.extent e
  LEFT JOIN pgstore.blob b ON b.store_id = e.store_id AND b.id = e.blob_id
  LEFT JOIN pgstore.chunk c ON c.store_id = e.store_id AND c.id = e.chunk_id
  LEFT JOIN pgstore.store n ON n.id = e.store_id AND n.kind = 'nfs'
  LEFT JOIN owned w ON e.is_owned AND w.store_id = e.store_id AND w.chunk_id = e.chunk_id
  LEFT JOIN size s ON s.store_id = e.store_id AND s.blob_id = e.blob_id
 WHERE b.id IS NULL
    OR c.id IS NULL
    OR e.position::bigint * b.chunk_size_bytes::integer >= s.size_bytes
    OR pg_catalog.octet_length(c.data) > b.chunk_size_bytes::integer
    OR w.owners > 1
    OR n.id IS NOT NULL
       AND e.position::bigint * b.chunk_size_bytes::integer + octet_length(c.data) > s.size_bytes
    OR n.id IS NOT NULL
       AND e.is_owned
       AND NOT b.is_shared
       AND EXISTS (SELECT
                     FROM pgstore.extent o
                    WHERE o.store_id = e.store_id AND o.chunk_id = e.chunk_id
                      AND (o.blob_id, o.position::integer) <> (e.blob_id, e.position::integer));
