-- Blobs that several files of a NetworkFileSystem have although they are not marked as shared: writing into one file would change the
-- others. `pgstore check --repair` marks them, unless one of the files may have had another that is there and lost. And blobs whose chunks
-- have no size.
SELECT b.store_id, b.id, i.files, 'not shared, and several files have it' AS finding
  FROM pgstore.blob b
  JOIN pgstore.store s ON s.id = b.store_id AND s.kind = 'nfs'
  JOIN (SELECT n.store_id, n.blob_id, pg_catalog.count(DISTINCT n.ino::bigint) AS files
          FROM pgstore.inode n
         WHERE n.blob_id IS NOT NULL
         GROUP BY n.store_id, n.blob_id
        HAVING pg_catalog.count(DISTINCT n.ino::bigint) > 1) i ON i.store_id = b.store_id AND i.blob_id = b.id
 WHERE NOT b.is_shared
 UNION ALL
SELECT b.store_id, b.id, NULL, pg_catalog.format('chunks of %s bytes', b.chunk_size_bytes)
  FROM pgstore.blob b
 WHERE b.chunk_size_bytes::integer <= 0;
