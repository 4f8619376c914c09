-- Chunks whose large object is missing, as after a backup that left large objects out.
SELECT c.store_id, c.id, c.large_object
  FROM pgstore.chunk c
 WHERE c.large_object IS NOT NULL
   AND NOT EXISTS (SELECT FROM pg_largeobject_metadata m WHERE m.oid = c.large_object);
