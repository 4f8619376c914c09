-- Files whose size does not fit what is stored of them, and other inodes that hold what their kind cannot.
SELECT i.store_id, i.ino, i.version_to, i.kind, i.size_bytes,
       CASE WHEN i.kind::"char" <> 'f' AND pg_catalog.num_nonnulls(i.blob_id, i.inline_data) > 0 THEN 'has contents, and is no file'
            WHEN (i.kind::"char" = 'l') <> (i.link_target IS NOT NULL) THEN 'a link without target, or a target without link'
            WHEN (i.kind::"char" IN ('c', 'b')) <> (i.device IS NOT NULL) THEN 'a device node without device, or a device without node'
            WHEN pg_catalog.num_nonnulls(i.blob_id, i.inline_data) = 2 THEN 'contents in two places'
            WHEN i.blob_id IS NOT NULL THEN 'its blob is missing'
            ELSE 'inline contents of another size'
       END AS finding
  FROM pgstore.inode i
 WHERE i.kind::"char" <> 'f' AND pg_catalog.num_nonnulls(i.blob_id, i.inline_data) > 0
    OR (i.kind::"char" = 'l') <> (i.link_target IS NOT NULL)
    OR (i.kind::"char" IN ('c', 'b')) <> (i.device IS NOT NULL)
    OR pg_catalog.num_nonnulls(i.blob_id, i.inline_data) = 2
    OR i.kind::"char" = 'f' AND i.blob_id IS NULL AND i.size_bytes::bigint <> coalesce(octet_length(i.inline_data::bytea), 0)
    OR i.blob_id IS NOT NULL AND NOT EXISTS (SELECT FROM pgstore.blob b WHERE b.store_id = i.store_id AND b.id = i.blob_id);
