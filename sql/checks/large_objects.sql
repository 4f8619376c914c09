-- Chunks whose large object is missing, as after a backup that left large objects out, or is somebody else's, as after a restore
-- beside other applications: it does not begin with the header of this chunk. Nothing is read from it, nor written to it.
SELECT c.store_id, c.id, c.large_object,
       CASE WHEN EXISTS (SELECT FROM pg_largeobject_metadata m WHERE m.oid = c.large_object)
            THEN 'not its own' ELSE 'missing' END AS finding
  FROM pgstore.chunk c
 WHERE c.large_object IS NOT NULL
   AND NOT pgstore.chunk_is_ours(c.store_id, c.id)
 UNION ALL
SELECT c.store_id, c.id, c.large_object, 'another chunk has the same'
  FROM pgstore.chunk c
  JOIN (SELECT k.large_object
          FROM pgstore.chunk k
         WHERE k.large_object IS NOT NULL
         GROUP BY k.large_object
        HAVING count(*) > 1) d ON d.large_object = c.large_object;
