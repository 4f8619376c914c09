"""Quicker writes: checks of single columns become those of their types, and a small file is put to a Volume by one call.

Runs before the new code does. Code of 0005 can be used with it, but has to connect anew: the types of columns have changed, so the
server refuses what was prepared before. No table is rewritten; each is read once for the checks, and kept from others meanwhile.
Views of the user's own that read these columns, or pgstore's views, have to be dropped before and made again after.
"""

from __future__ import annotations

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for area in (DROPPED, DOMAINS, COLUMNS, CHECKS, VIEWS, GRANTS, STATISTICS, FUNCTIONS):
        op.execute(area)


def downgrade() -> None:
    raise NotImplementedError("a step back would read all tables to check what is known to hold")


# They read columns whose types change. What others were granted on them is remembered until they are there again.
DROPPED = r"""
SELECT set_config('pgstore.grants', (
           SELECT coalesce(jsonb_agg(jsonb_build_array(
                      c.relname, a.privilege_type, a.grantee::regrole::text,
                      CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END)), '[]')::text
             FROM pg_class c
            CROSS JOIN LATERAL aclexplode(c.relacl) AS a
            WHERE c.relnamespace = 'pgstore'::regnamespace
              AND c.relname IN ('dict_items', 'queue_items', 'files', 'store_sizes')
              AND a.grantee NOT IN (0, c.relowner)), true);  -- 0 is PUBLIC, which has no rights here
DROP VIEW pgstore.dict_items;
DROP VIEW pgstore.queue_items;
DROP VIEW pgstore.files;
DROP VIEW pgstore.store_sizes;
"""

# Without their checks at first: a type that has one cannot be given to a column without writing the table anew.
DOMAINS = r"""
CREATE DOMAIN pgstore.stored_value AS bytea;
CREATE DOMAIN pgstore.inline_contents AS bytea;
CREATE DOMAIN pgstore.entry_name AS bytea;
CREATE DOMAIN pgstore.inode_kind AS "char";
CREATE DOMAIN pgstore.permission_bits AS integer;
CREATE DOMAIN pgstore.chunk_storage AS "char";
CREATE DOMAIN pgstore.whole_number AS integer;
CREATE DOMAIN pgstore.positive_number AS integer;
CREATE DOMAIN pgstore.byte_count AS bigint;
CREATE DOMAIN pgstore.ordinal AS bigint;
"""

COLUMNS = r"""
ALTER TABLE pgstore.dict_entry
    DROP CONSTRAINT dict_entry_value_check,
    ALTER COLUMN value TYPE pgstore.stored_value;
ALTER TABLE pgstore.queue_item
    DROP CONSTRAINT queue_item_payload_check,
    ALTER COLUMN payload TYPE pgstore.stored_value;
ALTER TABLE pgstore.queue_deferred
    DROP CONSTRAINT queue_deferred_payload_check,
    ALTER COLUMN payload TYPE pgstore.stored_value;
ALTER TABLE pgstore.file_system
    DROP CONSTRAINT file_system_chunk_size_bytes_check,
    DROP CONSTRAINT file_system_storage_check,
    DROP CONSTRAINT file_system_versions_kept_check,
    ALTER COLUMN chunk_size_bytes TYPE pgstore.positive_number,
    ALTER COLUMN storage TYPE pgstore.chunk_storage,
    ALTER COLUMN versions_kept TYPE pgstore.positive_number;
ALTER TABLE pgstore.volume_version
    DROP CONSTRAINT volume_version_version_check,
    ALTER COLUMN version TYPE pgstore.ordinal;
ALTER TABLE pgstore.blob
    DROP CONSTRAINT blob_chunk_size_bytes_check,
    ALTER COLUMN chunk_size_bytes TYPE pgstore.positive_number;
ALTER TABLE pgstore.extent
    DROP CONSTRAINT extent_position_check,
    ALTER COLUMN position TYPE pgstore.whole_number;
ALTER TABLE pgstore.inode
    DROP CONSTRAINT inode_ino_check,
    DROP CONSTRAINT inode_kind_check,
    DROP CONSTRAINT inode_mode_check,
    DROP CONSTRAINT inode_link_count_check,
    DROP CONSTRAINT inode_size_bytes_check,
    DROP CONSTRAINT inode_inline_data_check,
    ALTER COLUMN ino TYPE pgstore.ordinal,
    ALTER COLUMN kind TYPE pgstore.inode_kind,
    ALTER COLUMN mode TYPE pgstore.permission_bits,
    ALTER COLUMN link_count TYPE pgstore.whole_number,
    ALTER COLUMN size_bytes TYPE pgstore.byte_count,
    ALTER COLUMN inline_data TYPE pgstore.inline_contents;
ALTER TABLE pgstore.dirent
    DROP CONSTRAINT dirent_name_check,
    ALTER COLUMN name TYPE pgstore.entry_name;
ALTER TABLE pgstore.dict_entry ALTER COLUMN value SET STORAGE EXTERNAL;
ALTER TABLE pgstore.queue_item ALTER COLUMN payload SET STORAGE EXTERNAL;
ALTER TABLE pgstore.queue_deferred ALTER COLUMN payload SET STORAGE EXTERNAL;
ALTER TABLE pgstore.inode ALTER COLUMN inline_data SET STORAGE EXTERNAL;
"""

