"""Volume: a small file put in one call.

Runs before the new code does; that of 0005 does not use the function.
"""

from __future__ import annotations

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(FUNCTIONS)


def downgrade() -> None:
    op.execute("DROP FUNCTION pgstore.volume_put")


FUNCTIONS = r"""
CREATE FUNCTION pgstore.volume_put(p_store_id bigint, p_ino bigint, p_directory bytea[], p_name bytea, p_mode integer, p_mtime_ns bigint,
                                   p_now_ns bigint, p_data bytea) RETURNS boolean
LANGUAGE plpgsql VOLATILE AS $function$
DECLARE
    directory bigint := 1;
    step      bytea;
    there     record;
    version   bigint;
BEGIN
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
    INSERT INTO pgstore.volume_version (store_id, version) VALUES (p_store_id, version);
    IF EXISTS (SELECT FROM pgstore.inode i WHERE i.store_id = p_store_id AND i.ino = p_ino) THEN
        RETURN true;
    END IF;
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
