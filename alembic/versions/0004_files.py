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
    for area in (TABLES, BYTES, FILES_IN_SQL):
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
CREATE INDEX inode_nameless ON pgstore.inode (store_id, ino) WHERE link_count = 0;
CREATE INDEX dirent_closed ON pgstore.dirent (store_id, version_to) WHERE version_to < 9223372036854775807;

CREATE TABLE pgstore.blob_left (
    store_id bigint NOT NULL,
    blob_id  bigint NOT NULL,
    left_at  timestamptz NOT NULL DEFAULT statement_timestamp(),
    PRIMARY KEY (store_id, blob_id)
);
"""

BYTES = r"""
CREATE TABLE pgstore.chunk_left (
    store_id bigint NOT NULL,
    chunk_id bigint NOT NULL,
    left_at  timestamptz NOT NULL DEFAULT statement_timestamp(),
    PRIMARY KEY (store_id, chunk_id)
);

CREATE FUNCTION pgstore.chunk_read(p_store_id bigint, p_chunk_id bigint, p_offset bigint, p_length integer) RETURNS bytea
LANGUAGE plpgsql STABLE STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
    RETURN (SELECT lo_get(k.large_object, p_offset, p_length)
              FROM pgstore.chunk k
             WHERE k.store_id = p_store_id
               AND k.id = p_chunk_id);
END
$function$;

CREATE FUNCTION pgstore.chunk_create(p_store_id bigint, p_chunk_id bigint, p_offset bigint, p_data bytea) RETURNS void
LANGUAGE plpgsql VOLATILE STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
    made oid;
BEGIN
    PERFORM FROM pgstore.file_system f WHERE f.store_id = p_store_id AND f.storage = 'l';
    IF NOT FOUND THEN
        RAISE EXCEPTION 'file system % does not keep large objects', p_store_id USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    made := lo_create(0);
    PERFORM lo_put(made, p_offset, p_data);
    INSERT INTO pgstore.chunk (store_id, id, large_object) VALUES (p_store_id, p_chunk_id, made);
END
$function$;

CREATE FUNCTION pgstore.chunk_write(p_store_id bigint, p_chunk_id bigint, p_offset bigint, p_data bytea) RETURNS void
LANGUAGE plpgsql VOLATILE STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
    found_oid oid;
BEGIN
    SELECT k.large_object
      INTO found_oid
      FROM pgstore.chunk k
     WHERE k.store_id = p_store_id
       AND k.id = p_chunk_id
       FOR NO KEY UPDATE;
    IF found_oid IS NULL THEN
        RAISE EXCEPTION 'chunk % of store % is no large object', p_chunk_id, p_store_id USING ERRCODE = 'no_data_found';
    END IF;
    PERFORM lo_put(found_oid, p_offset, p_data);
END
$function$;

CREATE FUNCTION pgstore.chunk_copy(p_store_id bigint, p_source bigint, p_target bigint, p_length integer) RETURNS void
LANGUAGE plpgsql VOLATILE STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
    PERFORM pgstore.chunk_create(p_store_id, p_target, 0, pgstore.chunk_read(p_store_id, p_source, 0, p_length));
END
$function$;

CREATE FUNCTION pgstore.chunk_truncate(p_store_id bigint, p_chunk_id bigint, p_length integer) RETURNS void
LANGUAGE plpgsql VOLATILE STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
    found_oid  oid;
    descriptor integer;
BEGIN
    SELECT k.large_object
      INTO found_oid
      FROM pgstore.chunk k
     WHERE k.store_id = p_store_id
       AND k.id = p_chunk_id
       FOR NO KEY UPDATE;
    IF found_oid IS NULL THEN
        RAISE EXCEPTION 'chunk % of store % is no large object', p_chunk_id, p_store_id USING ERRCODE = 'no_data_found';
    END IF;
    descriptor := lo_open(found_oid, x'60000'::integer);  -- INV_READ | INV_WRITE
    IF lo_lseek64(descriptor, 0, 2) > p_length THEN
        PERFORM lo_truncate64(descriptor, p_length);
    END IF;
    PERFORM lo_close(descriptor);
END
$function$;

CREATE FUNCTION pgstore.chunk_delete(p_store_id bigint, p_chunk_id bigint) RETURNS boolean
LANGUAGE plpgsql VOLATILE STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
    found_oid oid;
BEGIN
    DELETE FROM pgstore.chunk k
     WHERE k.store_id = p_store_id
       AND k.id = p_chunk_id
    RETURNING k.large_object INTO found_oid;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    PERFORM FROM pg_largeobject_metadata m WHERE m.oid = found_oid;
    IF FOUND THEN  -- not after a restore without large objects
        PERFORM lo_unlink(found_oid);
    END IF;
    RETURN true;