CHECKS = r"""
ALTER DOMAIN pgstore.stored_value ADD CONSTRAINT stored_value_check CHECK (octet_length(VALUE) <= 268435456) NOT VALID;
ALTER DOMAIN pgstore.inline_contents ADD CONSTRAINT inline_contents_check CHECK (octet_length(VALUE) <= 65536) NOT VALID;
ALTER DOMAIN pgstore.entry_name ADD CONSTRAINT entry_name_check CHECK (octet_length(VALUE) BETWEEN 1 AND 255 AND position('\x2f'::bytea IN VALUE) = 0 AND position('\x00'::bytea IN VALUE) = 0) NOT VALID;
ALTER DOMAIN pgstore.inode_kind ADD CONSTRAINT inode_kind_check CHECK (VALUE IN ('f', 'd', 'l', 'p', 's')) NOT VALID;
ALTER DOMAIN pgstore.permission_bits ADD CONSTRAINT permission_bits_check CHECK (VALUE BETWEEN 0 AND 4095) NOT VALID;
ALTER DOMAIN pgstore.chunk_storage ADD CONSTRAINT chunk_storage_check CHECK (VALUE IN ('r', 'l')) NOT VALID;
ALTER DOMAIN pgstore.whole_number ADD CONSTRAINT whole_number_check CHECK (VALUE >= 0) NOT VALID;
ALTER DOMAIN pgstore.positive_number ADD CONSTRAINT positive_number_check CHECK (VALUE > 0) NOT VALID;
ALTER DOMAIN pgstore.byte_count ADD CONSTRAINT byte_count_check CHECK (VALUE >= 0) NOT VALID;
ALTER DOMAIN pgstore.ordinal ADD CONSTRAINT ordinal_check CHECK (VALUE > 0) NOT VALID;
ALTER DOMAIN pgstore.stored_value VALIDATE CONSTRAINT stored_value_check;
ALTER DOMAIN pgstore.inline_contents VALIDATE CONSTRAINT inline_contents_check;
ALTER DOMAIN pgstore.entry_name VALIDATE CONSTRAINT entry_name_check;
ALTER DOMAIN pgstore.inode_kind VALIDATE CONSTRAINT inode_kind_check;
ALTER DOMAIN pgstore.permission_bits VALIDATE CONSTRAINT permission_bits_check;
ALTER DOMAIN pgstore.chunk_storage VALIDATE CONSTRAINT chunk_storage_check;
ALTER DOMAIN pgstore.whole_number VALIDATE CONSTRAINT whole_number_check;
ALTER DOMAIN pgstore.positive_number VALIDATE CONSTRAINT positive_number_check;
ALTER DOMAIN pgstore.byte_count VALIDATE CONSTRAINT byte_count_check;
ALTER DOMAIN pgstore.ordinal VALIDATE CONSTRAINT ordinal_check;
"""

