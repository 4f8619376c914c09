-- Blobs that several files of a NetworkFileSystem have although they are not marked as shared: writing into one file would change the
-- others. `pgstore check --repair` marks them, unless one of the files may have had another that is there and lost. And blobs whose chunks
-- have no size.
SELECT b.store_id, b.id, i.files, 'not shared, and several files have it' AS finding
  FROM pgstore.blob b
  JOIN pgstore.store s ON s.id = b.store_id AND s.kind = 'nfs'
  JOIN (SELECT n.store_id, n.blob_id, count(DISTINCT n.ino) AS files
          FROM pgstore.inode n
         WHERE n.blob_id IS NOT NULL
         GROUP BY n.store_id, n.blob_id
        HAVING count(DISTINCT n.ino) > 1) i ON i.store_id = b.store_id AND i.blob_id = b.id
 WHERE NOT b.is_shared
 UNION ALL
SELECT b.store_id, b.id, NULL, 'chunks of ' || b.chunk_size_bytes || ' bytes'
  FROM pgstore.blob b
 WHERE b.chunk_size_bytes <= 0;
