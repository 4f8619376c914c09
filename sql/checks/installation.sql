-- The rows by which clients know that the schema is there, and which it is: without one of each none can connect.
SELECT 'installation' AS relation, pg_catalog.count(*) AS rows
  FROM pgstore.installation i
HAVING pg_catalog.count(*) <> 1
 UNION ALL
SELECT 'schema_revision', pg_catalog.count(*)
  FROM pgstore.schema_revision r
HAVING pg_catalog.count(*) <> 1;
