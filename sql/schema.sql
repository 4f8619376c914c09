-- The pgstore schema, complete: every table, column, unit and invariant. This file is the reference to read; databases are made
-- and upgraded by the revisions in alembic/versions, and a test shows that both give the same schema.
--
-- What holds everywhere
--   * Everything lives in the Postgres schema `pgstore`; statements qualify every name and never rely on search_path.
--   * A store (a Dict, Queue, Volume or NetworkFileSystem) is a row of `store`. Its id leads every key of every table that holds
--     data, so that tables can be distributed by store without a change. Ids come from sequences and are never used twice.
--   * `store` is small and cold: nothing that changes with use is written there.
--   * Data rows have no foreign key to `store`: a key check would write a lock into one hot row for every item put. Inserts read
--     the store row in the same statement instead, and deleting a store deletes its rows. A row that slips in between belongs to
--     a store that no name leads to; sql/checks/orphans.sql finds it.
--   * Intervals of versions are half open: a row is valid for versions v with version_from <= v < version_to.

CREATE SCHEMA pgstore;

-- One row: what this installation is, and who may still use it.
CREATE TABLE pgstore.installation (
    singleton            boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    id                   uuid NOT NULL DEFAULT gen_random_uuid(),  -- tells a client that a borrowed connection leads to its own database
    oldest_code_revision text NOT NULL                             -- code written for this revision or a later one works with this schema
);

-- One row: the revision of this schema. Written by alembic alone.
CREATE TABLE pgstore.schema_revision (
    version_num varchar(32) NOT NULL,
    CONSTRAINT schema_revision_pkc PRIMARY KEY (version_num)
);

-- ------------------------------------------------------------------------------------------------ sessions and stores

CREATE SEQUENCE pgstore.session_id_seq AS bigint;

-- A process that owns something which must not outlive it (ephemeral stores; later leases, pinned versions, mounts).
-- Heartbeats instead of advisory locks: they work behind poolers and are readable. Without one for ten minutes a session is dead.
CREATE TABLE pgstore.session (
    id           bigint PRIMARY KEY DEFAULT nextval('pgstore.session_id_seq'),
    host         text COLLATE "C" NOT NULL,
    pid          integer NOT NULL,                    -- of the client process, on host
    started_at   timestamptz NOT NULL DEFAULT statement_timestamp(),
    heartbeat_at timestamptz NOT NULL DEFAULT statement_timestamp()  -- by the server's clock, about once a minute
) WITH (fillfactor = 50);                             -- every heartbeat finds room on its page (HOT)

CREATE SEQUENCE pgstore.store_id_seq AS bigint;

CREATE TABLE pgstore.store (
    id          bigint PRIMARY KEY DEFAULT nextval('pgstore.store_id_seq'),
    environment text COLLATE "C" NOT NULL,
    kind        text COLLATE "C" NOT NULL CHECK (kind IN ('dict', 'queue', 'volume', 'nfs')),
    name        text COLLATE "C" CHECK (name ~ '^[A-Za-z0-9._-]{1,64}$'),  -- NULL: ephemeral
    session_id  bigint,                               -- owner of an ephemeral store; its death is the store's
    options     jsonb NOT NULL DEFAULT '{}',          -- settings fixed at creation, by kind
    created_at  timestamptz NOT NULL DEFAULT statement_timestamp(),
    created_by  text NOT NULL DEFAULT session_user,
    CHECK ((name IS NULL) = (session_id IS NOT NULL))
);

-- Volumes and NetworkFileSystems share one name space; so do no others.
CREATE UNIQUE INDEX store_name ON pgstore.store
    (environment, (CASE kind WHEN 'nfs' THEN 'volume' ELSE kind END), name) WHERE name IS NOT NULL;

-- ------------------------------------------------------------------------------------------------------------- Dict

CREATE SEQUENCE pgstore.dict_revision_seq AS bigint CACHE 1;