END
$function$;

CREATE TABLE pgstore.large_object_left (
    store_id     bigint NOT NULL,
    large_object oid NOT NULL,
    PRIMARY KEY (store_id, large_object)
);

CREATE FUNCTION pgstore.large_objects_leave(p_store_id bigint) RETURNS bigint
LANGUAGE plpgsql VOLATILE STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
    noted bigint;
BEGIN
    WITH gone AS (
         DELETE FROM pgstore.extent WHERE store_id = p_store_id),
    chunks AS (
         DELETE FROM pgstore.chunk WHERE store_id = p_store_id AND large_object IS NOT NULL RETURNING large_object)
    INSERT INTO pgstore.large_object_left (store_id, large_object)
    SELECT p_store_id, c.large_object
      FROM chunks c;
    GET DIAGNOSTICS noted = ROW_COUNT;
    RETURN noted;
END
$function$;

CREATE FUNCTION pgstore.large_objects_unlink(p_store_id bigint) RETURNS bigint
LANGUAGE plpgsql VOLATILE STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
    unlinked bigint := 0;
    gone     oid;
BEGIN
    FOR gone IN
        DELETE FROM pgstore.large_object_left
         WHERE ctid = ANY (ARRAY(SELECT ctid
                                   FROM pgstore.large_object_left
                                  WHERE store_id = p_store_id
                                  LIMIT 1000
                                    FOR UPDATE SKIP LOCKED))
        RETURNING large_object
    LOOP
        PERFORM FROM pg_largeobject_metadata m WHERE m.oid = gone;
        IF FOUND THEN  -- not after a restore without large objects
            PERFORM lo_unlink(gone);
        END IF;
        unlinked := unlinked + 1;
    END LOOP;
    RETURN unlinked;
END
$function$;

CREATE FUNCTION pgstore.bytes_overlaid(data bytea, p_offset integer, piece bytea) RETURNS bytea
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $function$
DECLARE
    size CONSTANT integer := octet_length(data);
BEGIN
    IF p_offset = 0 AND size <= octet_length(piece) THEN
        RETURN piece;
    ELSIF p_offset = size THEN
        RETURN data || piece;
    ELSIF p_offset > size THEN
        RETURN data || decode(repeat('00', p_offset - size), 'hex') || piece;
    END IF;
    RETURN overlay(data PLACING piece FROM p_offset + 1);
END
$function$;

CREATE FUNCTION pgstore.blob_write(p_store_id bigint, p_blob_id bigint, p_chunk_size integer, p_offset bigint, p_data bytea) RETURNS void
LANGUAGE plpgsql VOLATILE AS $function$
DECLARE
    stop       CONSTANT bigint := p_offset + octet_length(p_data);
    at         bigint := p_offset;
    place      integer;  -- of the chunk
    start      integer;  -- in the chunk
    piece      bytea;
    there      record;
    fresh      bigint;
    as_objects boolean;
BEGIN
    WHILE at < stop LOOP
        place := at / p_chunk_size;
        start := at % p_chunk_size;
        piece := substring(p_data FROM (at - p_offset)::integer + 1 FOR least(p_chunk_size - start, stop - at)::integer);
        SELECT e.chunk_id, e.is_owned
          INTO there
          FROM pgstore.extent e
         WHERE e.store_id = p_store_id
           AND e.blob_id = p_blob_id
           AND e.position = place;
        IF NOT there.is_owned THEN  -- two writers must not both replace the chunk
            SELECT e.chunk_id, e.is_owned
              INTO there
              FROM pgstore.extent e
             WHERE e.store_id = p_store_id
               AND e.blob_id = p_blob_id
               AND e.position = place
               FOR NO KEY UPDATE;
        END IF;
        IF there.is_owned THEN
            UPDATE pgstore.chunk k
               SET data = pgstore.bytes_overlaid(k.data, start, piece)
             WHERE k.store_id = p_store_id
               AND k.id = there.chunk_id
               AND k.data IS NOT NULL;
            IF NOT FOUND THEN
                PERFORM pgstore.chunk_write(p_store_id, there.chunk_id, start, piece);
            END IF;
            at := at + octet_length(piece);
            CONTINUE;
        END IF;

        as_objects := coalesce(as_objects, (SELECT f.storage = 'l' FROM pgstore.file_system f WHERE f.store_id = p_store_id));
        fresh := nextval('pgstore.chunk_id_seq');
        IF there.chunk_id IS NULL THEN
            IF as_objects THEN
                PERFORM pgstore.chunk_create(p_store_id, fresh, start, piece);
            ELSE
                INSERT INTO pgstore.chunk (store_id, id, data)
                VALUES (p_store_id, fresh, pgstore.bytes_overlaid('', start, piece));
            END IF;
            INSERT INTO pgstore.extent (store_id, blob_id, position, chunk_id)
            VALUES (p_store_id, p_blob_id, place, fresh)
            ON CONFLICT DO NOTHING;
            IF NOT FOUND THEN  -- another writer was quicker: once more, into that chunk
                PERFORM pgstore.chunk_delete(p_store_id, fresh);
                CONTINUE;
            END IF;
        ELSE
            IF as_objects THEN
                PERFORM pgstore.chunk_copy(p_store_id, there.chunk_id, fresh, p_chunk_size);
                PERFORM pgstore.chunk_write(p_store_id, fresh, start, piece);
            ELSE
                INSERT INTO pgstore.chunk (store_id, id, data)
                SELECT p_store_id, fresh, pgstore.bytes_overlaid(k.data, start, piece)
                  FROM pgstore.chunk k
                 WHERE k.store_id = p_store_id
                   AND k.id = there.chunk_id;
            END IF;
            PERFORM pgstore.chunk_replace(p_store_id, p_blob_id, place, there.chunk_id, fresh);
        END IF;
        at := at + octet_length(piece);
    END LOOP;
