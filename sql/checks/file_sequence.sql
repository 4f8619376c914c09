-- Sequences of files that are behind ids in use: the next inode, blob or chunk would get the number of one that is there. It happens
-- when a server takes over that was fed by logical replication, which leaves sequences out. `pgstore check --repair` sets them right.
SELECT 'inode' AS relation, u.id, s.last_value
  FROM (SELECT greatest((SELECT max(ino::bigint) FROM pgstore.inode), (SELECT max(ino) FROM pgstore.dirent)) AS id) u
 CROSS JOIN pgstore.inode_seq s
 WHERE u.id > 1
   AND (u.id > s.last_value OR (u.id = s.last_value AND NOT s.is_called))
 UNION ALL
SELECT 'blob', u.id, s.last_value
  FROM (SELECT max(id) AS id FROM pgstore.blob) u
 CROSS JOIN pgstore.blob_id_seq s
 WHERE u.id > s.last_value
    OR (u.id = s.last_value AND NOT s.is_called)
 UNION ALL
SELECT 'chunk', u.id, s.last_value
  FROM (SELECT max(id) AS id FROM pgstore.chunk) u
 CROSS JOIN pgstore.chunk_id_seq s
 WHERE u.id > s.last_value
    OR (u.id = s.last_value AND NOT s.is_called);
