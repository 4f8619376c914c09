-- Directories to which no way leads from the root, now: they are in each other, or in nothing. And file systems without a root.
WITH RECURSIVE reached AS (
     SELECT f.store_id, 1::bigint AS ino
       FROM pgstore.file_system f
      UNION
     SELECT d.store_id, d.ino
       FROM reached r
       JOIN pgstore.dirent d ON d.store_id = r.store_id AND d.parent = r.ino
      WHERE d.kind = 'd' AND d.version_to = 9223372036854775807
)
SELECT i.store_id, i.ino, 'no way leads to it' AS finding
  FROM pgstore.inode i
 WHERE i.kind::"char" = 'd'
   AND i.version_to = 9223372036854775807
   AND EXISTS (SELECT FROM pgstore.file_system f WHERE f.store_id = i.store_id)
   AND NOT EXISTS (SELECT FROM reached r WHERE r.store_id = i.store_id AND r.ino = i.ino::bigint)
 UNION ALL
SELECT f.store_id, 1, 'no root'
  FROM pgstore.file_system f
 WHERE NOT EXISTS (SELECT
                     FROM pgstore.inode i
                    WHERE i.store_id = f.store_id AND i.ino::bigint = 1 AND i.version_to = 9223372036854775807)
 UNION ALL
SELECT s.id, NULL, 'no file system'
  FROM pgstore.store s
 WHERE s.kind IN ('volume', 'nfs')
   AND NOT EXISTS (SELECT FROM pgstore.file_system f WHERE f.store_id = s.id);