VIEWS = r"""
CREATE VIEW pgstore.dict_items AS
SELECT s.environment,
       s.name,
       s.id AS store_id,
       e.key,
       CASE e.codec
           WHEN 'i' THEN to_jsonb(e.integer_value)
           WHEN 'f' THEN pgstore.float_json(e.float_value)::jsonb
           WHEN 'j' THEN e.json_value
           WHEN 'p' THEN coalesce(e.json_value, pgstore.decode_pickle(e.value))
           WHEN 's' THEN coalesce(e.json_value, pgstore.decode_pickle(substr(e.value, 17)))
       END AS value,
       e.codec,
       e.revision,
       e.updated_at,
       e.expires_at,
       coalesce(octet_length(e.value), 0) + coalesce(pg_column_size(e.json_value), 0)
           + CASE WHEN e.codec IN ('i', 'f') THEN 8 ELSE 0 END AS size_bytes
  FROM pgstore.store s
  JOIN pgstore.dict_entry e ON e.store_id = s.id
 WHERE s.kind = 'dict'
   AND (e.expires_at IS NULL OR e.expires_at > statement_timestamp());

CREATE VIEW pgstore.queue_items AS
SELECT s.environment,
       s.name,
       s.id AS store_id,
       q.partition,
       q.id,
       q.put_at,
       q.attempts,
       CASE q.codec
           WHEN 'j' THEN convert_from(q.payload, 'UTF8')::jsonb
           WHEN 'p' THEN pgstore.decode_pickle(q.payload)
       END AS item,
       octet_length(q.payload) AS size_bytes
  FROM pgstore.store s
  JOIN pgstore.queue_item q ON q.store_id = s.id
 WHERE s.kind = 'queue';

CREATE VIEW pgstore.files AS
SELECT s.environment,
       s.name AS volume,
       s.kind,
       s.id AS store_id,
       t.path,
       pgstore.file_type(i.kind) AS type,
       i.size_bytes AS size,
       to_timestamp(i.mtime_ns / 1e9) AS mtime,
       i.mode,
       i.uid,
       i.gid,
       i.link_count,
       pgstore.file_name(i.link_target) AS link_target,
       nullif(greatest(t.version, i.version_from), 0) AS version,
       t.ino
  FROM pgstore.store s
 CROSS JOIN LATERAL (
       WITH RECURSIVE tree AS (
            SELECT 1::bigint AS ino, 'd'::"char" AS kind, NULL::text AS path, 0::bigint AS version
             UNION ALL
            SELECT e.ino, e.kind, concat(w.path || '/', pgstore.file_name(e.name)), greatest(w.version, e.version_from)
              FROM tree w
             CROSS JOIN LATERAL (
                   SELECT d.ino, d.kind, d.name, d.version_from
                     FROM pgstore.dirent d
                    WHERE d.store_id = s.id
                      AND d.parent = w.ino
                      AND d.version_to = 9223372036854775807
                   OFFSET 0) e
             WHERE w.kind = 'd'
       )
       SELECT r.ino, r.path, r.version
         FROM tree r
        WHERE r.path IS NOT NULL) t
 CROSS JOIN LATERAL (
       SELECT n.*
         FROM pgstore.inode n
        WHERE n.store_id = s.id
          AND n.ino = t.ino
          AND n.version_to = 9223372036854775807
        LIMIT 1) i
 WHERE s.kind IN ('volume', 'nfs');

CREATE VIEW pgstore.store_sizes AS
SELECT s.environment,
       s.kind,
       s.name,
       s.id AS store_id,
       s.created_at,
       s.created_by,
       c.entries,
       c.size_bytes
  FROM pgstore.store s
 CROSS JOIN LATERAL (
       SELECT count(*) AS entries,
              coalesce(sum(coalesce(octet_length(e.value), 0) + coalesce(pg_column_size(e.json_value), 0)
                           + CASE WHEN e.codec IN ('i', 'f') THEN 8 ELSE 0 END), 0)::bigint AS size_bytes
         FROM pgstore.dict_entry e
        WHERE s.kind = 'dict' AND e.store_id = s.id
          AND (e.expires_at IS NULL OR e.expires_at > statement_timestamp())
        HAVING s.kind = 'dict'
        UNION ALL
       SELECT count(*), coalesce(sum(octet_length(q.payload)), 0)::bigint
         FROM pgstore.queue_item q
        WHERE s.kind = 'queue' AND q.store_id = s.id
       HAVING s.kind = 'queue'
        UNION ALL
       SELECT count(*), coalesce(sum(i.size_bytes), 0)::bigint
         FROM pgstore.inode i
        WHERE s.kind IN ('volume', 'nfs') AND i.store_id = s.id AND i.kind = 'f' AND i.version_to = 9223372036854775807
       HAVING s.kind IN ('volume', 'nfs')
 ) c;
"""

