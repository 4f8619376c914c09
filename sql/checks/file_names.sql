-- Names that lead to no inode of their kind, or stand in no directory, in a version that can be read; and names that are there twice.
WITH RECURSIVE store AS (
     SELECT f.store_id, coalesce(min(v.version::bigint), f.head) AS oldest
       FROM pgstore.file_system f
       LEFT JOIN pgstore.volume_version v ON v.store_id = f.store_id
      GROUP BY f.store_id, f.head
), reached AS (
     SELECT s.store_id, 1::bigint AS ino, 0::bigint AS since
       FROM store s
      UNION
     SELECT d.store_id, d.ino, greatest(r.since, d.version_from)
       FROM reached r
       JOIN pgstore.dirent d ON d.store_id = r.store_id AND d.parent = r.ino AND d.kind = 'd'
), directory AS (
     SELECT r.store_id, r.ino, min(r.since) AS since
       FROM reached r
      GROUP BY r.store_id, r.ino
), name AS (
     -- Names made with their directory begin with version 0, when nothing leads there; they count since something does.
     SELECT d.*, greatest(d.version_from, s.oldest, p.since) AS first, d.version_to AS last
       FROM pgstore.dirent d
       JOIN store s ON s.store_id = d.store_id
       LEFT JOIN directory p ON p.store_id = d.store_id AND p.ino = d.parent
      WHERE d.version_to > s.oldest
)
SELECT n.store_id, n.parent, n.name, n.version_from, n.version_to, n.ino, 'leads to no inode of its kind' AS finding
  FROM name n
 WHERE n.first < n.last
   AND (n.last - n.first)::numeric <> (SELECT coalesce(sum(least(i.version_to, n.last) - greatest(i.version_from, n.first)), 0::numeric)
                              FROM pgstore.inode i
                             WHERE i.store_id = n.store_id AND i.ino::bigint = n.ino AND i.kind::"char" = n.kind
                               AND i.version_from < n.last AND i.version_to > n.first)
 UNION ALL
SELECT n.store_id, n.parent, n.name, n.version_from, n.version_to, n.ino, 'stands in no directory'
  FROM name n
 WHERE n.first < n.last
   AND (n.last - n.first)::numeric <> (SELECT coalesce(sum(least(i.version_to, n.last) - greatest(i.version_from, n.first)), 0::numeric)
                              FROM pgstore.inode i
                             WHERE i.store_id = n.store_id AND i.ino::bigint = n.parent AND i.kind::"char" = 'd'
                               AND i.version_from < n.last AND i.version_to > n.first)
 UNION ALL
SELECT n.store_id, n.parent, n.name, n.version_from, n.version_to, n.ino, 'is there twice'
  FROM (SELECT d.*, pg_catalog.lead(d.version_from) OVER (PARTITION BY d.store_id, d.parent, d.name ORDER BY d.version_to) AS next
          FROM pgstore.dirent d) n
 WHERE n.next < n.version_to;
