-- Volumes whose newest version is not the last of their list, or has rows after it, or whose list has gaps. A commit writes all of them or
-- nothing, and collection deletes from the first on. Pins of versions that have not been made.
SELECT f.store_id, f.head, v.newest, 'the newest version is not the last in the list' AS finding
  FROM pgstore.file_system f
 CROSS JOIN LATERAL (SELECT max(v.version::bigint) AS newest FROM pgstore.volume_version v WHERE v.store_id = f.store_id) v
 WHERE f.head <> coalesce(v.newest, 0)
 UNION ALL
SELECT f.store_id, f.head, r.newest, 'rows of a version that has not been made'
  FROM pgstore.file_system f
 CROSS JOIN LATERAL (
       SELECT max(n.version) AS newest
         FROM (SELECT greatest(i.version_from, nullif(i.version_to, 9223372036854775807)) AS version
                 FROM pgstore.inode i
                WHERE i.store_id = f.store_id
                UNION ALL
               SELECT greatest(d.version_from, nullif(d.version_to, 9223372036854775807))
                 FROM pgstore.dirent d
                WHERE d.store_id = f.store_id) n) r
 WHERE r.newest > f.head
 UNION ALL
SELECT f.store_id, f.head, NULL, 'a NetworkFileSystem with versions'
  FROM pgstore.file_system f
  JOIN pgstore.store s ON s.id = f.store_id
 WHERE s.kind = 'nfs'
   AND (f.head <> 0
        OR EXISTS (SELECT FROM pgstore.inode i
                    WHERE i.store_id = f.store_id AND (i.version_from, i.version_to) <> (0, 9223372036854775807))
        OR EXISTS (SELECT FROM pgstore.dirent d
                    WHERE d.store_id = f.store_id AND (d.version_from, d.version_to) <> (0, 9223372036854775807)))
 UNION ALL
SELECT v.store_id, max(v.version::bigint), count(*), 'versions are missing between the first and the last'
  FROM pgstore.volume_version v
 GROUP BY v.store_id
HAVING max(v.version::bigint) - min(v.version::bigint) + 1 <> count(*)
 UNION ALL
SELECT f.store_id, f.head, p.version, 'a pin of a version that has not been made'
  FROM pgstore.version_pin p
  JOIN pgstore.file_system f ON f.store_id = p.store_id
 WHERE p.version > f.head;