END
$function$;

CREATE FUNCTION pgstore.chunk_replace(p_store_id bigint, p_blob_id bigint, p_position integer, p_old bigint, p_new bigint) RETURNS void
LANGUAGE plpgsql VOLATILE AS $function$
BEGIN
    UPDATE pgstore.extent
       SET chunk_id = p_new,
           is_owned = true
     WHERE store_id = p_store_id
       AND blob_id = p_blob_id
       AND position = p_position;
    INSERT INTO pgstore.chunk_left (store_id, chunk_id) VALUES (p_store_id, p_old) ON CONFLICT (store_id, chunk_id) DO UPDATE SET left_at = greatest(excluded.left_at, chunk_left.left_at);
END
$function$;

CREATE FUNCTION pgstore.blob_create(p_store_id bigint, p_data bytea) RETURNS bigint
LANGUAGE plpgsql VOLATILE AS $function$
DECLARE
    made       CONSTANT bigint := nextval('pgstore.blob_id_seq');
    chunk_size CONSTANT integer := (SELECT f.chunk_size_bytes FROM pgstore.file_system f WHERE f.store_id = p_store_id);
BEGIN
    INSERT INTO pgstore.blob (store_id, id, chunk_size_bytes) VALUES (p_store_id, made, chunk_size);
    IF p_data IS NOT NULL THEN
        PERFORM pgstore.blob_write(p_store_id, made, chunk_size, 0, p_data);
    END IF;
    RETURN made;
END
$function$;

CREATE FUNCTION pgstore.blob_fork(p_store_id bigint, p_blob_id bigint, p_chunks bigint) RETURNS bigint
LANGUAGE plpgsql VOLATILE AS $function$
DECLARE
    made CONSTANT bigint := nextval('pgstore.blob_id_seq');
BEGIN
    INSERT INTO pgstore.blob (store_id, id, chunk_size_bytes)
    SELECT b.store_id, made, b.chunk_size_bytes
      FROM pgstore.blob b
     WHERE b.store_id = p_store_id
       AND b.id = p_blob_id;
    INSERT INTO pgstore.extent (store_id, blob_id, position, chunk_id, is_owned)
    SELECT e.store_id, made, e.position, e.chunk_id, false
      FROM pgstore.extent e
     WHERE e.store_id = p_store_id
       AND e.blob_id = p_blob_id
       AND e.position < p_chunks;
    INSERT INTO pgstore.blob_left (store_id, blob_id) VALUES (p_store_id, p_blob_id) ON CONFLICT (store_id, blob_id) DO UPDATE SET left_at = greatest(excluded.left_at, blob_left.left_at);
    RETURN made;
END
$function$;

CREATE FUNCTION pgstore.file_write(p_store_id bigint, p_ino bigint, p_offset bigint, p_data bytea, p_is_alone boolean, p_is_relaxed boolean) RETURNS bigint
LANGUAGE plpgsql VOLATILE AS $function$
DECLARE
    is_alone boolean := p_is_alone OR p_offset IS NULL;
    there    record;
    blob     record;
    start    bigint;
    stop     bigint;
    now_ns   CONSTANT bigint := (extract(epoch FROM clock_timestamp()) * 1000000000)::bigint;