-- No index beside the primary key: one on a column that every put changes would end HOT updates.
CREATE TABLE pgstore.dict_entry (
    store_id      bigint NOT NULL,
    key           text COLLATE "C" NOT NULL,          -- a str as itself; anything else, escaped, after U+0001 (serializers/keys.py)
    codec         "char" NOT NULL,                    -- which column holds the value: p value (pickle), i integer_value, f float_value, j json_value
    integer_value bigint,                             -- codec i: readable and incrementable in SQL
    float_value   double precision,                   -- codec f
    revision      bigint NOT NULL DEFAULT nextval('pgstore.dict_revision_seq'),  -- unique per write, so compare-and-set has no ABA; not an order of commits
    updated_at    timestamptz NOT NULL DEFAULT statement_timestamp(),
    expires_at    timestamptz,                        -- NULL: never; a row past it does not exist for any reader
    key_pickle    bytea,                              -- the key itself, where its text cannot give it back
    value         bytea,
    json_value    jsonb,
    PRIMARY KEY (store_id, key),
    CHECK (octet_length(value) <= 268435456)          -- 256 MiB: pg_dump writes hex text and fails above about 500
) WITH (fillfactor = 90, autovacuum_vacuum_scale_factor = 0.05);
-- Not EXTENDED: compressing a 1 MB pickle with pglz costs eight times its writing.
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
       END AS value,                                  -- NULL for pickles
       e.updated_at,
       e.expires_at,
       coalesce(octet_length(e.value), 8) AS size_bytes
  FROM pgstore.store s
  JOIN pgstore.dict_entry e ON e.store_id = s.id
 WHERE s.kind = 'dict'
   AND (e.expires_at IS NULL OR e.expires_at > statement_timestamp());

-- ------------------------------------------------------------------------------------------------------------ Queue

CREATE SEQUENCE pgstore.queue_item_id_seq AS bigint CACHE 1;  -- CACHE 1: ids follow the order of the calls

-- Inserted and deleted, never updated. The primary key is the only index.
CREATE TABLE pgstore.queue_item (
    store_id  bigint NOT NULL,
    id        bigint NOT NULL DEFAULT nextval('pgstore.queue_item_id_seq'),  -- the order within a partition
    put_at    timestamptz NOT NULL DEFAULT statement_timestamp(),
    codec     "char" NOT NULL DEFAULT 'p',            -- p pickle, j JSON as UTF-8 text
    partition text COLLATE "C" NOT NULL DEFAULT '',   -- '' is the default partition
    payload   bytea NOT NULL,
    PRIMARY KEY (store_id, partition, id),
    CHECK (octet_length(payload) <= 268435456)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000, autovacuum_vacuum_cost_delay = 0,
        autovacuum_vacuum_insert_scale_factor = 0, autovacuum_vacuum_insert_threshold = 200000,
        autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 100000,
        toast_tuple_target = 8160,                    -- payloads to 8 kB stay in the row
        toast.autovacuum_vacuum_scale_factor = 0, toast.autovacuum_vacuum_threshold = 10000, toast.autovacuum_vacuum_cost_delay = 0);
ALTER TABLE pgstore.queue_item ALTER COLUMN payload SET STORAGE EXTERNAL;

-- ----------------------------------------------------------------------------------------- Volume, NetworkFileSystem

-- The state of a file system that changes with use, apart from `store`. The lock of this row is the order of commits.
CREATE TABLE pgstore.file_system (
    store_id         bigint PRIMARY KEY REFERENCES pgstore.store ON DELETE CASCADE,
    head             bigint NOT NULL DEFAULT 0,       -- the newest committed version; 0: nothing yet
    chunk_size_bytes integer NOT NULL DEFAULT 262144 CHECK (chunk_size_bytes > 0)  -- of new files up to 64 MiB
) WITH (fillfactor = 50);

CREATE TABLE pgstore.volume_version (
    store_id     bigint NOT NULL,
    version      bigint NOT NULL CHECK (version > 0),
    committed_at timestamptz NOT NULL DEFAULT statement_timestamp(),
    PRIMARY KEY (store_id, version)
);

CREATE SEQUENCE pgstore.blob_id_seq AS bigint;
CREATE SEQUENCE pgstore.chunk_id_seq AS bigint;
CREATE SEQUENCE pgstore.inode_seq AS bigint START 2;  -- 1 is the root directory of every file system, made with it

-- One state of the bytes of a file too large for its inode row. Shared by copies, never changed once an inode refers to it.
CREATE TABLE pgstore.blob (
    store_id         bigint NOT NULL,
    id               bigint NOT NULL DEFAULT nextval('pgstore.blob_id_seq'),
    chunk_size_bytes integer NOT NULL CHECK (chunk_size_bytes > 0),
    PRIMARY KEY (store_id, id)
);

