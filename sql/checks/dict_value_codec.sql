-- Entries of Dicts whose codec does not match the columns that are filled: no client wrote them, and none can read them.
SELECT e.store_id, e.key, e.codec, e.revision
  FROM pgstore.dict_entry e
 WHERE (CASE e.codec
            WHEN 'i' THEN e.integer_value IS NOT NULL AND pg_catalog.num_nonnulls(e.float_value, e.value, e.json_value) = 0
            WHEN 'f' THEN e.float_value IS NOT NULL AND pg_catalog.num_nonnulls(e.integer_value, e.value, e.json_value) = 0
            WHEN 'j' THEN e.json_value IS NOT NULL AND pg_catalog.num_nonnulls(e.integer_value, e.float_value, e.value) = 0
            WHEN 'p' THEN e.value IS NOT NULL AND pg_catalog.num_nonnulls(e.integer_value, e.float_value) = 0
            WHEN 's' THEN octet_length(e.value::bytea) > 16 AND pg_catalog.num_nonnulls(e.integer_value, e.float_value) = 0
            ELSE false
        END) IS NOT TRUE;