BEGIN
    IF p_is_relaxed THEN
        PERFORM set_config('synchronous_commit', 'off', true);
    END IF;
    IF NOT is_alone THEN
        SELECT b.is_shared IS DISTINCT FROM false
          INTO is_alone
          FROM pgstore.inode i
          LEFT JOIN LATERAL (
               SELECT n.is_shared
                 FROM pgstore.blob n
                WHERE n.store_id = p_store_id
                  AND n.id = i.blob_id
                LIMIT 1) b ON true
         WHERE i.store_id = p_store_id
           AND i.ino = p_ino
           AND i.version_to = 9223372036854775807;
    END IF;
    IF is_alone THEN
        SELECT i.blob_id, i.size_bytes, i.inline_data
          INTO there
          FROM pgstore.inode i
         WHERE i.store_id = p_store_id
           AND i.ino = p_ino
           AND i.version_to = 9223372036854775807
           FOR UPDATE;
    ELSE
        SELECT i.blob_id, i.size_bytes, NULL::bytea AS inline_data
          INTO there
          FROM pgstore.inode i
         WHERE i.store_id = p_store_id
           AND i.ino = p_ino
           AND i.version_to = 9223372036854775807
           FOR KEY SHARE;
    END IF;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    start := coalesce(p_offset, there.size_bytes);
    stop := start + octet_length(p_data);

    IF there.blob_id IS NULL AND is_alone AND stop <= 65536 THEN
        UPDATE pgstore.inode
           SET inline_data = pgstore.bytes_overlaid(coalesce(there.inline_data, ''), start::integer, p_data),
               size_bytes = greatest(size_bytes, stop),
               mtime_ns = now_ns,
               ctime_ns = now_ns
         WHERE store_id = p_store_id
           AND ino = p_ino
           AND version_to = 9223372036854775807
        RETURNING size_bytes INTO stop;
        RETURN stop;
    END IF;
    IF there.blob_id IS NULL AND is_alone THEN
        there.blob_id := pgstore.blob_create(p_store_id, there.inline_data);
    END IF;
    SELECT b.chunk_size_bytes, b.is_shared
      INTO blob
      FROM pgstore.blob b
     WHERE b.store_id = p_store_id
       AND b.id = there.blob_id
       FOR SHARE;
    IF blob.is_shared AND is_alone THEN
        there.blob_id := pgstore.blob_fork(p_store_id, there.blob_id, 2147483648);
    ELSIF blob.is_shared IS DISTINCT FROM false THEN
        RAISE EXCEPTION 'the contents of file % were moved by another transaction', p_ino USING ERRCODE = 'serialization_failure';
    END IF;
    PERFORM pgstore.blob_write(p_store_id, there.blob_id, blob.chunk_size_bytes, start, p_data);
    UPDATE pgstore.inode
       SET blob_id = there.blob_id,
           inline_data = NULL,
           size_bytes = greatest(size_bytes, stop),
           mtime_ns = now_ns,
           ctime_ns = now_ns
     WHERE store_id = p_store_id
       AND ino = p_ino
       AND version_to = 9223372036854775807
    RETURNING size_bytes INTO stop;
    RETURN stop;
END
$function$;

CREATE FUNCTION pgstore.file_truncate(p_store_id bigint, p_ino bigint, p_size bigint, p_is_relaxed boolean) RETURNS boolean
LANGUAGE plpgsql VOLATILE AS $function$
DECLARE
    there  record;
    blob   record;
    last   record;
    chunks bigint;
    rest   integer;
    fresh  bigint;
    now_ns CONSTANT bigint := (extract(epoch FROM clock_timestamp()) * 1000000000)::bigint;
