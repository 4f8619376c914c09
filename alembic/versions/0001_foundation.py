"""The foundation: installation, sessions, stores, Dict, Queue, Volume and NetworkFileSystem.

Explained in sql/schema.sql, as of the newest revision; here stands what this one does, for good. The schema `pgstore`
itself is made by pgstore.migrate, before alembic puts its version table there.
"""

from __future__ import annotations

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    for area in (INSTALLATION, SESSIONS_AND_STORES, DICT, QUEUE, FILES, OVERVIEW):
        op.execute(area)


def downgrade() -> None:
    # Not a DROP: a step back keeps the data, and there is nowhere before this to keep them.
    raise NotImplementedError(
        "the first revision has no way back; DROP SCHEMA pgstore CASCADE deletes pgstore and its data"
    )


INSTALLATION = """
CREATE TABLE pgstore.installation (
    singleton            boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    id                   uuid NOT NULL DEFAULT gen_random_uuid(),
    oldest_code_revision text NOT NULL
);

INSERT INTO pgstore.installation (oldest_code_revision) VALUES ('0001')
"""

SESSIONS_AND_STORES = """
CREATE SEQUENCE pgstore.session_id_seq AS bigint;

CREATE TABLE pgstore.session (
    id           bigint PRIMARY KEY DEFAULT nextval('pgstore.session_id_seq'),
    host         text COLLATE "C" NOT NULL,
    pid          integer NOT NULL,
    started_at   timestamptz NOT NULL DEFAULT statement_timestamp(),
    heartbeat_at timestamptz NOT NULL DEFAULT statement_timestamp()
) WITH (fillfactor = 50);

CREATE SEQUENCE pgstore.store_id_seq AS bigint;

CREATE TABLE pgstore.store (
    id          bigint PRIMARY KEY DEFAULT nextval('pgstore.store_id_seq'),
    environment text COLLATE "C" NOT NULL,
    kind        text COLLATE "C" NOT NULL CHECK (kind IN ('dict', 'queue', 'volume', 'nfs')),
    name        text COLLATE "C" CHECK (name ~ '^[A-Za-z0-9._-]{1,64}$'),
    session_id  bigint,
    options     jsonb NOT NULL DEFAULT '{}',
    created_at  timestamptz NOT NULL DEFAULT statement_timestamp(),
    created_by  text NOT NULL DEFAULT session_user,
    CHECK ((name IS NULL) = (session_id IS NOT NULL))
);

CREATE UNIQUE INDEX store_name ON pgstore.store
    (environment, (CASE kind WHEN 'nfs' THEN 'volume' ELSE kind END), name) WHERE name IS NOT NULL
"""

DICT = """
CREATE SEQUENCE pgstore.dict_revision_seq AS bigint CACHE 1;

CREATE TABLE pgstore.dict_entry (
    store_id      bigint NOT NULL,
    key           text COLLATE "C" NOT NULL,
    codec         "char" NOT NULL,
    integer_value bigint,
    float_value   double precision,
    revision      bigint NOT NULL DEFAULT nextval('pgstore.dict_revision_seq'),
    updated_at    timestamptz NOT NULL DEFAULT statement_timestamp(),
    expires_at    timestamptz,
    key_pickle    bytea,
    value         bytea,
    json_value    jsonb,
    PRIMARY KEY (store_id, key),
    CHECK (octet_length(value) <= 268435456)
) WITH (fillfactor = 90, autovacuum_vacuum_scale_factor = 0.05);

ALTER TABLE pgstore.dict_entry ALTER COLUMN value SET STORAGE EXTERNAL;

CREATE VIEW pgstore.dict_items AS
SELECT s.environment,
       s.name,
       s.id AS store_id,
       e.key,
       CASE e.codec
           WHEN 'i' THEN to_jsonb(e.integer_value)
           WHEN 'f' THEN CASE WHEN e.float_value IN ('NaN', 'Infinity', '-Infinity')
                              THEN to_jsonb(e.float_value::text) ELSE to_jsonb(e.float_value) END
           WHEN 'j' THEN e.json_value
       END AS value,
       e.updated_at,
       e.expires_at,
       coalesce(octet_length(e.value), 8) AS size_bytes
  FROM pgstore.store s
  JOIN pgstore.dict_entry e ON e.store_id = s.id
 WHERE s.kind = 'dict'
   AND (e.expires_at IS NULL OR e.expires_at > statement_timestamp())
"""

QUEUE = """
CREATE SEQUENCE pgstore.queue_item_id_seq AS bigint CACHE 1;

CREATE TABLE pgstore.queue_item (
    store_id  bigint NOT NULL,
    id        bigint NOT NULL DEFAULT nextval('pgstore.queue_item_id_seq'),
    put_at    timestamptz NOT NULL DEFAULT statement_timestamp(),
    codec     "char" NOT NULL DEFAULT 'p',
    partition text COLLATE "C" NOT NULL DEFAULT '',
    payload   bytea NOT NULL,
    PRIMARY KEY (store_id, partition, id),
    CHECK (octet_length(payload) <= 268435456)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000, autovacuum_vacuum_cost_delay = 0,
        autovacuum_vacuum_insert_scale_factor = 0, autovacuum_vacuum_insert_threshold = 200000,
        autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 100000,
        toast_tuple_target = 8160,
        toast.autovacuum_vacuum_scale_factor = 0, toast.autovacuum_vacuum_threshold = 10000,
        toast.autovacuum_vacuum_cost_delay = 0);
ALTER TABLE pgstore.queue_item ALTER COLUMN payload SET STORAGE EXTERNAL
"""

