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
    for area in (TABLES,):
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