CREATE TABLE pgstore.chunk (
    store_id bigint NOT NULL,
    id       bigint NOT NULL DEFAULT nextval('pgstore.chunk_id_seq'),
    data     bytea NOT NULL,                          -- at most chunk_size_bytes of its blob; the last of a file is shorter
    PRIMARY KEY (store_id, id)
) WITH (autovacuum_vacuum_scale_factor = 0.05, toast.autovacuum_vacuum_scale_factor = 0.05);
ALTER TABLE pgstore.chunk ALTER COLUMN data SET STORAGE EXTERNAL;

-- Which chunk holds bytes [position * chunk_size_bytes, + length) of a blob. No row: a hole, read as zeros.
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

-- A file, directory or link, apart from its names. version_to = 9223372036854775807: the state since the last commit that
-- touched it. version_from = 0: created with the file; before its first directory entry nothing leads to it.
CREATE TABLE pgstore.inode (
    store_id     bigint NOT NULL,
    ino          bigint NOT NULL CHECK (ino > 0),     -- never used twice: kernels cache it
    version_from bigint NOT NULL DEFAULT 0,
    version_to   bigint NOT NULL DEFAULT 9223372036854775807,
    kind         "char" NOT NULL CHECK (kind IN ('f', 'd', 'l', 'p', 's')),  -- file, directory, symbolic link, fifo, socket
    mode         integer NOT NULL CHECK (mode BETWEEN 0 AND 4095),           -- permission bits only; the type is `kind`
    uid          integer NOT NULL DEFAULT 0,
    gid          integer NOT NULL DEFAULT 0,
    link_count   integer NOT NULL DEFAULT 1 CHECK (link_count >= 0),         -- names that lead to a file; 1 for directories
    size_bytes   bigint NOT NULL DEFAULT 0 CHECK (size_bytes >= 0),          -- logical; may exceed the sum of the chunks (holes)
    mtime_ns     bigint NOT NULL,                     -- nanoseconds since 1970, of the contents
    ctime_ns     bigint NOT NULL,                     -- the same, of the inode
    blob_id      bigint,                              -- files above 64 KiB
    link_target  bytea,                               -- symbolic links: as given, not resolved
    inline_data  bytea CHECK (octet_length(inline_data) <= 65536),           -- the whole of a file up to 64 KiB; NULL with no blob_id: empty
    PRIMARY KEY (store_id, ino, version_to),
    FOREIGN KEY (store_id, blob_id) REFERENCES pgstore.blob,
    CHECK (version_from < version_to),
    CHECK (blob_id IS NULL OR inline_data IS NULL)
) WITH (fillfactor = 90);
-- Not in the heap page: listing and stat read the inodes of many files and the contents of none.
ALTER TABLE pgstore.inode ALTER COLUMN inline_data SET STORAGE EXTERNAL;
CREATE INDEX inode_blob ON pgstore.inode (store_id, blob_id) WHERE blob_id IS NOT NULL;

-- A name in a directory. Renaming a directory of a million files changes one row.
CREATE TABLE pgstore.dirent (
    store_id     bigint NOT NULL,
    parent       bigint NOT NULL,                     -- inode of the directory; 1 is the root
    name         bytea NOT NULL CHECK (octet_length(name) BETWEEN 1 AND 255 AND position('\x2f'::bytea IN name) = 0
                                       AND position('\x00'::bytea IN name) = 0),  -- POSIX bytes, in no encoding
    version_from bigint NOT NULL DEFAULT 0,
    version_to   bigint NOT NULL DEFAULT 9223372036854775807,
    ino          bigint NOT NULL,
    kind         "char" NOT NULL,                     -- of the inode, so that listing needs no join
    PRIMARY KEY (store_id, parent, name, version_to),
    CHECK (version_from < version_to)
);

-- ------------------------------------------------------------------------------------------------- all of it at a glance

-- One row a store: how much it holds. Counts rows, so it reads as much as it counts.
CREATE VIEW pgstore.store_sizes AS
SELECT s.environment,
       s.kind,
       s.name,                                        -- NULL: ephemeral
       s.id AS store_id,
       s.created_at,
       s.created_by,
       c.entries,                                     -- entries of a Dict, items of a Queue, files of a Volume or NetworkFileSystem
       c.size_bytes                                   -- bytes of their values, payloads or contents
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
 ) c;