BEGIN
    IF p_is_relaxed THEN
        PERFORM set_config('synchronous_commit', 'off', true);
    END IF;
    SELECT i.blob_id, i.size_bytes, i.inline_data
      INTO there
      FROM pgstore.inode i
     WHERE i.store_id = p_store_id
       AND i.ino = p_ino
       AND i.version_to = 9223372036854775807
       FOR UPDATE;
    IF NOT FOUND THEN
        RETURN false;
    END IF;

    IF there.blob_id IS NULL AND p_size > 65536 THEN
        there.blob_id := pgstore.blob_create(p_store_id, there.inline_data);
        there.inline_data := NULL;
    ELSIF there.blob_id IS NULL AND p_size > there.size_bytes THEN
        there.inline_data := pgstore.bytes_overlaid(coalesce(there.inline_data, ''), p_size::integer, '');
    ELSIF there.blob_id IS NULL THEN
        there.inline_data := nullif(substring(there.inline_data FROM 1 FOR p_size::integer), '');
    ELSIF p_size = 0 THEN
        INSERT INTO pgstore.blob_left (store_id, blob_id) VALUES (p_store_id, there.blob_id) ON CONFLICT (store_id, blob_id) DO UPDATE SET left_at = greatest(excluded.left_at, blob_left.left_at);
        there.blob_id := NULL;
    ELSIF p_size < there.size_bytes THEN
        SELECT b.chunk_size_bytes, b.is_shared
          INTO blob
          FROM pgstore.blob b
         WHERE b.store_id = p_store_id
           AND b.id = there.blob_id
           FOR SHARE;
        chunks := (p_size + blob.chunk_size_bytes - 1) / blob.chunk_size_bytes;
        rest := p_size % blob.chunk_size_bytes;
        IF blob.is_shared THEN
            there.blob_id := pgstore.blob_fork(p_store_id, there.blob_id, chunks);
        ELSE
            WITH gone AS (
                 DELETE FROM pgstore.extent
                  WHERE store_id = p_store_id
                    AND blob_id = there.blob_id
                    AND position >= chunks
                 RETURNING chunk_id)
            INSERT INTO pgstore.chunk_left (store_id, chunk_id)
            SELECT p_store_id, g.chunk_id
              FROM gone g
            ON CONFLICT (store_id, chunk_id) DO UPDATE SET left_at = greatest(excluded.left_at, chunk_left.left_at);
        END IF;
        SELECT e.position, e.chunk_id, e.is_owned, k.data IS NULL AS is_object
          INTO last
          FROM pgstore.extent e
         CROSS JOIN LATERAL (
               SELECT n.data
                 FROM pgstore.chunk n
                WHERE n.store_id = p_store_id
                  AND n.id = e.chunk_id
                LIMIT 1) k
         WHERE e.store_id = p_store_id
           AND e.blob_id = there.blob_id
           AND e.position = chunks - 1
           AND rest > 0;
        IF last.is_owned AND last.is_object THEN
            PERFORM pgstore.chunk_truncate(p_store_id, last.chunk_id, rest);
        ELSIF last.is_owned THEN
            UPDATE pgstore.chunk
               SET data = substring(data FROM 1 FOR rest)
             WHERE store_id = p_store_id
               AND id = last.chunk_id
               AND octet_length(data) > rest;
        ELSIF last.chunk_id IS NOT NULL THEN
            fresh := nextval('pgstore.chunk_id_seq');
            IF last.is_object THEN
                PERFORM pgstore.chunk_copy(p_store_id, last.chunk_id, fresh, rest);
            ELSE
                INSERT INTO pgstore.chunk (store_id, id, data)
                SELECT p_store_id, fresh, substring(k.data FROM 1 FOR rest)
                  FROM pgstore.chunk k
                 WHERE k.store_id = p_store_id
                   AND k.id = last.chunk_id;
            END IF;
            PERFORM pgstore.chunk_replace(p_store_id, there.blob_id, last.position, last.chunk_id, fresh);
        END IF;
    END IF;
    UPDATE pgstore.inode
       SET blob_id = there.blob_id,
           inline_data = there.inline_data,
           size_bytes = p_size,
           mtime_ns = now_ns,
           ctime_ns = now_ns
     WHERE store_id = p_store_id
       AND ino = p_ino
       AND version_to = 9223372036854775807;
    RETURN true;
END
$function$;
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
DECLARE
    found_kind CONSTANT text := (SELECT s.kind FROM pgstore.store s WHERE s.id = p_store_id);
BEGIN
    IF found_kind NOT IN ('volume', 'nfs') IS NOT FALSE THEN
        RAISE EXCEPTION 'no Volume or NetworkFileSystem with id %', coalesce(p_store_id::text, 'NULL') USING ERRCODE = 'no_data_found';
    ELSIF p_version IS NULL THEN
        RETURN 9223372036854775806;
    ELSIF found_kind = 'volume' AND p_version >= 0
          AND (EXISTS (SELECT FROM pgstore.volume_version v WHERE v.store_id = p_store_id AND v.version = greatest(p_version, 1))
               OR p_version = 0 AND EXISTS (SELECT FROM pgstore.file_system f WHERE f.store_id = p_store_id AND f.head = 0)) THEN
        RETURN p_version;
    END IF;
    RAISE EXCEPTION 'the store with id % has no version %', p_store_id, p_version
          USING ERRCODE = 'undefined_object', HINT = 'Only Volumes have versions; which are kept stands in pgstore.volume_version.';
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
