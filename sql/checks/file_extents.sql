-- Extents without blob or chunk, beyond the end of every file that has them, whose chunk is too large, or in which a file of a
-- NetworkFileSystem would be written although others have the chunk as well.
WITH size AS (
     SELECT i.store_id, i.blob_id, max(i.size_bytes::bigint) AS size_bytes
       FROM pgstore.inode i
      WHERE i.blob_id IS NOT NULL
      GROUP BY i.store_id, i.blob_id
)
SELECT e.store_id, e.blob_id, e.position, e.chunk_id,
       CASE WHEN b.id IS NULL THEN 'its blob is missing'
            WHEN c.id IS NULL THEN 'its chunk is missing'
            WHEN e.position::bigint * b.chunk_size_bytes::integer >= s.size_bytes THEN 'beyond the end of the file'
            WHEN octet_length(c.data) > b.chunk_size_bytes::integer THEN 'its chunk is too large'
            ELSE 'not the only one that has its chunk'
       END AS finding
  FROM pgstore.extent e
  LEFT JOIN pgstore.blob b ON b.store_id = e.store_id AND b.id = e.blob_id
  LEFT JOIN pgstore.chunk c ON c.store_id = e.store_id AND c.id = e.chunk_id
  LEFT JOIN size s ON s.store_id = e.store_id AND s.blob_id = e.blob_id
 WHERE b.id IS NULL
    OR c.id IS NULL
    OR e.position::bigint * b.chunk_size_bytes::integer >= s.size_bytes
    OR octet_length(c.data) > b.chunk_size_bytes::integer
    OR e.is_owned
       AND NOT b.is_shared
       AND EXISTS (SELECT FROM pgstore.store n WHERE n.id = e.store_id AND n.kind = 'nfs')
       AND EXISTS (SELECT
                     FROM pgstore.extent o
                    WHERE o.store_id = e.store_id AND o.chunk_id = e.chunk_id
                      AND (o.blob_id, o.position::integer) <> (e.blob_id, e.position::integer));
