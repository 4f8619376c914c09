-- Inodes that are there twice, have no name, have more or fewer names than they say, or are directories that are not where they say;
-- each in the last version of its row. In a NetworkFileSystem a file without names waits for collection.
--
-- Names in a directory may begin with version 0, if they were made with it: they count from when the directory has a name. So may
-- inodes: what a commit made and then changed, or removed again, has a row that ends before its first name.
WITH RECURSIVE way AS (
     SELECT f.store_id, 1::bigint AS ino, 0::bigint AS since
       FROM pgstore.file_system f
      UNION
     SELECT d.store_id, d.ino, greatest(w.since, d.version_from)
       FROM way w
       JOIN pgstore.dirent d ON d.store_id = w.store_id AND d.parent = w.ino
      WHERE d.kind = 'd' AND d.version_to > w.since
), directory AS (
     SELECT w.store_id, w.ino, min(w.since) AS since
       FROM way w
      GROUP BY w.store_id, w.ino
), inode AS (
     SELECT i.store_id, i.ino::bigint AS ino, i.kind::"char" AS kind, i.version_from, i.version_to, i.link_count::integer AS link_count,
            i.parent
       FROM pgstore.inode i
       JOIN pgstore.file_system f ON f.store_id = i.store_id
      WHERE i.version_to > coalesce((SELECT min(v.version::bigint) FROM pgstore.volume_version v WHERE v.store_id = i.store_id), f.head)
), named AS (
     SELECT i.store_id, i.ino, i.version_to, count(*) AS names, min(d.parent) AS parent
       FROM inode i
       JOIN pgstore.dirent d ON d.store_id = i.store_id AND d.ino = i.ino
       LEFT JOIN directory p ON p.store_id = d.store_id AND p.ino = d.parent
      WHERE greatest(d.version_from, p.since) < i.version_to AND d.version_to >= i.version_to
      GROUP BY i.store_id, i.ino, i.version_to
)
SELECT i.store_id, i.ino, i.version_from, i.version_to, 'there twice' AS finding
  FROM (SELECT n.*, pg_catalog.lead(n.version_from) OVER (PARTITION BY n.store_id, n.ino ORDER BY n.version_to) AS next
          FROM pgstore.inode n) i
 WHERE i.next < i.version_to
 UNION ALL
SELECT i.store_id, i.ino, i.version_from, i.version_to,
       CASE WHEN n.names IS NULL AND i.ino = 1 THEN 'the root of another kind than a directory in itself'
            WHEN n.names IS NULL THEN 'no name'
            WHEN i.ino = 1 THEN 'the root has a name'
            WHEN i.kind = 'd' AND n.names > 1 THEN 'a directory with several names'
            WHEN i.kind = 'd' THEN 'the directory is elsewhere'
            ELSE pg_catalog.concat('link_count ', i.link_count, ' with ', n.names, ' names')
       END
  FROM inode i
  JOIN pgstore.store s ON s.id = i.store_id
  LEFT JOIN named n ON n.store_id = i.store_id AND n.ino = i.ino AND n.version_to = i.version_to
 WHERE CASE WHEN i.ino = 1 THEN n.names IS NULL AND i.kind = 'd' AND i.parent = 1
            WHEN n.names IS NULL AND i.version_from = 0 AND i.version_to < 9223372036854775807 THEN true
            WHEN i.kind = 'd' THEN n.names = 1 AND i.link_count = 1 AND i.parent = n.parent
            WHEN i.link_count = 0 THEN n.names IS NULL AND s.kind = 'nfs'
            ELSE n.names = i.link_count
       END IS NOT TRUE;
