"""Files: history and links of Volumes, NetworkFileSystem, collection of what nothing refers to any more.

Runs before the new code does. Directories learn where they are. Code of 0003 would not tell them, so it may no longer be used.
"""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for area in (TABLES, FILES_IN_SQL):
        op.execute(area)


def downgrade() -> None:
    raise NotImplementedError("0003 has no place for links, file systems without versions and large objects")


TABLES = r"""
UPDATE pgstore.installation SET oldest_code_revision = '0004';

ALTER TABLE pgstore.file_system
    ADD COLUMN storage "char" NOT NULL DEFAULT 'r' CHECK (storage IN ('r', 'l')),
    ADD COLUMN versions_kept integer NOT NULL DEFAULT 10 CHECK (versions_kept > 0);

CREATE TABLE pgstore.version_pin (
    store_id   bigint NOT NULL,
    session_id bigint NOT NULL,
    version    bigint NOT NULL CHECK (version >= 0),
    PRIMARY KEY (store_id, session_id, version)
);

CREATE TABLE pgstore.inode_hold (
    store_id   bigint NOT NULL,
    session_id bigint NOT NULL,
    ino        bigint NOT NULL,
    PRIMARY KEY (store_id, session_id, ino)
);

ALTER TABLE pgstore.blob
    ADD COLUMN session_id bigint,
    ADD COLUMN is_shared boolean NOT NULL DEFAULT false;
CREATE INDEX blob_unfinished ON pgstore.blob (store_id, session_id) WHERE session_id IS NOT NULL;

ALTER TABLE pgstore.chunk
    ALTER COLUMN data DROP NOT NULL,
    ADD COLUMN large_object oid,
    ADD CHECK ((data IS NULL) <> (large_object IS NULL));

ALTER TABLE pgstore.extent ADD COLUMN is_owned boolean NOT NULL DEFAULT true;

ALTER TABLE pgstore.inode
    ADD COLUMN parent bigint,
    ADD COLUMN xattrs jsonb;
UPDATE pgstore.inode i
   SET parent = CASE i.ino WHEN 1 THEN 1 ELSE coalesce(d.parent, 1) END
  FROM pgstore.inode n
  LEFT JOIN LATERAL (
       SELECT e.parent
         FROM pgstore.dirent e
        WHERE e.store_id = n.store_id AND e.ino = n.ino
        ORDER BY e.version_to DESC
        LIMIT 1) d ON true
 WHERE n.kind = 'd' AND i.store_id = n.store_id AND i.ino = n.ino AND i.version_to = n.version_to;
ALTER TABLE pgstore.inode ADD CHECK ((kind = 'd') = (parent IS NOT NULL));
CREATE INDEX inode_closed ON pgstore.inode (store_id, version_to) WHERE version_to < 9223372036854775807;
CREATE INDEX inode_nameless ON pgstore.inode (store_id, ctime_ns) WHERE link_count = 0;
CREATE INDEX dirent_closed ON pgstore.dirent (store_id, version_to) WHERE version_to < 9223372036854775807;

CREATE TABLE pgstore.blob_left (
    store_id bigint NOT NULL,
    blob_id  bigint NOT NULL,
    left_at  timestamptz NOT NULL DEFAULT statement_timestamp(),
    PRIMARY KEY (store_id, blob_id)
);
"""