GRANTS = r"""
DO $block$
DECLARE
    entry jsonb;
BEGIN
    FOR entry IN SELECT value FROM jsonb_array_elements(current_setting('pgstore.grants')::jsonb) LOOP
        EXECUTE format('GRANT %s ON pgstore.%I TO %s%s', entry ->> 1, entry ->> 0, entry ->> 2, entry ->> 3);
    END LOOP;
END
$block$;
"""

# What was known of the columns went with their types. Not of empty tables, as all are at first: that would pass for knowledge.
STATISTICS = r"""
DO $block$
DECLARE
    name text;
    is_filled boolean;
BEGIN
    FOREACH name IN ARRAY ARRAY['dict_entry', 'queue_item', 'queue_deferred', 'volume_version', 'blob', 'extent', 'inode', 'dirent'] LOOP
        EXECUTE format('SELECT EXISTS (SELECT FROM pgstore.%I)', name) INTO is_filled;
        IF is_filled THEN
            EXECUTE format('ANALYZE pgstore.%I', name);
        END IF;
    END LOOP;
END
$block$;
"""

# The first two give columns whose types have changed.
FUNCTIONS = r"""
CREATE OR REPLACE FUNCTION pgstore.queue_take(p_store_id bigint, p_partition text, p_items bigint, p_low bigint)
RETURNS TABLE (id bigint, put_at timestamptz, codec "char", payload bytea, attempts smallint)
LANGUAGE plpgsql VOLATILE SET enable_seqscan = off SET enable_bitmapscan = off SET plan_cache_mode = force_generic_plan AS $function$
#variable_conflict use_column
BEGIN
    IF p_low = 0 THEN
        p_low := coalesce((SELECT h.low
                             FROM pgstore.queue_head h
                            WHERE h.store_id = p_store_id
                              AND h.partition = p_partition), 0);
    END IF;
    RETURN QUERY
    DELETE FROM pgstore.queue_item q
     WHERE q.ctid = ANY (ARRAY(SELECT i.ctid
                                 FROM pgstore.queue_item i
                                WHERE i.store_id = p_store_id
                                  AND i.partition = p_partition
                                  AND i.id >= p_low
                                ORDER BY i.id
                                  FOR UPDATE SKIP LOCKED
                                LIMIT p_items))
    RETURNING q.id, q.put_at, q.codec, q.payload::bytea, q.attempts;
END
$function$;

CREATE OR REPLACE FUNCTION pgstore.list_directory(p_store_id bigint, p_path text, p_version bigint DEFAULT NULL,
                                       p_recursive boolean DEFAULT false, p_after bytea DEFAULT NULL, p_limit bigint DEFAULT NULL)
RETURNS TABLE (path text, type text, size bigint, mtime timestamptz, mode integer, link_target text, version bigint, ino bigint,
               name bytea)
LANGUAGE plpgsql STABLE PARALLEL SAFE SET jit = off AS $function$
#variable_conflict use_column
DECLARE
    at_version CONSTANT bigint := coalesce(p_version, 9223372036854775806);
    prefix     CONSTANT text := (SELECT string_agg(p.part, '/' ORDER BY p.position)
                                   FROM string_to_table(p_path, '/') WITH ORDINALITY AS p (part, position)
                                  WHERE p.part NOT IN ('', '.'));
    found      record;
BEGIN
    SELECT w.ino, w.kind, w.version INTO found FROM pgstore.file_find(p_store_id, p_path, p_version) w;
    IF p_recursive AND (p_after IS NOT NULL OR p_limit IS NOT NULL) THEN
        RAISE EXCEPTION 'a recursive listing has no pages' USING ERRCODE = 'invalid_parameter_value';
    ELSIF found.kind <> 'd' THEN
        RETURN QUERY
        SELECT prefix, pgstore.file_type(n.kind), n.size_bytes::bigint, to_timestamp(n.mtime_ns / 1e9), n.mode::integer, NULL::text,
               nullif(greatest(found.version, n.version_from), 0), n.ino::bigint, convert_to(substring(prefix FROM '[^/]*$'), 'UTF8')
          FROM pgstore.inode n
         WHERE n.store_id = p_store_id
           AND n.ino = found.ino
           AND n.version_from <= at_version
           AND n.version_to > at_version;
    ELSIF p_recursive THEN
        RETURN QUERY
        WITH RECURSIVE tree AS (
             SELECT found.ino, 'd'::"char" AS kind, prefix AS path, found.version AS version, NULL::bytea AS name
              UNION ALL
             SELECT e.ino, e.kind, concat(w.path || '/', pgstore.file_name(e.name)), greatest(w.version, e.version_from), e.name
               FROM tree w
              CROSS JOIN LATERAL (
                    SELECT d.ino, d.kind, d.name, d.version_from
                      FROM pgstore.dirent d
                     WHERE d.store_id = p_store_id
                       AND d.parent = w.ino
                       AND d.version_from <= at_version
                       AND d.version_to > at_version
                    OFFSET 0) e
              WHERE w.kind = 'd'
        )
        SELECT t.path, pgstore.file_type(i.kind), i.size_bytes::bigint, to_timestamp(i.mtime_ns / 1e9), i.mode::integer,
               pgstore.file_name(i.link_target), nullif(greatest(t.version, i.version_from), 0), t.ino, t.name
          FROM tree t
         CROSS JOIN LATERAL (
               SELECT n.*
                 FROM pgstore.inode n
                WHERE n.store_id = p_store_id
                  AND n.ino = t.ino
                  AND n.version_from <= at_version
                  AND n.version_to > at_version
                ORDER BY n.version_to
                LIMIT 1) i
         WHERE t.name IS NOT NULL;
    ELSE
        RETURN QUERY
        SELECT concat(prefix || '/', pgstore.file_name(e.name)), pgstore.file_type(i.kind), i.size_bytes::bigint,
               to_timestamp(i.mtime_ns / 1e9), i.mode::integer, pgstore.file_name(i.link_target),
               nullif(greatest(found.version, e.version_from, i.version_from), 0), e.ino, e.name::bytea
          FROM (SELECT d.ino, d.name, d.version_from
                  FROM pgstore.dirent d
                 WHERE d.store_id = p_store_id
                   AND d.parent = found.ino
                   AND d.name > coalesce(p_after, '')
                   AND d.version_from <= at_version
                   AND d.version_to > at_version
                 ORDER BY d.name
                 LIMIT p_limit) e
         CROSS JOIN LATERAL (
               SELECT n.*
                 FROM pgstore.inode n
                WHERE n.store_id = p_store_id
                  AND n.ino = e.ino
                  AND n.version_from <= at_version
                  AND n.version_to > at_version
                ORDER BY n.version_to
                LIMIT 1) i;
    END IF;
END
$function$;

CREATE FUNCTION pgstore.volume_put(p_store_id bigint, p_ino bigint, p_directory bytea[], p_name bytea, p_mode integer, p_mtime_ns bigint,
                                   p_now_ns bigint, p_data bytea, p_is_repeated boolean) RETURNS boolean
LANGUAGE plpgsql VOLATILE AS $function$
DECLARE
    directory bigint := 1;
    step      bytea;
    there     record;
    version   bigint;
BEGIN
    IF p_is_repeated THEN
        PERFORM FROM pgstore.file_system f WHERE f.store_id = p_store_id FOR UPDATE;
        IF EXISTS (SELECT FROM pgstore.inode i WHERE i.store_id = p_store_id AND i.ino = p_ino) THEN
            RETURN true;
        END IF;
    END IF;
    FOREACH step IN ARRAY p_directory LOOP
        SELECT d.ino
          INTO directory
          FROM pgstore.dirent d
         WHERE d.store_id = p_store_id
           AND d.parent = directory
           AND d.name = step
           AND d.version_to = 9223372036854775807
           AND d.kind = 'd';
        IF NOT FOUND THEN
            RETURN false;
        END IF;
    END LOOP;
    SELECT d.kind, (SELECT i.link_count
                      FROM pgstore.inode i
                     WHERE i.store_id = p_store_id
                       AND i.ino = d.ino
                       AND i.version_to = 9223372036854775807)
      INTO there
      FROM pgstore.dirent d
     WHERE d.store_id = p_store_id
       AND d.parent = directory
       AND d.name = p_name
       AND d.version_to = 9223372036854775807;
    IF FOUND AND (there.kind, there.link_count) IS DISTINCT FROM ('f'::"char", 1) THEN
        RETURN false;
    END IF;

    -- The lock, after which nothing changes any more. What had changed before it undoes all: the caller looks again.
    UPDATE pgstore.file_system SET head = head + 1 WHERE store_id = p_store_id RETURNING head INTO version;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    IF EXISTS (SELECT FROM pgstore.inode i WHERE i.store_id = p_store_id AND i.ino = p_ino) THEN
        RAISE EXCEPTION 'file % was put by a repeated call, which this one is too late for', p_ino USING ERRCODE = 'unique_violation';
    END IF;
    -- Not the statement's time, which is before it waited.
    INSERT INTO pgstore.volume_version (store_id, version, committed_at) VALUES (p_store_id, version, clock_timestamp());
    UPDATE pgstore.dirent
       SET version_to = version
     WHERE store_id = p_store_id
       AND parent = directory
       AND name = p_name
       AND version_to = 9223372036854775807
       AND kind = 'f'
    RETURNING ino INTO there;
    IF FOUND THEN
        UPDATE pgstore.inode
           SET version_to = version
         WHERE store_id = p_store_id
           AND ino = there.ino
           AND version_to = 9223372036854775807
           AND link_count = 1;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'file % got another name meanwhile', there.ino USING ERRCODE = 'serialization_failure';
        END IF;
    END IF;
    WITH closed AS (
         UPDATE pgstore.inode
            SET version_to = version
          WHERE store_id = p_store_id
            AND ino = directory
            AND version_to = 9223372036854775807
         RETURNING *
    )
    INSERT INTO pgstore.inode
           (store_id, ino, version_from, kind, mode, uid, gid, link_count, size_bytes, mtime_ns, ctime_ns, parent, xattrs)
    SELECT c.store_id, c.ino, version, c.kind, c.mode, c.uid, c.gid, c.link_count, c.size_bytes,
           greatest(c.mtime_ns, p_now_ns), greatest(c.ctime_ns, p_now_ns), c.parent, c.xattrs
      FROM closed c;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'directory % was removed meanwhile', directory USING ERRCODE = 'serialization_failure';
    END IF;
    INSERT INTO pgstore.inode (store_id, ino, kind, mode, size_bytes, mtime_ns, ctime_ns, inline_data)
    VALUES (p_store_id, p_ino, 'f', p_mode, octet_length(p_data), p_mtime_ns, p_now_ns, nullif(p_data, ''));
    INSERT INTO pgstore.dirent (store_id, parent, name, version_from, ino, kind)
    VALUES (p_store_id, directory, p_name, version, p_ino, 'f');
    RETURN true;
END
$function$;
"""