FILES = r"""
CREATE TABLE pgstore.file_system (
    store_id         bigint PRIMARY KEY REFERENCES pgstore.store ON DELETE CASCADE,
    head             bigint NOT NULL DEFAULT 0,
    chunk_size_bytes integer NOT NULL DEFAULT 262144 CHECK (chunk_size_bytes > 0)
) WITH (fillfactor = 50);

CREATE TABLE pgstore.volume_version (
    store_id     bigint NOT NULL,
    version      bigint NOT NULL CHECK (version > 0),
    committed_at timestamptz NOT NULL DEFAULT statement_timestamp(),
    PRIMARY KEY (store_id, version)
);

CREATE SEQUENCE pgstore.blob_id_seq AS bigint;
CREATE SEQUENCE pgstore.chunk_id_seq AS bigint;
CREATE SEQUENCE pgstore.inode_seq AS bigint START 2;

CREATE TABLE pgstore.blob (
    store_id         bigint NOT NULL,
    id               bigint NOT NULL DEFAULT nextval('pgstore.blob_id_seq'),
    chunk_size_bytes integer NOT NULL CHECK (chunk_size_bytes > 0),
    PRIMARY KEY (store_id, id)
);

CREATE TABLE pgstore.chunk (
    store_id bigint NOT NULL,
    id       bigint NOT NULL DEFAULT nextval('pgstore.chunk_id_seq'),
    data     bytea NOT NULL,
    PRIMARY KEY (store_id, id)
) WITH (autovacuum_vacuum_scale_factor = 0.05, toast.autovacuum_vacuum_scale_factor = 0.05);
ALTER TABLE pgstore.chunk ALTER COLUMN data SET STORAGE EXTERNAL;

CREATE TABLE pgstore.extent (
    store_id bigint NOT NULL,
    blob_id  bigint NOT NULL,
    position integer NOT NULL CHECK (position >= 0),
    chunk_id bigint NOT NULL,
    PRIMARY KEY (store_id, blob_id, position),
    FOREIGN KEY (store_id, blob_id) REFERENCES pgstore.blob ON DELETE CASCADE,
    FOREIGN KEY (store_id, chunk_id) REFERENCES pgstore.chunk
);
CREATE INDEX extent_chunk ON pgstore.extent (store_id, chunk_id);

CREATE TABLE pgstore.inode (
    store_id     bigint NOT NULL,
    ino          bigint NOT NULL CHECK (ino > 0),
    version_from bigint NOT NULL DEFAULT 0,
    version_to   bigint NOT NULL DEFAULT 9223372036854775807,
    kind         "char" NOT NULL CHECK (kind IN ('f', 'd', 'l', 'p', 's')),
    mode         integer NOT NULL CHECK (mode BETWEEN 0 AND 4095),
    uid          integer NOT NULL DEFAULT 0,
    gid          integer NOT NULL DEFAULT 0,
    link_count   integer NOT NULL DEFAULT 1 CHECK (link_count >= 0),
    size_bytes   bigint NOT NULL DEFAULT 0 CHECK (size_bytes >= 0),
    mtime_ns     bigint NOT NULL,
    ctime_ns     bigint NOT NULL,
    blob_id      bigint,
    link_target  bytea,
    inline_data  bytea CHECK (octet_length(inline_data) <= 65536),
    PRIMARY KEY (store_id, ino, version_to),
    FOREIGN KEY (store_id, blob_id) REFERENCES pgstore.blob,
    CHECK (version_from < version_to),
    CHECK (blob_id IS NULL OR inline_data IS NULL)
) WITH (fillfactor = 90);

ALTER TABLE pgstore.inode ALTER COLUMN inline_data SET STORAGE EXTERNAL;
CREATE INDEX inode_blob ON pgstore.inode (store_id, blob_id) WHERE blob_id IS NOT NULL;

CREATE TABLE pgstore.dirent (
    store_id     bigint NOT NULL,
    parent       bigint NOT NULL,
    name         bytea NOT NULL CHECK (octet_length(name) BETWEEN 1 AND 255 AND position('\x2f'::bytea IN name) = 0
                                       AND position('\x00'::bytea IN name) = 0),
    version_from bigint NOT NULL DEFAULT 0,
    version_to   bigint NOT NULL DEFAULT 9223372036854775807,
    ino          bigint NOT NULL,
    kind         "char" NOT NULL,
    PRIMARY KEY (store_id, parent, name, version_to),
    CHECK (version_from < version_to)
)
"""

OVERVIEW = """
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
       SELECT count(*) AS entries, coalesce(sum(coalesce(octet_length(e.value), 8)), 0)::bigint AS size_bytes
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
 ) c
"""