# For SQL: reading files and directories.
FILES_IN_SQL = r"""
CREATE FUNCTION pgstore.file_name(name bytea) RETURNS text
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $function$
DECLARE
    -- Characters of UTF-8 in PostgreSQL's escape format, as in pickle_text.
    valid   CONSTANT text := '[^\\]|\\\\|\\3(?:[1-3][0-7]|0[2-7])\\2[0-7]{2}|\\340\\2[4-7][0-7]\\2[0-7]{2}'
                             '|\\3(?:[4][1-7]|5[0-467])\\2[0-7]{2}\\2[0-7]{2}|\\355\\2[0-3][0-7]\\2[0-7]{2}'
                             '|\\360\\2[2-7][0-7](?:\\2[0-7]{2}){2}|\\36[1-3](?:\\2[0-7]{2}){3}'
                             '|\\364\\2[01][0-7](?:\\2[0-7]{2}){2}';
    escaped CONSTANT text := encode(name, 'escape');  -- \ooo for what is not ASCII, \\ for a backslash
BEGIN
    IF octet_length(escaped) = octet_length(name) THEN
        RETURN escaped;
    ELSIF escaped ~ ('^(?:' || valid || ')*$') THEN
        RETURN convert_from(name, 'UTF8');
    END IF;
    RETURN (SELECT string_agg(CASE WHEN p.part[1] IS NOT NULL THEN convert_from(decode(p.part[1], 'escape'), 'UTF8')
                                   ELSE '\x' || encode(decode(p.part[2], 'escape'), 'hex')
                              END, '' ORDER BY p.position)
              FROM regexp_matches(escaped, '((?:' || valid || ')+)|(\\[0-7]{3})', 'g') WITH ORDINALITY AS p (part, position));
END
$function$;

CREATE FUNCTION pgstore.file_type(kind "char") RETURNS text
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $function$
BEGIN
    RETURN CASE kind WHEN 'f' THEN 'file' WHEN 'd' THEN 'directory' WHEN 'l' THEN 'symlink' WHEN 'p' THEN 'fifo' ELSE 'socket' END;
END
$function$;

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

CREATE FUNCTION pgstore.file_system_id(p_name text, p_environment text DEFAULT 'main') RETURNS bigint
LANGUAGE plpgsql STABLE PARALLEL SAFE AS $function$
DECLARE
    found_id CONSTANT bigint := (SELECT s.id
                                   FROM pgstore.store s
                                  WHERE s.environment = p_environment COLLATE "C"
                                    AND (CASE s.kind WHEN 'nfs' THEN 'volume' ELSE s.kind END) = 'volume'
                                    AND s.name = p_name COLLATE "C");
BEGIN
    IF found_id IS NULL THEN
        RAISE EXCEPTION 'no Volume or NetworkFileSystem % in environment %', quote_nullable(p_name), quote_nullable(p_environment)
              USING ERRCODE = 'no_data_found', HINT = 'Volumes are made by pgstore.Volume.from_name(name, create_if_missing=True).';
    END IF;
    RETURN found_id;
END
$function$;

CREATE FUNCTION pgstore.file_version(p_store_id bigint, p_version bigint) RETURNS bigint
LANGUAGE plpgsql STABLE PARALLEL SAFE AS $function$
BEGIN
    IF NOT EXISTS (SELECT FROM pgstore.store s WHERE s.id = p_store_id AND s.kind IN ('volume', 'nfs')) THEN
        RAISE EXCEPTION 'no Volume or NetworkFileSystem with id %', coalesce(p_store_id::text, 'NULL') USING ERRCODE = 'no_data_found';
    ELSIF p_version IS NULL THEN
        RETURN 9223372036854775806;
    ELSIF NOT EXISTS (SELECT FROM pgstore.volume_version v WHERE v.store_id = p_store_id AND v.version = p_version) THEN
        RAISE EXCEPTION 'the store with id % has no version %', p_store_id, p_version
              USING ERRCODE = 'undefined_object', HINT = 'Only Volumes have versions; which are kept stands in pgstore.volume_version.';
    END IF;
    RETURN p_version;
END
$function$;

CREATE FUNCTION pgstore.file_find(p_store_id bigint, p_path text, p_version bigint,
                                  OUT ino bigint, OUT kind "char", OUT version bigint)
LANGUAGE plpgsql STABLE PARALLEL SAFE AS $function$
#variable_conflict use_column
DECLARE
    at_version CONSTANT bigint := pgstore.file_version(p_store_id, p_version);
    rest       bytea := convert_to(p_path, 'UTF8');
    slash      integer;
    part       bytea;
    links      integer := 0;
    entry      record;
BEGIN
    IF p_path IS NULL THEN
        RAISE EXCEPTION 'a path must not be NULL' USING ERRCODE = 'null_value_not_allowed';
    ELSIF p_path ~ '(^|/)\.\.(/|$)' THEN
        RAISE EXCEPTION 'path % contains ''..''', quote_literal(p_path) USING ERRCODE = 'invalid_parameter_value';
    END IF;
    ino := 1;
    kind := 'd';
    version := 0;
    WHILE rest <> '' LOOP
        slash := position('\x2f'::bytea IN rest);
        part := CASE slash WHEN 0 THEN rest ELSE substr(rest, 1, slash - 1) END;
        rest := CASE slash WHEN 0 THEN '' ELSE substr(rest, slash + 1) END;
        CONTINUE WHEN part IN ('', '.');
        IF octet_length(part) > 255 THEN
            RAISE EXCEPTION 'path % contains a name of % bytes, at most 255 are allowed', quote_literal(p_path), octet_length(part)
                  USING ERRCODE = 'name_too_long';
        ELSIF kind <> 'd' THEN
            RAISE EXCEPTION 'a part of path % that should be a directory is a %', quote_literal(p_path), pgstore.file_type(kind)
                  USING ERRCODE = 'wrong_object_type';
        END IF;
        IF part = '..' THEN  -- of a link
            SELECT n.parent AS ino, 'd'::"char" AS kind, 0::bigint AS version_from, NULL::bytea AS link_target
              INTO entry
              FROM pgstore.inode n
             WHERE n.store_id = p_store_id
               AND n.ino = file_find.ino
               AND n.version_from <= at_version
               AND n.version_to > at_version
             ORDER BY n.version_to
             LIMIT 1;
        ELSE
            SELECT d.ino, d.kind, d.version_from,
                   CASE d.kind
                       WHEN 'l' THEN (SELECT n.link_target
                                        FROM pgstore.inode n
                                       WHERE n.store_id = p_store_id
                                         AND n.ino = d.ino
                                         AND n.version_from <= at_version
                                         AND n.version_to > at_version
                                       ORDER BY n.version_to
                                       LIMIT 1)
                   END AS link_target
              INTO entry
              FROM pgstore.dirent d
             WHERE d.store_id = p_store_id
               AND d.parent = file_find.ino
               AND d.name = part
               AND d.version_from <= at_version
               AND d.version_to > at_version
             ORDER BY d.version_to
             LIMIT 1;
        END IF;
        IF entry.ino IS NULL THEN
            RAISE EXCEPTION 'no such file or directory: %', quote_literal(p_path) USING ERRCODE = 'undefined_file';
        END IF;
        version := greatest(version, entry.version_from);
        IF entry.kind = 'l' THEN
            links := links + 1;
            IF links > 40 THEN
                RAISE EXCEPTION 'path % leads through more than 40 symbolic links', quote_literal(p_path)
                      USING ERRCODE = 'program_limit_exceeded';
            END IF;
            IF substr(entry.link_target, 1, 1) = '/' THEN
                ino := 1;
            END IF;
            rest := entry.link_target || '/'::bytea || rest;
        ELSE
            ino := entry.ino;
            kind := entry.kind;
        END IF;
    END LOOP;
END
$function$;

CREATE FUNCTION pgstore.read_file(p_store_id bigint, p_ino bigint, p_version bigint DEFAULT NULL,
                                  p_offset bigint DEFAULT 0, p_length bigint DEFAULT NULL) RETURNS bytea
LANGUAGE plpgsql STABLE PARALLEL SAFE AS $function$
DECLARE
    at_version CONSTANT bigint := pgstore.file_version(p_store_id, p_version);
    file       record;
    first      bigint;  -- of the bytes wanted, and the one after the last
    past       bigint;
    zeros      bytea := '\x00';
    result     bytea;
BEGIN
    IF p_offset IS NULL OR p_offset < 0 OR p_length < 0 THEN
        RAISE EXCEPTION 'offset and length of a read must not be negative, nor the offset NULL' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    SELECT n.kind, n.size_bytes, n.inline_data, n.blob_id, b.chunk_size_bytes, f.storage
      INTO file
      FROM pgstore.inode n
      LEFT JOIN pgstore.blob b ON b.store_id = n.store_id AND b.id = n.blob_id
      LEFT JOIN pgstore.file_system f ON f.store_id = n.store_id
     WHERE n.store_id = p_store_id
       AND n.ino = p_ino
       AND n.version_from <= at_version
       AND n.version_to > at_version
     ORDER BY n.version_to
     LIMIT 1;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'the store with id % has no inode %', p_store_id, coalesce(p_ino::text, 'NULL') USING ERRCODE = 'undefined_file';
    ELSIF file.kind <> 'f' THEN
        RAISE EXCEPTION 'inode % of the store with id % is a %, not a file', p_ino, p_store_id, pgstore.file_type(file.kind)
              USING ERRCODE = 'wrong_object_type';
    END IF;
    first := least(p_offset, file.size_bytes);
    past := first + least(file.size_bytes - first, p_length);
    IF past - first > 524288000 THEN  -- as text it has twice as many bytes, and no value may have 1 GiB
        RAISE EXCEPTION 'a read of % bytes, at most 524288000 (500 MiB) are possible', past - first
              USING ERRCODE = 'program_limit_exceeded', HINT = 'Read in parts, with p_offset and p_length, or in Python.';
    ELSIF file.blob_id IS NULL THEN
        RETURN coalesce(substr(file.inline_data, first::integer + 1, (past - first)::integer), '');
    ELSIF past = first THEN
        RETURN '';
    END IF;
    WHILE octet_length(zeros) < file.chunk_size_bytes LOOP
        zeros := zeros || zeros;
    END LOOP;
    zeros := substr(zeros, 1, file.chunk_size_bytes);
    -- Not ordered explicitly, which would write all of it to a file to be sorted: for each position, in order, there is one look.
    IF file.storage = 'r' THEN
        SELECT string_agg(CASE octet_length(c.data) WHEN file.chunk_size_bytes THEN c.data
                                                    ELSE coalesce(overlay(zeros PLACING c.data FROM 1), zeros) END, '')
          INTO result
          FROM generate_series(first / file.chunk_size_bytes, (past - 1) / file.chunk_size_bytes) AS s (position)
          LEFT JOIN LATERAL (
               SELECT k.data
                 FROM pgstore.extent e
                 JOIN pgstore.chunk k ON k.store_id = e.store_id AND k.id = e.chunk_id
                WHERE e.store_id = p_store_id
                  AND e.blob_id = file.blob_id
                  AND e.position = s.position::integer
                LIMIT 1) c ON true;
    ELSE
        SELECT string_agg(coalesce(overlay(zeros PLACING c.data FROM 1), zeros), '')
          INTO result
          FROM generate_series(first / file.chunk_size_bytes, (past - 1) / file.chunk_size_bytes) AS s (position)
          LEFT JOIN LATERAL (
               SELECT pgstore.chunk_read(p_store_id, e.chunk_id, 0, file.chunk_size_bytes) AS data
                 FROM pgstore.extent e
                WHERE e.store_id = p_store_id
                  AND e.blob_id = file.blob_id
                  AND e.position = s.position::integer
                LIMIT 1) c ON true;
    END IF;
    RETURN substr(result, (first % file.chunk_size_bytes)::integer + 1, (past - first)::integer);
END
$function$;

CREATE FUNCTION pgstore.read_file(p_store_id bigint, p_path text, p_version bigint DEFAULT NULL,
                                  p_offset bigint DEFAULT 0, p_length bigint DEFAULT NULL) RETURNS bytea
LANGUAGE plpgsql STABLE PARALLEL SAFE AS $function$
DECLARE
    found record;
BEGIN
    SELECT w.ino, w.kind INTO found FROM pgstore.file_find(p_store_id, p_path, p_version) w;
    IF found.kind <> 'f' THEN
        RAISE EXCEPTION '% is a %, not a file', quote_literal(p_path), pgstore.file_type(found.kind) USING ERRCODE = 'wrong_object_type';
    END IF;
    RETURN pgstore.read_file(p_store_id, found.ino, p_version, p_offset, p_length);
END
$function$;

CREATE FUNCTION pgstore.read_file(p_name text, p_path text, p_version bigint DEFAULT NULL, p_environment text DEFAULT 'main',
                                  p_offset bigint DEFAULT 0, p_length bigint DEFAULT NULL) RETURNS bytea
LANGUAGE plpgsql STABLE PARALLEL SAFE AS $function$
BEGIN
    RETURN pgstore.read_file(pgstore.file_system_id(p_name, p_environment), p_path, p_version, p_offset, p_length);
END
$function$;

CREATE FUNCTION pgstore.read_text(p_store_id bigint, p_ino bigint, p_version bigint DEFAULT NULL, p_encoding text DEFAULT 'UTF8')
RETURNS text LANGUAGE plpgsql STABLE PARALLEL SAFE AS $function$
BEGIN
    RETURN convert_from(pgstore.read_file(p_store_id, p_ino, p_version), p_encoding);
END
$function$;

CREATE FUNCTION pgstore.read_text(p_store_id bigint, p_path text, p_version bigint DEFAULT NULL, p_encoding text DEFAULT 'UTF8')
RETURNS text LANGUAGE plpgsql STABLE PARALLEL SAFE AS $function$
BEGIN
    RETURN convert_from(pgstore.read_file(p_store_id, p_path, p_version), p_encoding);
END
$function$;

CREATE FUNCTION pgstore.read_text(p_name text, p_path text, p_version bigint DEFAULT NULL, p_environment text DEFAULT 'main',
                                  p_encoding text DEFAULT 'UTF8') RETURNS text
LANGUAGE plpgsql STABLE PARALLEL SAFE AS $function$
BEGIN
    RETURN convert_from(pgstore.read_file(p_name, p_path, p_version, p_environment), p_encoding);
END
$function$;

CREATE FUNCTION pgstore.list_directory(p_store_id bigint, p_path text, p_version bigint DEFAULT NULL,
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
        SELECT prefix, pgstore.file_type(n.kind), n.size_bytes, to_timestamp(n.mtime_ns / 1e9), n.mode, NULL::text,
               nullif(greatest(found.version, n.version_from), 0), n.ino, convert_to(substring(prefix FROM '[^/]*$'), 'UTF8')
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
        SELECT t.path, pgstore.file_type(i.kind), i.size_bytes, to_timestamp(i.mtime_ns / 1e9), i.mode,
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
        SELECT concat(prefix || '/', pgstore.file_name(e.name)), pgstore.file_type(i.kind), i.size_bytes,
               to_timestamp(i.mtime_ns / 1e9), i.mode, pgstore.file_name(i.link_target),
               nullif(greatest(found.version, e.version_from, i.version_from), 0), e.ino, e.name
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

CREATE FUNCTION pgstore.list_directory(p_name text, p_path text, p_version bigint DEFAULT NULL, p_environment text DEFAULT 'main',
                                       p_recursive boolean DEFAULT false, p_after bytea DEFAULT NULL, p_limit bigint DEFAULT NULL)
RETURNS TABLE (path text, type text, size bigint, mtime timestamptz, mode integer, link_target text, version bigint, ino bigint,
               name bytea)
LANGUAGE plpgsql STABLE PARALLEL SAFE AS $function$
BEGIN
    RETURN QUERY
    SELECT *
      FROM pgstore.list_directory(pgstore.file_system_id(p_name, p_environment), p_path, p_version, p_recursive, p_after, p_limit);
END
$function$;
"""
