-- The pgstore schema, complete: every table, column, unit and invariant. This file is the reference to read; databases are made
-- and upgraded by the revisions in alembic/versions, and a test shows that both give the same schema. Revisions that were released
-- do not change any more: a change of the schema is one here, and a new revision.
--
-- What holds everywhere
--   * Everything lives in the Postgres schema `pgstore`; statements qualify every name and never rely on search_path.
--   * Every function has a search_path of its own, which costs a microsecond a call or less: else an operator or function in a schema
--     of the caller's that matches better than PostgreSQL's would run. For views this is settled when they are made. Statements of
--     the client need no path: they are exact in types, so that nothing matches better (pgstore/core/search_path.py). Functions
--     with a backslash in them say what it means.
--   * A store (a Dict, Queue, Volume, NetworkFileSystem or App) is a row of `store`. Its id leads every key of every table that holds
--     data, so that tables can be distributed by store without a change. Ids come from sequences and are never used twice.
--   * Ids of stores and sessions cannot come again, whatever becomes of their sequences: below the sequence's value, of 43 bits, are
--     20 bits by chance. A sequence goes back with a restore, with a failover that loses what the old server did last, and behind
--     logical replication, which leaves sequences out; and programs go on that know an id from before. With such an id they find
--     nothing, where by number alone they would find, and overwrite, what got the number since. Ids still grow.
--   * `store` is small and cold: nothing that changes with use is written there.
--   * Data rows have no foreign key to `store`: a key check would write a lock into one hot row for every item put. Inserts read
--     the store row in the same statement instead, and deleting a store deletes its rows. A row that slips in between belongs to
--     a store that no name leads to; sql/checks/orphans.sql finds it.
--   * Intervals of versions are half open: a row is valid for versions v with version_from <= v < version_to.

-- Run by hand it means what it means in a migration, which sets these by itself.
SET search_path = pg_catalog, pg_temp;
SET standard_conforming_strings = on;

-- These two are made before the first revision runs, by pgstore/migrate/run.py and by alembic.
CREATE SCHEMA pgstore;

-- One row: the revision of this schema. Written by alembic alone.
CREATE TABLE pgstore.schema_revision (
    version_num varchar(32) NOT NULL,
    CONSTRAINT schema_revision_pkc PRIMARY KEY (version_num)
);

-- ----------------------------------------------------------------------------------------------- types of columns

-- Checks of single columns are those of their types: a check of the table is parsed anew for each statement that writes a row of
-- it, whatever the statement changes. With nine of them that took a fifth of a small write. (RETURN QUERY wants such columns cast.)
CREATE DOMAIN pgstore.stored_value AS bytea CHECK (octet_length(VALUE) <= 268435456);  -- 256 MiB: pg_dump writes hex text and fails above about 500
CREATE DOMAIN pgstore.inline_contents AS bytea CHECK (octet_length(VALUE) <= 65536);
CREATE DOMAIN pgstore.entry_name AS bytea CHECK (octet_length(VALUE) BETWEEN 1 AND 255 AND position('\x2f'::bytea IN VALUE) = 0
                                                 AND position('\x00'::bytea IN VALUE) = 0
                                                 AND VALUE <> '\x2e'::bytea AND VALUE <> '\x2e2e'::bytea);  -- of POSIX: bytes, in no encoding, not `.` and `..`
CREATE DOMAIN pgstore.inode_kind AS "char" CHECK (VALUE IN ('f', 'd', 'l', 'p', 's', 'c', 'b'));  -- file, directory, symbolic link, fifo, socket, character and block device
CREATE DOMAIN pgstore.owner_number AS bigint CHECK (VALUE BETWEEN 0 AND 4294967294);  -- of a user or group; one more is POSIX' -1, "as it was"
CREATE DOMAIN pgstore.device_number AS bigint CHECK (VALUE BETWEEN 0 AND 4294967295);  -- as the kernel has it: minor & 0xff | major << 8 | (minor & ~0xff) << 12
CREATE DOMAIN pgstore.permission_bits AS integer CHECK (VALUE BETWEEN 0 AND 4095);
CREATE DOMAIN pgstore.chunk_storage AS "char" CHECK (VALUE IN ('r', 'l'));  -- rows, or PostgreSQL's large objects
CREATE DOMAIN pgstore.whole_number AS integer CHECK (VALUE >= 0);
CREATE DOMAIN pgstore.positive_number AS integer CHECK (VALUE > 0);
CREATE DOMAIN pgstore.byte_count AS bigint CHECK (VALUE >= 0);
CREATE DOMAIN pgstore.ordinal AS bigint CHECK (VALUE > 0);

-- One row: what this installation is, and who may still use it.
CREATE TABLE pgstore.installation (
    singleton            boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    id                   uuid NOT NULL DEFAULT gen_random_uuid(),  -- tells a client that a borrowed connection leads to its own database
    oldest_code_revision text NOT NULL                             -- code written for this revision or a later one works with this schema
);

-- ------------------------------------------------------------------------------------------------ sessions and stores

CREATE SEQUENCE pgstore.session_id_seq AS bigint MAXVALUE 8796093022207;  -- 43 bits: 20 more by chance stand below

-- A process that owns something which must not outlive it (ephemeral stores; later leases, pinned versions, mounts).
-- Heartbeats instead of advisory locks: they work behind poolers and are readable. Without one for ten minutes a session is dead.
CREATE TABLE pgstore.session (
    id           bigint PRIMARY KEY DEFAULT (nextval('pgstore.session_id_seq') << 20)
                                            | pg_catalog.floor(pg_catalog.random() * 1048576::double precision)::bigint,
    host         text COLLATE "C" NOT NULL,
    pid          integer NOT NULL,                    -- of the client process, on host
    started_at   timestamptz NOT NULL DEFAULT statement_timestamp(),
    heartbeat_at timestamptz NOT NULL DEFAULT statement_timestamp()  -- by the server's clock, about once a minute
) WITH (fillfactor = 50);                             -- every heartbeat finds room on its page (HOT)

CREATE SEQUENCE pgstore.store_id_seq AS bigint MAXVALUE 8796093022207;  -- 43 bits: 20 more by chance stand below

CREATE TABLE pgstore.store (
    id          bigint PRIMARY KEY DEFAULT (nextval('pgstore.store_id_seq') << 20)  -- cannot come again, and grows
                                           | pg_catalog.floor(pg_catalog.random() * 1048576::double precision)::bigint,
    environment text COLLATE "C" NOT NULL,
    kind        text COLLATE "C" NOT NULL CHECK (kind IN ('dict', 'queue', 'volume', 'nfs', 'app')),
    name        text COLLATE "C" CHECK (name ~ '^[A-Za-z0-9._-]{1,64}$'),  -- NULL: ephemeral
    session_id  bigint,                               -- owner of an ephemeral store; its death is the store's
    options     jsonb NOT NULL DEFAULT '{}',          -- settings fixed at creation; Dict: serializer, ttl (s), watch, json_projection; Queue: maxsize, max_attempts, backoff (s; null: none); Volume, NetworkFileSystem: storage, chunk_size (bytes), keep (versions)
    created_at  timestamptz NOT NULL DEFAULT statement_timestamp(),
    created_by  text NOT NULL DEFAULT session_user,
    CHECK ((name IS NULL) = (session_id IS NOT NULL))
);

-- Volumes and NetworkFileSystems share one name space; so do no others.
CREATE UNIQUE INDEX store_name ON pgstore.store
    (environment, (CASE kind WHEN 'nfs' THEN 'volume' ELSE kind END), name) WHERE name IS NOT NULL;

-- ---------------------------------------------------------------------------------------------------------- secrets

-- Environment variables of functions, as only holders of a key can read them; the key is never here (pgstore/secret/encryption.py).
CREATE TABLE pgstore.secret (
    environment  text COLLATE "C" NOT NULL,
    name         text COLLATE "C" NOT NULL CHECK (name ~ '^[A-Za-z0-9._-]{1,64}$'),
    token        bytea NOT NULL CHECK (substring(token FROM 1 FOR 5) = 'gAAAA'::bytea),  -- Fernet, of a JSON object {environment, name, values: {variable: value}}
    created_at   timestamptz NOT NULL DEFAULT statement_timestamp(),
    created_by   text NOT NULL DEFAULT session_user,
    updated_at   timestamptz NOT NULL DEFAULT statement_timestamp(),
    last_used_at timestamptz,                         -- by a function, to the minute; NULL: never
    PRIMARY KEY (environment, name)
);

-- ------------------------------------------------------------------------------------------------------------- Dict

-- Names under which there was ever a Dict of serializer json. What is read of such a Dict runs no code, and who may delete it could
-- make another of its name that holds pickles: readers that name no serializer then refuse to load those. Written with the Dict, by
-- whoever makes it; stays when that is deleted. Only the owner changes or deletes a row, to give the name free.
CREATE TABLE pgstore.dict_json_name (
    environment text COLLATE "C" NOT NULL,
    name        text COLLATE "C" NOT NULL,
    PRIMARY KEY (environment, name)
);

CREATE SEQUENCE pgstore.dict_revision_seq AS bigint CACHE 1;

-- No index beside the primary key: one on a column that every put changes would end HOT updates.
CREATE TABLE pgstore.dict_entry (
    store_id      bigint NOT NULL,
    key           text COLLATE "C" NOT NULL,          -- a str as itself; anything else, escaped, after U+0001 (serializers/keys.py)
    codec         "char" NOT NULL,                    -- p pickle in value, s after 16 bytes of signature; i, f, j: the column of that type
    integer_value bigint,                             -- codec i: readable and incrementable in SQL
    float_value   double precision,                   -- codec f
    revision      bigint NOT NULL DEFAULT nextval('pgstore.dict_revision_seq'),  -- unique per write, so compare-and-set has no ABA; not an order of commits
    updated_at    timestamptz NOT NULL DEFAULT statement_timestamp(),
    expires_at    timestamptz,                        -- NULL: never; a row past it does not exist for any reader
    key_pickle    bytea,                              -- the key itself, where its text cannot give it back
    value         pgstore.stored_value,
    json_value    jsonb,                              -- codec j; p, s: the value again, where it is JSON and json_projection is set
    PRIMARY KEY (store_id, key)
) WITH (fillfactor = 90, autovacuum_vacuum_scale_factor = 0.05);
-- Not EXTENDED: compressing a 1 MB pickle with pglz costs eight times its writing.
ALTER TABLE pgstore.dict_entry ALTER COLUMN value SET STORAGE EXTERNAL;

-- Where the changes of Dicts made with watch=True are logged, in the transaction that makes them. A reader keeps the last
-- (transaction_id, id) it has seen and advances to pg_snapshot_xmin(pg_current_snapshot()): below that every transaction has
-- ended, so nothing can appear behind it. Kept for an hour; who comes back later starts anew. Ids of transactions belong to
-- their cluster: after a restore elsewhere delete all rows.
CREATE SEQUENCE pgstore.dict_change_id_seq AS bigint CACHE 1;

CREATE TABLE pgstore.dict_change (
    store_id       bigint NOT NULL,
    transaction_id xid8 NOT NULL DEFAULT pg_current_xact_id(),
    id             bigint NOT NULL DEFAULT nextval('pgstore.dict_change_id_seq'),  -- the order within a transaction
    revision       bigint NOT NULL,                   -- of the entry put, or of the one removed; c: 0
    changed_at     timestamptz NOT NULL DEFAULT statement_timestamp(),
    kind           "char" NOT NULL CHECK (kind IN ('p', 'd', 'c')),  -- put, delete (not by expiry), clear (one row for all)
    key            text COLLATE "C" NOT NULL,         -- as in dict_entry; c: ''
    key_pickle     bytea,                             -- as in dict_entry
    PRIMARY KEY (store_id, transaction_id, id)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000, autovacuum_vacuum_cost_delay = 0,
        autovacuum_vacuum_insert_scale_factor = 0, autovacuum_vacuum_insert_threshold = 200000,
        autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 100000);

-- What has expired is found by this; entries that never expire are not in it, and puts of those stay HOT.
CREATE INDEX dict_entry_expiry ON pgstore.dict_entry (store_id, expires_at) WHERE expires_at IS NOT NULL;

CREATE SEQUENCE pgstore.dict_lock_token_seq AS bigint CACHE 1;  -- CACHE 1: tokens grow with every acquisition

-- Locks on keys of a Dict: leases. A row past expires_at is free for the next, who overwrites it with a token of its own.
CREATE TABLE pgstore.dict_lock (
    store_id    bigint NOT NULL,
    key         text COLLATE "C" NOT NULL,            -- as in dict_entry; there need be no entry
    token       bigint NOT NULL DEFAULT nextval('pgstore.dict_lock_token_seq'),  -- of this acquisition, for fencing
    acquired_at timestamptz NOT NULL DEFAULT statement_timestamp(),
    expires_at  timestamptz NOT NULL,                 -- renewed by the holder while it lives
    PRIMARY KEY (store_id, key)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

-- ------------------------------------------------------------------------------------------------------------ Queue

CREATE SEQUENCE pgstore.queue_item_id_seq AS bigint CACHE 1;  -- CACHE 1: ids follow the order of the calls

-- Inserted and deleted, never updated. The primary key is the only index.
CREATE TABLE pgstore.queue_item (
    store_id  bigint NOT NULL,
    id        bigint NOT NULL DEFAULT nextval('pgstore.queue_item_id_seq'),  -- the order within a partition
    put_at    timestamptz NOT NULL DEFAULT statement_timestamp(),
    codec     "char" NOT NULL DEFAULT 'p',            -- p pickle, s after 16 bytes of signature, j JSON as UTF-8 text
    partition text COLLATE "C" NOT NULL DEFAULT '',   -- '' is the default partition
    payload   pgstore.stored_value NOT NULL,
    attempts  smallint NOT NULL DEFAULT 0,            -- leases that came to nothing
    PRIMARY KEY (store_id, partition, id)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000, autovacuum_vacuum_cost_delay = 0,
        autovacuum_vacuum_insert_scale_factor = 0, autovacuum_vacuum_insert_threshold = 200000,
        autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 100000,
        toast_tuple_target = 8160,                    -- payloads to 8 kB stay in the row
        toast.autovacuum_vacuum_scale_factor = 0, toast.autovacuum_vacuum_threshold = 10000, toast.autovacuum_vacuum_cost_delay = 0);
ALTER TABLE pgstore.queue_item ALTER COLUMN payload SET STORAGE EXTERNAL;

-- What nobody can take now: leased items, delayed ones, and dead letters. Due ones move back to queue_item, at the end.
CREATE SEQUENCE pgstore.queue_deferred_id_seq AS bigint CACHE 1;

CREATE TABLE pgstore.queue_deferred (
    store_id  bigint NOT NULL,
    id        bigint NOT NULL DEFAULT nextval('pgstore.queue_deferred_id_seq'),  -- used once: the token of a lease
    put_at    timestamptz NOT NULL DEFAULT statement_timestamp(),
    due_at    timestamptz,                            -- when it moves back, by the server's clock; NULL: a dead letter
    attempts  smallint NOT NULL DEFAULT 0,            -- leases so far, this one included
    kind      "char" NOT NULL CHECK (kind IN ('l', 'd', 'x')),  -- leased, delayed, dead
    codec     "char" NOT NULL DEFAULT 'p',            -- as in queue_item
    partition text COLLATE "C" NOT NULL DEFAULT '',
    payload   pgstore.stored_value NOT NULL,
    reason    text,                                   -- of the last failure
    PRIMARY KEY (store_id, id),
    CHECK ((due_at IS NULL) = (kind = 'x'))
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000, autovacuum_vacuum_cost_delay = 0,
        autovacuum_vacuum_insert_scale_factor = 0, autovacuum_vacuum_insert_threshold = 200000,
        autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 100000,
        toast_tuple_target = 8160,
        toast.autovacuum_vacuum_scale_factor = 0, toast.autovacuum_vacuum_threshold = 10000, toast.autovacuum_vacuum_cost_delay = 0);
ALTER TABLE pgstore.queue_deferred ALTER COLUMN payload SET STORAGE EXTERNAL;
-- The first serves those who wait in a partition, the second whoever looks for what is due in all of them.
CREATE INDEX queue_deferred_due ON pgstore.queue_deferred (store_id, partition, due_at) WHERE due_at IS NOT NULL;
CREATE INDEX queue_deferred_next ON pgstore.queue_deferred (store_id, due_at) WHERE due_at IS NOT NULL;
-- Dead letters, apart from what may be many more.
CREATE INDEX queue_deferred_dead ON pgstore.queue_deferred (store_id, id) WHERE kind = 'x';

-- Idempotency keys of puts, so that one that is repeated puts once. Deleted in passing after 24 hours.
CREATE TABLE pgstore.queue_key (
    store_id bigint NOT NULL,
    key      text COLLATE "C" NOT NULL CHECK (octet_length(key) <= 1024),
    put_at   timestamptz NOT NULL DEFAULT statement_timestamp(),
    PRIMARY KEY (store_id, key)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000, autovacuum_vacuum_cost_delay = 0);
CREATE INDEX queue_key_age ON pgstore.queue_key (store_id, put_at);

-- Partitions that are emptied (partition_ttl) when the time has come: of what was put up to the last put that said so.
CREATE TABLE pgstore.queue_lapse (
    store_id  bigint NOT NULL,
    partition text COLLATE "C" NOT NULL,
    put_at    timestamptz NOT NULL DEFAULT statement_timestamp(),  -- of that put; what came later stays
    lapses_at timestamptz NOT NULL,
    PRIMARY KEY (store_id, partition)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
CREATE INDEX queue_lapse_next ON pgstore.queue_lapse (store_id, lapses_at);

-- The low watermark of a partition: every id below `low` is gone for good. Only ever raised; an old value does no harm.
CREATE TABLE pgstore.queue_head (
    store_id  bigint NOT NULL,
    partition text COLLATE "C" NOT NULL,
    low       bigint NOT NULL,
    PRIMARY KEY (store_id, partition)
) WITH (fillfactor = 20, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 200);

-- Whose turn it is to put, where puts wait for each other's commits: rows to be locked. Not advisory locks, which every login may
-- hold. kind: 'o' puts in order into the partition, 'r' puts into a Queue with a bound, whatever the partition, which is then ''.
-- Besides, a lock of the table says who inserts: see queue_inserting.
CREATE TABLE pgstore.queue_turn (
    store_id  bigint NOT NULL,
    kind      text COLLATE "C" NOT NULL CHECK (kind IN ('o', 'r')),
    partition text COLLATE "C" NOT NULL,
    PRIMARY KEY (store_id, kind, partition)
);

-- How many items have left a Queue, as its clients tell every ten seconds and when they are closed; what is there can be counted. A
-- few rows a Queue, so that clients seldom meet in one.
CREATE TABLE pgstore.queue_count (
    store_id bigint NOT NULL,
    slot     smallint NOT NULL,                       -- drawn by each client
    gets     bigint NOT NULL,                         -- taken for good, by get or by the end of a lease's work
    cleared  bigint NOT NULL,                         -- by clear and discard
    PRIMARY KEY (store_id, slot)
) WITH (fillfactor = 20, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 200);

-- -------------------------------------------------------------------------------------------------------------- App

CREATE SEQUENCE pgstore.call_id_seq AS bigint MAXVALUE 8796093022207;  -- 43 bits: 20 more by chance stand below

-- Spawned calls of an App's functions. Which of them wait, and who is at work on which until when, is said by Queue's tables: a call
-- is an item, its id as JSON, in a partition of its function's or run's. It has one as long as it has not ended. What was
-- spawned, what became of it, and its times are here.
CREATE TABLE pgstore.spawned_call (
    store_id   bigint NOT NULL,                       -- of the App
    id         bigint NOT NULL DEFAULT (nextval('pgstore.call_id_seq') << 20)  -- cannot come again: programs keep it
                                       | pg_catalog.floor(pg_catalog.random() * 1048576::double precision)::bigint,
    session_id bigint,                                -- of the run that alone takes it, and with which it ends; NULL: any worker's
    lease_id   bigint,                                -- in queue_deferred, of the last attempt; while that is leased the call runs
    spawned_at timestamptz NOT NULL DEFAULT statement_timestamp(),
    started_at timestamptz,                           -- the last attempt
    ended_at   timestamptz,
    attempts   integer NOT NULL DEFAULT 0,            -- begun so far
    state      "char" NOT NULL DEFAULT 'p' CHECK (state IN ('p', 'd', 'f', 'c', 'k')),  -- pending or running, done, failed, cancelled, and its worker killed at once
    codec      "char" NOT NULL DEFAULT 'p',           -- of arguments and outcome: p pickle, s after 16 bytes of signature
    function   text COLLATE "C" NOT NULL,             -- as the App has it: "f", "Class.method"
    arguments  pgstore.stored_value,                  -- NULL when it has ended
    outcome    pgstore.stored_value,                  -- what it returned, or raised; kept for seven days
    error      text,                                  -- of the last attempt that came to nothing
    PRIMARY KEY (store_id, id),
    CHECK ((ended_at IS NULL) = (state = 'p'))
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.05);
ALTER TABLE pgstore.spawned_call ALTER COLUMN arguments SET STORAGE EXTERNAL;
ALTER TABLE pgstore.spawned_call ALTER COLUMN outcome SET STORAGE EXTERNAL;
-- The first serves runs, which wait for their calls and end with them, the others collection, of outcomes and then of rows.
CREATE INDEX call_of_run ON pgstore.spawned_call (store_id, session_id) WHERE session_id IS NOT NULL AND ended_at IS NULL;
CREATE INDEX call_outcome ON pgstore.spawned_call (store_id, ended_at) WHERE outcome IS NOT NULL;
CREATE INDEX call_ended ON pgstore.spawned_call (store_id, ended_at) WHERE ended_at IS NOT NULL;

-- ----------------------------------------------------------------------------------------- Volume, NetworkFileSystem

-- The state of a file system that changes with use, apart from `store`. The lock of this row is the order of commits.
CREATE TABLE pgstore.file_system (
    store_id         bigint PRIMARY KEY REFERENCES pgstore.store ON DELETE CASCADE,
    head             bigint NOT NULL DEFAULT 0,       -- the newest committed version; 0: nothing yet
    chunk_size_bytes pgstore.positive_number NOT NULL DEFAULT 262144,  -- of new files; a Volume's above 64 MiB: at least 1 MiB
    storage          pgstore.chunk_storage NOT NULL DEFAULT 'r',
    versions_kept    pgstore.positive_number NOT NULL DEFAULT 10       -- Volume: the newest so many commits stay readable
) WITH (fillfactor = 50);

CREATE TABLE pgstore.volume_version (
    store_id     bigint NOT NULL,
    version      pgstore.ordinal NOT NULL,
    committed_at timestamptz NOT NULL DEFAULT statement_timestamp(),
    PRIMARY KEY (store_id, version)
);

-- Versions of a Volume that somebody reads, and that collection leaves alone whatever versions_kept says.
CREATE TABLE pgstore.version_pin (
    store_id   bigint NOT NULL,
    session_id bigint NOT NULL,                       -- counts while this session lives
    version    bigint NOT NULL CHECK (version >= 0),
    PRIMARY KEY (store_id, session_id, version)
);

-- Inodes of a NetworkFileSystem that somebody has open, and that collection leaves alone when their last name is gone.
CREATE TABLE pgstore.inode_pin (
    store_id   bigint NOT NULL,
    session_id bigint NOT NULL,                       -- counts while this session lives
    ino        bigint NOT NULL,
    PRIMARY KEY (store_id, session_id, ino)
);

-- Locks of whole files (flock(2)) that exclude programs at other mounts of a NetworkFileSystem. Taken by file_lock().
CREATE TABLE pgstore.file_lock (
    store_id     bigint NOT NULL,
    ino          bigint NOT NULL,
    holder       text NOT NULL,                       -- one open file of one mount; a name that nobody else has
    is_exclusive boolean NOT NULL,                    -- else others may have it as well
    expires_at   timestamptz NOT NULL,                -- renewed by the mount while it lives
    PRIMARY KEY (store_id, ino, holder)
);

CREATE SEQUENCE pgstore.blob_id_seq AS bigint;
CREATE SEQUENCE pgstore.chunk_id_seq AS bigint;
CREATE SEQUENCE pgstore.inode_seq AS bigint START 2;  -- 1 is the root directory of every file system, made with it

-- One state of the bytes of a file too large for its inode row. Shared by copies. In a Volume it never changes once an inode
-- refers to it; a NetworkFileSystem writes into it, as long as it is not shared.
CREATE TABLE pgstore.blob (
    store_id         bigint NOT NULL,
    id               bigint NOT NULL DEFAULT nextval('pgstore.blob_id_seq'),
    chunk_size_bytes pgstore.positive_number NOT NULL,
    session_id       bigint,                          -- of who still writes it, before an inode refers to it; NULL afterwards
    is_shared        boolean NOT NULL DEFAULT false,  -- copies may refer to it: never written again
    PRIMARY KEY (store_id, id)
);
CREATE INDEX blob_unfinished ON pgstore.blob (store_id, session_id) WHERE session_id IS NOT NULL;

CREATE TABLE pgstore.chunk (
    store_id bigint NOT NULL,
    id       bigint NOT NULL DEFAULT nextval('pgstore.chunk_id_seq'),
    data     bytea,                                   -- at most chunk_size_bytes of its blob, the rest of which reads as zeros
    large_object oid,                                 -- the same after a header (see chunk_header), in file systems stored so. Written by functions only, which give it out to nobody
    PRIMARY KEY (store_id, id),
    CHECK ((data IS NULL) <> (large_object IS NULL))
) WITH (autovacuum_vacuum_scale_factor = 0.05, toast.autovacuum_vacuum_scale_factor = 0.05);
ALTER TABLE pgstore.chunk ALTER COLUMN data SET STORAGE EXTERNAL;

-- Which chunk holds bytes [position * chunk_size_bytes, + length) of a blob. No row: a hole, read as zeros.
CREATE TABLE pgstore.extent (
    store_id bigint NOT NULL,
    blob_id  bigint NOT NULL,
    position pgstore.whole_number NOT NULL,
    chunk_id bigint NOT NULL,
    is_owned boolean NOT NULL DEFAULT true,           -- no other extent has the chunk, which may be written in place
    PRIMARY KEY (store_id, blob_id, position),
    FOREIGN KEY (store_id, blob_id) REFERENCES pgstore.blob ON DELETE CASCADE,
    FOREIGN KEY (store_id, chunk_id) REFERENCES pgstore.chunk
);
CREATE INDEX extent_chunk ON pgstore.extent (store_id, chunk_id);

-- A file, directory or link, apart from its names. version_to = 9223372036854775807: the state since the last commit that
-- touched it. version_from = 0: created with the file; before its first directory entry nothing leads to it.
CREATE TABLE pgstore.inode (
    store_id     bigint NOT NULL,
    ino          pgstore.ordinal NOT NULL,            -- never used twice: kernels cache it
    version_from bigint NOT NULL DEFAULT 0,
    version_to   bigint NOT NULL DEFAULT 9223372036854775807,
    kind         pgstore.inode_kind NOT NULL,
    mode         pgstore.permission_bits NOT NULL,    -- no more than these; the type is `kind`
    uid          pgstore.owner_number NOT NULL DEFAULT 0,
    gid          pgstore.owner_number NOT NULL DEFAULT 0,
    -- Names that lead to a file; 0: see inode_nameless. 1 for directories, which tells programs not to infer from it how many are in
    -- them (as on btrfs): a count of directories would make all who make one in a directory wait for each other, and merge.
    link_count   pgstore.whole_number NOT NULL DEFAULT 1,
    size_bytes   pgstore.byte_count NOT NULL DEFAULT 0,    -- logical; may exceed the sum of the chunks (holes)
    mtime_ns     bigint NOT NULL,                     -- nanoseconds since 1970, of the contents
    ctime_ns     bigint NOT NULL,                     -- the same, of the inode
    blob_id      bigint,                              -- files above 64 KiB
    link_target  bytea,                               -- symbolic links: as given, not resolved
    inline_data  pgstore.inline_contents,             -- the whole of a file up to 64 KiB; NULL with no blob_id: empty
    parent       bigint,                              -- directories: the one they are in; the root: itself
    -- Extended attributes: name -> value in base64; NULL: none. A name that is not UTF-8, or begins with \x, stands there as \x and its
    -- bytes in hex. Names together have at most 64 KiB, values too.
    xattrs       jsonb,
    atime_ns     bigint,                              -- the same of the last access, as programs have set it; reading leaves it alone. NULL: as mtime_ns
    device       pgstore.device_number,               -- device nodes: which device
    PRIMARY KEY (store_id, ino, version_to),
    FOREIGN KEY (store_id, blob_id) REFERENCES pgstore.blob,
    CHECK (version_from < version_to),
    CHECK (blob_id IS NULL OR inline_data IS NULL),
    CHECK ((kind = 'd') = (parent IS NOT NULL))
) WITH (fillfactor = 90);
-- Not in the heap page: listing and stat read the inodes of many files and the contents of none.
ALTER TABLE pgstore.inode ALTER COLUMN inline_data SET STORAGE EXTERNAL;
CREATE INDEX inode_blob ON pgstore.inode (store_id, blob_id) WHERE blob_id IS NOT NULL;
CREATE INDEX inode_closed ON pgstore.inode (store_id, version_to) WHERE version_to < 9223372036854775807;  -- for collection
-- In a NetworkFileSystem a file without a name goes when nobody has it open; its ctime is when it lost the last one. Not a column
-- of this index: writing changes it, and would then have to change all indexes.
CREATE INDEX inode_nameless ON pgstore.inode (store_id, ino) WHERE link_count = 0;

-- A name in a directory. Moving a directory of a million files changes this row, and what the inode knows of its parent.
CREATE TABLE pgstore.dirent (
    store_id     bigint NOT NULL,
    parent       bigint NOT NULL,                     -- inode of the directory; 1 is the root
    name         pgstore.entry_name NOT NULL,
    version_from bigint NOT NULL DEFAULT 0,
    version_to   bigint NOT NULL DEFAULT 9223372036854775807,
    ino          bigint NOT NULL,
    kind         "char" NOT NULL,                     -- of the inode, so that listing needs no join
    PRIMARY KEY (store_id, parent, name, version_to),
    CHECK (version_from < version_to)
);
CREATE INDEX dirent_closed ON pgstore.dirent (store_id, version_to) WHERE version_to < 9223372036854775807;  -- for collection

-- Candidates for collection: blobs that may have lost their last inode. Noted by whoever takes a file's blob away (a NetworkFileSystem
-- that writes to a shared blob gives the file a new one), and by collection for the inodes that it deletes. Noted with ON CONFLICT
-- DO UPDATE, which waits for a collection that has just seen the blob in use and is about to delete the note: DO NOTHING would take
-- that note for its own.
CREATE TABLE pgstore.blob_candidate (
    store_id bigint NOT NULL,
    blob_id  bigint NOT NULL,
    noted_at timestamptz NOT NULL DEFAULT statement_timestamp(),  -- the time of grace counts from here; -infinity: it is over
    PRIMARY KEY (store_id, blob_id)
);

-- The same of chunks that were replaced or cut off, or were those of a deleted blob. No time of grace: a chunk that no extent has
-- is read by nobody.
CREATE TABLE pgstore.chunk_candidate (
    store_id bigint NOT NULL,
    chunk_id bigint NOT NULL,
    noted_at timestamptz NOT NULL DEFAULT statement_timestamp(),  -- for people; and for ON CONFLICT to have something to set
    PRIMARY KEY (store_id, chunk_id)
);

-- Large objects of stores that were deleted, to be unlinked a few at a time, if they are ours: they begin with the header of the
-- chunk that they were.
CREATE TABLE pgstore.large_object_left (
    store_id     bigint NOT NULL,
    chunk_id     bigint NOT NULL,
    large_object oid NOT NULL,
    PRIMARY KEY (store_id, chunk_id)
);

-- ----------------------------------------------------------------------------------------------------- reading pickles

-- A float as JSON text: the shortest that gives it back, always with a fraction, by which readers tell it from an integer.
CREATE FUNCTION pgstore.float_json(number double precision) RETURNS text
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp SET extra_float_digits = 1 AS $function$
DECLARE
    digits text := number::text;
BEGIN
    IF number IN ('NaN', 'Infinity', '-Infinity') THEN
        RETURN '"' || digits || '"';
    ELSIF strpos(digits, 'e+') > 0 THEN
        digits := digits::numeric::text;  -- jsonb would write it so, but as an integer
    END IF;
    RETURN CASE WHEN strpos(digits, '.') > 0 OR strpos(digits, 'e') > 0 THEN digits ELSE digits || '.0' END;
END
$function$;

-- A str of a pickle as JSON text. UTF-8 is checked by an expression, because convert_from would raise and a handler for that is a
-- subtransaction, which parallel queries forbid before PostgreSQL 17. NULL: not the UTF-8 that Python writes.
CREATE FUNCTION pgstore.pickle_text(data bytea) RETURNS text
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp SET standard_conforming_strings = on AS $function$
DECLARE
    valid     CONSTANT text := '[^\\]|\\\\|\\3(?:[1-3][0-7]|0[2-7])\\2[0-7]{2}|\\340\\2[4-7][0-7]\\2[0-7]{2}'
                               '|\\3(?:[4][1-7]|5[0-467])\\2[0-7]{2}\\2[0-7]{2}|\\355\\2[0-3][0-7]\\2[0-7]{2}'
                               '|\\360\\2[2-7][0-7](?:\\2[0-7]{2}){2}|\\36[1-3](?:\\2[0-7]{2}){3}'
                               '|\\364\\2[01][0-7](?:\\2[0-7]{2}){2}';
    surrogate CONSTANT text := '\\355\\2[4-7][0-7]\\2[0-7]{2}';
    escaped   text := encode(data, 'escape');  -- \ooo for NUL and for what is not ASCII, \\ for a backslash
    half      text;
BEGIN
    IF escaped ~ ('^(?:' || valid || ')*$') THEN
        RETURN to_json(convert_from(data, 'UTF8'))::text;
    ELSIF escaped !~ ('^(?:' || valid || '|\\000|' || surrogate || ')*$') THEN
        RETURN NULL;
    END IF;
    -- What jsonb cannot hold: the text with escapes as in JSON. \134 is a backslash, so that every other begins three digits.
    escaped := replace(replace(escaped, '\\', '\134\134'), '\000', '\134u0000');
    IF escaped ~ surrogate THEN
        IF octet_length(data) > 262144 THEN
            RETURN NULL;
        END IF;
        FOR half IN SELECT DISTINCT m.part[1] FROM regexp_matches(escaped, surrogate, 'g') AS m (part) LOOP
            escaped := replace(escaped, half, '\134u' || to_hex(53248 + substr(half, 7, 1)::integer * 512
                                                                 + substr(half, 8, 1)::integer * 64
                                                                 + substr(half, 11, 1)::integer * 8
                                                                 + substr(half, 12, 1)::integer));
        END LOOP;
    END IF;
    RETURN '{ "$str": ' || to_json(convert_from(decode(escaped, 'escape'), 'UTF8'))::text || '}';
END
$function$;

-- An int of a pickle: two's complement, the lowest byte first.
CREATE FUNCTION pgstore.pickle_integer(data bytea) RETURNS numeric
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
    size     integer := octet_length(data);
    negative boolean;
    place    integer;
    number   numeric := 0;
    digit    bigint;
BEGIN
    IF size = 0 THEN
        RETURN 0;
    END IF;
    negative := get_byte(data, size - 1) >= 128;
    -- Digits of six bytes. Of a negative number the complement is taken, since numeric has exact sums and products, and no bits.
    FOR start IN REVERSE (size - 1) / 6 * 6 .. 0 BY 6 LOOP
        digit := 0;
        FOR place IN REVERSE least(start + 5, size - 1) .. start LOOP
            digit := (digit << 8) | CASE WHEN negative THEN 255 - get_byte(data, place) ELSE get_byte(data, place) END;
        END LOOP;
        number := number * 281474976710656 + digit;
    END LOOP;
    RETURN CASE WHEN negative THEN -number - 1 ELSE number END;
END
$function$;

-- Whether it is certain that the elements of an array, as decode_pickle writes them, are as many in a set. To Python 1, 1.0 and true
-- are one, NaN may differ from itself, and what is an array here may have been something that has no order.
CREATE FUNCTION pgstore.pickle_differ(elements jsonb) RETURNS boolean
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
    RETURN jsonb_array_length(elements) < 2
        OR (SELECT count(DISTINCT e.value) = count(*)
                   AND bool_and(CASE jsonb_typeof(e.value)
                                    WHEN 'string' THEN e.value #>> '{}' NOT IN ('NaN', 'Infinity', '-Infinity')
                                    WHEN 'object' THEN e.value ? '$bytes'
                                    WHEN 'array' THEN false
                                    ELSE true
                                END)
                   AND count(DISTINCT CASE jsonb_typeof(e.value)
                                          WHEN 'number' THEN least(scale((e.value)::numeric), 1)
                                          WHEN 'boolean' THEN 2
                                      END) < 2
              FROM jsonb_array_elements(elements) e (value));
END
$function$;

-- Whether it is certain that keys of a dict, as decode_pickle writes them, which are no str, are as many in Python: it is where all
-- are int, as they mostly are, or no two are written the same once 1.0 and true are written as 1. (A large float is not exactly the
-- number that it is written as.)
CREATE FUNCTION pgstore.pickle_keys_differ(keys text[]) RETURNS boolean
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp SET standard_conforming_strings = on AS $function$
BEGIN
    RETURN array_to_string(keys, ',') ~ '^[-0-9,]*$'
        OR (SELECT count(DISTINCT k.plain) = count(DISTINCT k.key)
                   AND NOT (bool_or(k.key ~ '^-?\d{17,}$') AND bool_or(k.key ~ '^-?\d{17,}\.0$'))
              FROM (SELECT u.key,
                           CASE WHEN u.key IN ('true', 'false') THEN u.key::boolean::integer::text
                                WHEN u.key ~ '^-?\d' THEN trim_scale(u.key::numeric)::text
                                ELSE regexp_replace(replace(replace(u.key, 'true', '1'), 'false', '0'), '\.0(?=[],])', '', 'g')
                           END AS plain
                      FROM unnest(keys) u (key)) k);
END
$function$;

-- What a well-known class makes of its arguments, both as decode_pickle writes them: JSON text. Others, and what Python might make
-- something else of: {"$class", "$args"}. So forms are known here, not classes: those that Python's own pickles have. is_call: the
-- class is called; else only its __new__, which of a container that can change leaves the arguments alone.
CREATE FUNCTION pgstore.pickle_object(class text, args text, is_call boolean, is_shallow boolean) RETURNS text
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp SET standard_conforming_strings = on AS $function$
DECLARE
    name   text := substr(class, 14, length(class) - 16);
    part   text[];
    parsed jsonb;
    bytes  bytea;
    zone   bigint;
    clock  integer;
    iso    text := '';
BEGIN
    CASE name
        WHEN 'collections.OrderedDict' THEN  -- its entries come after
            IF args = '[]' THEN
                RETURN '{}';
            END IF;
        WHEN 'collections.defaultdict' THEN  -- so do they here; the one argument is the maker of missing values
            IF args = '[]' OR is_call AND args ~ '^\[(null|\{ "\$class": "[^"\\]*" \})\]$' THEN
                RETURN '{}';
            ELSIF is_call AND is_shallow AND octet_length(args) <= 1048576 THEN
                IF jsonb_array_length(args::jsonb) = 1 THEN
                    RETURN '{}';
                END IF;
            END IF;
        WHEN 'collections.deque' THEN  -- of at most so many items: decode_pickle counts them
            IF args = '[]' OR is_call AND args ~ '^\[\[\](, \d{1,18})?\]$' THEN
                RETURN '[]';
            END IF;
        WHEN 'collections.Counter' THEN
            IF args = '[]' THEN
                RETURN '{}';
            ELSIF is_call AND left(args, 2) = '[{' AND left(args, 3) <> '[{ ' AND is_shallow AND octet_length(args) <= 1048576 THEN
                IF jsonb_array_length(args::jsonb) = 1 THEN
                    RETURN substr(args, 2, length(args) - 2);
                END IF;
            END IF;
        WHEN 'builtins.set', 'builtins.frozenset' THEN
            IF args = '[]' THEN
                RETURN '[]';
            ELSIF (is_call OR name = 'builtins.frozenset') AND left(args, 2) = '[['
                  AND is_shallow AND octet_length(args) <= 1048576 THEN
                parsed := args::jsonb;
                IF jsonb_array_length(parsed) = 1 AND pgstore.pickle_differ(parsed -> 0) THEN
                    RETURN substr(args, 2, length(args) - 2);
                END IF;
            END IF;
        WHEN 'builtins.bytearray', 'builtins.bytes', '_codecs.encode' THEN
            IF args = '[]' AND name <> '_codecs.encode' THEN
                RETURN '{ "$bytes": ""}';
            ELSIF (is_call OR name = 'builtins.bytes') AND is_shallow AND octet_length(args) <= 1048576 THEN
                parsed := args::jsonb;
                IF jsonb_array_length(parsed) = 1 AND args LIKE '[{ "$bytes": %' AND name <> '_codecs.encode' THEN
                    RETURN substr(args, 2, length(args) - 2);
                END IF;
                -- Protocol 2 has no bytes: they stand as a str of the same numbers.
                IF jsonb_array_length(parsed) = 2 AND parsed ->> 1 IN ('latin1', 'latin-1')
                   AND (left(args, 2) = '["' OR args LIKE '[{ "$str": %') THEN
                    IF jsonb_typeof(parsed -> 0) = 'string' THEN
                        iso := replace(parsed ->> 0, '\', '\\');
                    ELSE
                        iso := parsed -> 0 ->> '$str';
                    END IF;
                    IF iso ~ '^(\\\\|\\u0000|[^\\\u0100-\U0010FFFF])*$' THEN
                        SELECT coalesce(string_agg(CASE m.part[1]
                                                       WHEN '\\' THEN '\x5c'::bytea
                                                       WHEN '\u0000' THEN '\x00'::bytea
                                                       ELSE convert_to(m.part[1], 'LATIN1')
                                                   END, '' ORDER BY m.position), '')
                          INTO bytes
                          FROM regexp_matches(iso, '\\\\|\\u0000|[^\\]+', 'g') WITH ORDINALITY AS m (part, position);
                        RETURN '{ "$bytes": "' || translate(encode(bytes, 'base64'), E'\n', '') || '"}';
                    END IF;
                END IF;
            END IF;
        WHEN 'datetime.datetime', 'datetime.date', 'datetime.time' THEN
            part := regexp_match(args, '^\[\{ "\$bytes": "([^"]*)"\}(, \{ "\$class": "datetime\.timezone", "\$args": \[\{ '
                                        '"\$class": "datetime\.timedelta", "\$args": \[(-?\d{1,3}), (\d{1,6}), 0\]\}\]\})?\]$');
            IF part IS NOT NULL THEN
                bytes := decode(part[1], 'base64');
                clock := CASE WHEN name = 'datetime.datetime' THEN 4 ELSE 0 END;  -- where in bytes the time begins
                zone := coalesce(part[3]::bigint * 86400 + part[4]::bigint, 0);
                -- As isoformat() writes it. What that leaves out (the second of two equal hours) or refuses stays as it is.
                IF octet_length(bytes) = (CASE name WHEN 'datetime.datetime' THEN 10 WHEN 'datetime.date' THEN 4 ELSE 6 END)
                   AND abs(zone) < 86400 AND (part[2] IS NULL OR name <> 'datetime.date')
                   AND (name = 'datetime.date'
                        OR get_byte(bytes, clock + 3) * 65536 + get_byte(bytes, clock + 4) * 256 + get_byte(bytes, clock + 5) < 1000000) THEN
                    IF name <> 'datetime.time' THEN
                        IF get_byte(bytes, 0) * 256 + get_byte(bytes, 1) NOT BETWEEN 1 AND 9999
                           OR get_byte(bytes, 2) NOT BETWEEN 1 AND 12 OR get_byte(bytes, 3) NOT BETWEEN 1 AND 31 THEN
                            RETURN left(class, -2) || ', "$args": ' || args || '}';
                        END IF;
                        iso := lpad((get_byte(bytes, 0) * 256 + get_byte(bytes, 1))::text, 4, '0')
                               || '-' || lpad(get_byte(bytes, 2)::text, 2, '0') || '-' || lpad(get_byte(bytes, 3)::text, 2, '0')
                               || CASE name WHEN 'datetime.datetime' THEN 'T' ELSE '' END;
                    END IF;
                    IF name <> 'datetime.date' THEN
                        IF get_byte(bytes, clock) > 23 OR get_byte(bytes, clock + 1) > 59 OR get_byte(bytes, clock + 2) > 59 THEN
                            RETURN left(class, -2) || ', "$args": ' || args || '}';
                        END IF;
                        iso := iso || lpad(get_byte(bytes, clock)::text, 2, '0')
                               || ':' || lpad(get_byte(bytes, clock + 1)::text, 2, '0')
                               || ':' || lpad(get_byte(bytes, clock + 2)::text, 2, '0');
                        IF substr(bytes, clock + 4, 3) <> '\x000000'::bytea THEN
                            iso := iso || '.' || lpad((get_byte(bytes, clock + 3) * 65536 + get_byte(bytes, clock + 4) * 256
                                                       + get_byte(bytes, clock + 5))::text, 6, '0');
                        END IF;
                        IF part[2] IS NOT NULL THEN
                            iso := iso || CASE WHEN zone < 0 THEN '-' ELSE '+' END || lpad((abs(zone) / 3600)::text, 2, '0')
                                   || ':' || lpad((abs(zone) / 60 % 60)::text, 2, '0')
                                   || CASE WHEN zone % 60 <> 0 THEN ':' || lpad((abs(zone) % 60)::text, 2, '0') ELSE '' END;
                        END IF;
                    END IF;
                    RETURN left(class, -2) || ', "$value": "' || iso || '"}';
                END IF;
            END IF;
        ELSE
            NULL;
    END CASE;
    RETURN left(class, -2) || ', "$args": ' || args || '}';
END
$function$;

-- A pickle (protocols 2 to 5) as jsonb. It is read as data: nothing in it is run, and no class is needed.
--
--   None, bool, int, str, list, dict     as json.dumps() writes them; an int is exact, up to 8 kB of one
--   float                                the shortest text that gives it back, with a point or an exponent; "NaN", "Infinity", "-Infinity"
--   str with NUL or half a surrogate     {"$str": text}, in it \u0000, \ud800 and \\ stand for NUL, the surrogate and a backslash
--   bytes, bytearray                     {"$bytes": base64}
--   tuple, set, frozenset, deque         an array
--   OrderedDict, defaultdict, Counter    an object
--   dict with keys that are no str       the key's JSON as text; of two keys with one text the later wins, as in json.dumps()
--   date, time, datetime, UUID           {"$class": name, "$value": isoformat() or the UUID's text}; with a time zone other than
--                                        a fixed offset {"$class", "$args"}
--   a class or function                  {"$class": "module.name"}
--   an instance                          {"$class", "$args" of its constructor, "$state"}, "$kwargs", "$items" of a subclass of
--                                        list and "$entries" of one of dict where there are any; so is one of the classes above
--                                        that was made in another way than Python's own pickles make it
--
-- A dict of the user's with such keys looks the same; nothing is decided by them. NULL for what is not a pickle or is damaged, for
-- what contains itself, for keys of one dict that may be equal in Python though they are written differently, and beyond the bounds
-- that keep a look at a table bounded: 8 MiB, a million instructions, 1,000 levels, 64 MiB of intermediate text (some 200,000
-- numbers in one list), 256 KiB of a str with half surrogates. Never an error.
--
-- How: a stack of JSON texts. Texts are tagged in ways that JSON ignores: "{ " begins what is not a dict, " }" ends a class that
-- has not been called, and an instance whose items may grow. A container stands on the stack and in the memo: if it grows, both do;
-- if it was taken from the memo before it grew, it contains itself.
CREATE FUNCTION pgstore.decode_pickle(data bytea) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE COST 1000
SET search_path = pg_catalog, pg_temp SET standard_conforming_strings = on SET extra_float_digits = 1 AS $function$
DECLARE
    b      bytea;
    n      integer := octet_length(data);
    at     integer := 2;              -- the next byte
    op     integer;
    stack  text[] := '{}';
    top    integer := 0;
    marks  integer[] := '{}';         -- values of top
    mark   integer := 0;
    memo   text[] := '{}';            -- from 1
    memos  integer := 0;
    owner  integer[] := '{}';         -- by place on the stack: where in the memo the container there stands, 0 if nowhere
    taken  integer[] := '{}';         -- by place in the memo: 1 if the container there was taken from it
    odd    text[] := '{}';            -- keys of a dict that are no str
    room   bigint[] := '{}';          -- by place on the stack: of a deque that drops what is too much, how many more it takes
    bounded boolean := false;         -- there is such a deque
    nodes  integer := 0;              -- containers made; no value is nested deeper than that
    work   bigint := 0;               -- bytes copied
    parts  text[];
    s      text;
    e      text;
    m      integer;
    len    integer;
    x      bigint;
    f      double precision;
BEGIN
    IF n NOT BETWEEN 4 AND 8388608 THEN
        RETURN NULL;
    END IF;
    -- A copy, since a value stored apart would be fetched for every byte; with eight zeros, so that no operand lies outside.
    b := data || '\x0000000000000000'::bytea;
    IF get_byte(b, 0) <> 128 OR get_byte(b, 1) NOT BETWEEN 2 AND 5 THEN
        RETURN NULL;
    END IF;

    FOR step IN 1 .. 1000000 LOOP
        IF at >= n OR work > 67108864 THEN
            RETURN NULL;
        END IF;
        op := get_byte(b, at);
        at := at + 1;
        CASE op
            WHEN 140, 88, 141 THEN  -- SHORT_BINUNICODE, BINUNICODE, BINUNICODE8
                IF op = 140 THEN
                    len := get_byte(b, at);
                    at := at + 1;
                ELSE
                    IF get_byte(b, at + 3) <> 0 OR op = 141 AND substr(b, at + 5, 4) <> '\x00000000'::bytea THEN
                        RETURN NULL;
                    END IF;
                    len := get_byte(b, at) + get_byte(b, at + 1) * 256 + get_byte(b, at + 2) * 65536;
                    at := at + CASE op WHEN 88 THEN 4 ELSE 8 END;
                END IF;
                IF at + len >= n THEN
                    RETURN NULL;
                END IF;
                e := encode(substr(b, at + 1, len), 'escape');
                IF strpos(e, '\') = 0 THEN
                    e := to_json(e)::text;
                ELSE
                    e := pgstore.pickle_text(substr(b, at + 1, len));
                    IF e IS NULL THEN
                        RETURN NULL;
                    END IF;
                    IF strpos(e, '\\ud') > 0 THEN
                        work := work + len::bigint * 128;  -- one replacement for each surrogate
                    END IF;
                END IF;
                at := at + len;
                top := top + 1;
                stack[top] := e;
                IF get_byte(b, at) = 148 THEN  -- MEMOIZE
                    at := at + 1;
                    memos := memos + 1;
                    memo[memos] := e;
                END IF;
            WHEN 75 THEN  -- BININT1
                top := top + 1;
                stack[top] := get_byte(b, at)::text;
                at := at + 1;
            WHEN 104, 106 THEN  -- BINGET, LONG_BINGET
                IF op = 104 THEN
                    m := get_byte(b, at) + 1;
                    at := at + 1;
                ELSE
                    IF get_byte(b, at + 3) <> 0 THEN
                        RETURN NULL;
                    END IF;
                    m := get_byte(b, at) + get_byte(b, at + 1) * 256 + get_byte(b, at + 2) * 65536 + 1;
                    at := at + 4;
                END IF;
                s := memo[m];
                IF s IS NULL THEN
                    RETURN NULL;
                END IF;
                work := work + octet_length(s);
                top := top + 1;
                stack[top] := s;
                IF left(s, 1) IN ('{', '[') THEN
                    owner[top] := m;
                    taken[m] := 1;
                END IF;
            WHEN 40 THEN  -- MARK
                mark := mark + 1;
                marks[mark] := top;
            WHEN 125, 93, 143, 41 THEN  -- EMPTY_DICT, EMPTY_LIST, EMPTY_SET, EMPTY_TUPLE
                top := top + 1;
                stack[top] := CASE op WHEN 125 THEN '{}' ELSE '[]' END;
                nodes := nodes + 1;
                IF bounded THEN
                    room[top] := NULL;
                END IF;
                IF get_byte(b, at) = 148 THEN
                    at := at + 1;
                    memos := memos + 1;
                    memo[memos] := stack[top];
                    owner[top] := memos;
                ELSE
                    owner[top] := 0;
                END IF;
            WHEN 117, 115, 101, 97, 144 THEN  -- SETITEMS, SETITEM, APPENDS, APPEND, ADDITEMS
                IF op = 115 THEN
                    m := top - 2;
                ELSIF op = 97 THEN
                    m := top - 1;
                ELSIF mark = 0 THEN
                    RETURN NULL;
                ELSE
                    m := marks[mark];
                    mark := mark - 1;
                END IF;
                IF m < 1 OR m > top OR owner[m] IS NULL OR mark > 0 AND marks[mark] > m THEN
                    RETURN NULL;
                END IF;
                IF top > m THEN
                    s := stack[m];
                    parts := '{}';
                    IF op IN (117, 115) THEN
                        IF (top - m) % 2 = 1 THEN
                            RETURN NULL;
                        END IF;
                        len := 0;
                        FOR i IN m + 1 .. top BY 2 LOOP
                            e := stack[i];
                            len := len + 1;
                            IF left(e, 1) <> '"' THEN
                                odd := odd || e;
                                e := to_json(e)::text;
                            END IF;
                            parts[len] := e || ': ' || stack[i + 1];
                        END LOOP;
                        e := array_to_string(parts, ', ');
                        IF odd <> '{}' THEN
                            IF NOT pgstore.pickle_keys_differ(odd) THEN
                                RETURN NULL;
                            END IF;
                            odd := '{}';
                        END IF;
                        IF s = '{}' THEN
                            s := '{' || e || '}';
                        ELSIF left(s, 2) = '{"' THEN
                            s := left(s, -1) || (', ' || e || '}');
                        ELSIF left(s, 10) <> '{ "$class"' THEN
                            RETURN NULL;
                        ELSIF right(s, 3) = '} }' THEN
                            s := left(s, -3) || (', ' || e || '} }');
                        ELSE
                            s := left(s, -1) || ', "$entries": {' || e || '} }';
                            nodes := nodes + 1;
                        END IF;
                    ELSE
                        IF bounded AND room[m] IS NOT NULL THEN
                            room[m] := room[m] - (top - m);
                            IF room[m] < 0 THEN  -- Python has the last ones only
                                RETURN NULL;
                            END IF;
                        END IF;
                        FOR i IN m + 1 .. top LOOP
                            parts[i - m] := stack[i];
                        END LOOP;
                        e := array_to_string(parts, ', ');
                        IF s = '[]' THEN
                            s := '[' || e || ']';
                        ELSIF left(s, 1) = '[' THEN
                            s := left(s, -1) || (', ' || e || ']');
                        ELSIF left(s, 10) <> '{ "$class"' THEN
                            RETURN NULL;
                        ELSIF right(s, 3) = '] }' THEN
                            s := left(s, -3) || (', ' || e || '] }');
                        ELSE
                            s := left(s, -1) || ', "$items": [' || e || '] }';
                            nodes := nodes + 1;
                        END IF;
                    END IF;
                    top := m;
                    stack[m] := s;
                    work := work + octet_length(s) / 4;
                    IF owner[m] > 0 THEN
                        IF taken[owner[m]] = 1 THEN
                            RETURN NULL;
                        END IF;
                        memo[owner[m]] := s;
                    END IF;
                END IF;
            WHEN 148, 113, 114 THEN  -- MEMOIZE, BINPUT, LONG_BINPUT
                IF op = 148 THEN
                    m := memos + 1;
                ELSIF op = 113 THEN
                    m := get_byte(b, at) + 1;
                    at := at + 1;
                ELSE
                    IF get_byte(b, at + 3) <> 0 THEN
                        RETURN NULL;
                    END IF;
                    m := get_byte(b, at) + get_byte(b, at + 1) * 256 + get_byte(b, at + 2) * 65536 + 1;
                    at := at + 4;
                END IF;
                IF top = 0 OR m > step OR memo[m] IS NOT NULL THEN
                    RETURN NULL;
                END IF;
                s := stack[top];
                work := work + octet_length(s);
                memos := greatest(memos, m);
                memo[m] := s;
                IF left(s, 1) IN ('{', '[') THEN
                    IF owner[top] > 0 THEN
                        RETURN NULL;
                    END IF;
                    owner[top] := m;
                END IF;
            WHEN 71 THEN  -- BINFLOAT
                x := ('x' || encode(substr(b, at + 1, 8), 'hex'))::bit(64)::bigint;
                at := at + 8;
                m := ((x >> 52) & 2047)::integer;
                IF m = 2047 THEN
                    f := CASE WHEN (x & 4503599627370495) <> 0 THEN 'NaN' ELSE 'Infinity' END;
                ELSIF m = 0 THEN
                    f := (x & 4503599627370495)::double precision * '5e-324'::double precision;
                ELSE
                    -- In two steps, each exact and neither out of range.
                    m := m - 1075;
                    f := ((x & 4503599627370495) + 4503599627370496)::double precision
                         * power(2::double precision, (m / 2)::double precision)
                         * power(2::double precision, (m - m / 2)::double precision);
                END IF;
                top := top + 1;
                f := CASE WHEN x < 0 THEN -f ELSE f END;
                e := f::text;
                -- Most are written so already: a call for each number in a list takes as long as all the rest.
                stack[top] := CASE WHEN strpos(e, '.') > 0 AND strpos(e, 'e') = 0 THEN e ELSE pgstore.float_json(f) END;
            WHEN 77 THEN  -- BININT2
                top := top + 1;
                stack[top] := (get_byte(b, at) + get_byte(b, at + 1) * 256)::text;
                at := at + 2;
            WHEN 74 THEN  -- BININT
                top := top + 1;
                stack[top] := (get_byte(b, at) + get_byte(b, at + 1) * 256 + get_byte(b, at + 2) * 65536
                               + CASE WHEN get_byte(b, at + 3) < 128 THEN get_byte(b, at + 3)
                                      ELSE get_byte(b, at + 3) - 256 END * 16777216)::text;
                at := at + 4;
            WHEN 78, 136, 137 THEN  -- NONE, NEWTRUE, NEWFALSE
                top := top + 1;
                stack[top] := CASE op WHEN 78 THEN 'null' WHEN 136 THEN 'true' ELSE 'false' END;
            WHEN 46 THEN  -- STOP
                IF top <> 1 OR mark <> 0 THEN
                    RETURN NULL;
                END IF;
                s := stack[1];
                IF nodes > 1000 THEN
                    -- Deep enough to overflow the stack of whoever reads it? Brackets outside of strings, counted.
                    SELECT max(l.level)
                      INTO m
                      FROM (SELECT sum(CASE WHEN c.bracket IN ('[', '{') THEN 1 ELSE -1 END) OVER (ORDER BY c.position) AS level
                              FROM string_to_table(regexp_replace(s, '"(\\.|[^"\\])*"|[^]["{}]+', '', 'g'), NULL)
                                   WITH ORDINALITY AS c (bracket, position)) l;
                    IF m > 1000 THEN
                        RETURN NULL;
                    END IF;
                END IF;
                RETURN s::jsonb;
            WHEN 138, 139 THEN  -- LONG1, LONG4
                IF op = 138 THEN
                    len := get_byte(b, at);
                    at := at + 1;
                ELSE
                    IF get_byte(b, at + 2) <> 0 OR get_byte(b, at + 3) <> 0 THEN
                        RETURN NULL;
                    END IF;
                    len := get_byte(b, at) + get_byte(b, at + 1) * 256;
                    at := at + 4;
                END IF;
                IF at + len >= n OR len > 8192 THEN
                    RETURN NULL;
                END IF;
                top := top + 1;
                IF len BETWEEN 1 AND 8 THEN
                    x := CASE WHEN get_byte(b, at + len - 1) < 128 THEN 0 ELSE -1 END;
                    FOR i IN REVERSE at + len - 1 .. at LOOP
                        x := (x << 8) | get_byte(b, i);
                    END LOOP;
                    stack[top] := x::text;
                ELSE
                    stack[top] := pgstore.pickle_integer(substr(b, at + 1, len))::text;
                    work := work + len * (len / 16);  -- the time grows with the square
                END IF;
                at := at + len;
            WHEN 67, 66, 142, 150 THEN  -- SHORT_BINBYTES, BINBYTES, BINBYTES8, BYTEARRAY8
                IF op = 67 THEN
                    len := get_byte(b, at);
                    at := at + 1;
                ELSE
                    IF get_byte(b, at + 3) <> 0 OR op <> 66 AND substr(b, at + 5, 4) <> '\x00000000'::bytea THEN
                        RETURN NULL;
                    END IF;
                    len := get_byte(b, at) + get_byte(b, at + 1) * 256 + get_byte(b, at + 2) * 65536;
                    at := at + CASE op WHEN 66 THEN 4 ELSE 8 END;
                END IF;
                IF at + len >= n THEN
                    RETURN NULL;
                END IF;
                top := top + 1;
                stack[top] := '{ "$bytes": "' || translate(encode(substr(b, at + 1, len), 'base64'), E'\n', '') || '"}';
                owner[top] := 0;
                nodes := nodes + 1;
                at := at + len;
            WHEN 133, 134, 135, 116, 145 THEN  -- TUPLE1, TUPLE2, TUPLE3, TUPLE, FROZENSET
                IF op IN (116, 145) THEN
                    IF mark = 0 THEN
                        RETURN NULL;
                    END IF;
                    m := marks[mark];
                    mark := mark - 1;
                ELSE
                    m := top - (op - 132);
                END IF;
                IF m < 0 OR m > top OR mark > 0 AND marks[mark] > m THEN
                    RETURN NULL;
                END IF;
                parts := '{}';
                FOR i IN m + 1 .. top LOOP
                    parts[i - m] := stack[i];
                END LOOP;
                top := m + 1;
                s := '[' || array_to_string(parts, ', ') || ']';
                stack[top] := s;
                owner[top] := 0;
                nodes := nodes + 1;
                work := work + octet_length(s) / 4;
            WHEN 149 THEN  -- FRAME
                at := at + 8;
            WHEN 147, 99 THEN  -- STACK_GLOBAL, GLOBAL
                IF op = 147 THEN
                    IF top < 2 THEN
                        RETURN NULL;
                    END IF;
                    top := top - 1;
                    s := stack[top];
                    e := stack[top + 1];
                ELSE
                    top := top + 1;
                    len := position('\x0a'::bytea IN substr(b, at + 1, 512));
                    IF len = 0 THEN
                        RETURN NULL;
                    END IF;
                    s := pgstore.pickle_text(substr(b, at + 1, len - 1));
                    s := CASE s WHEN '"__builtin__"' THEN '"builtins"' ELSE s END;
                    at := at + len;
                    len := position('\x0a'::bytea IN substr(b, at + 1, 512));
                    IF len = 0 THEN
                        RETURN NULL;
                    END IF;
                    e := pgstore.pickle_text(substr(b, at + 1, len - 1));
                    at := at + len;
                END IF;
                IF left(s, 1) = '"' AND left(e, 1) = '"' THEN
                    stack[top] := '{ "$class": ' || left(s, -1) || '.' || substr(e, 2) || ' }';
                    owner[top] := 0;
                    nodes := nodes + 1;
                ELSE
                    RETURN NULL;
                END IF;
            WHEN 82, 129, 146 THEN  -- REDUCE, NEWOBJ, NEWOBJ_EX
                top := top - CASE op WHEN 146 THEN 2 ELSE 1 END;
                IF top < 1 THEN
                    RETURN NULL;
                END IF;
                s := stack[top];
                e := stack[top + 1];
                IF left(s, 10) <> '{ "$class"' OR left(e, 1) <> '[' THEN
                    RETURN NULL;
                END IF;
                IF op = 146 THEN
                    e := e || ', "$kwargs": ' || stack[top + 2];
                END IF;
                IF right(s, 3) <> '" }' THEN  -- what is called is what a call returned
                    s := '{ "$class": ' || s || ', "$args": ' || e || '}';
                ELSIF op <> 146 AND s ~ '^\{ "\$class": "(datetime|collections|builtins|_codecs)\.' THEN
                    IF op = 82 AND s = '{ "$class": "collections.deque" }' THEN
                        x := substring(e FROM '^\[\[\], (\d{1,18})\]$');
                        IF x IS NOT NULL THEN
                            bounded := true;
                        END IF;
                    ELSE
                        x := NULL;
                    END IF;
                    s := pgstore.pickle_object(s, e, op = 82, nodes <= 1000);
                    IF bounded THEN
                        room[top] := x;
                    END IF;
                ELSE
                    s := left(s, -2) || ', "$args": ' || e || '}';
                    IF bounded THEN
                        room[top] := NULL;
                    END IF;
                END IF;
                stack[top] := s;
                owner[top] := 0;
                nodes := nodes + 1;
                work := work + octet_length(s) / 4;
            WHEN 98 THEN  -- BUILD
                top := top - 1;
                IF top < 1 OR owner[top] IS NULL THEN
                    RETURN NULL;
                END IF;
                s := stack[top];
                e := stack[top + 1];
                IF left(s, 10) = '{ "$class"' THEN
                    IF s = '{ "$class": "uuid.UUID", "$args": []}' AND e ~ '^\{"int": \d{1,39}\}$'
                       AND substr(e, 9, length(e) - 9)::numeric < 340282366920938463463374607431768211456 THEN
                        e := substr(e, 9, length(e) - 9);
                        s := '{ "$class": "uuid.UUID", "$value": "'
                             || (lpad(to_hex(div(e::numeric, 79228162514264337593543950336)::bigint), 8, '0')
                                 || lpad(to_hex((div(e::numeric, 18446744073709551616) % 4294967296)::bigint), 8, '0')
                                 || lpad(to_hex((div(e::numeric, 4294967296) % 4294967296)::bigint), 8, '0')
                                 || lpad(to_hex((e::numeric % 4294967296)::bigint), 8, '0'))::uuid
                             || '"}';
                    ELSE
                        s := left(s, -1) || ', "$state": ' || e || '}';
                    END IF;
                ELSIF left(s, 1) NOT IN ('{', '[') THEN
                    RETURN NULL;
                END IF;
                stack[top] := s;
                nodes := nodes + 1;
                work := work + octet_length(s) / 4;
                IF owner[top] > 0 THEN
                    IF taken[owner[top]] = 1 THEN
                        RETURN NULL;
                    END IF;
                    memo[owner[top]] := s;
                END IF;
            WHEN 48, 49 THEN  -- POP, POP_MARK
                IF op = 49 OR mark > 0 AND marks[mark] = top THEN
                    IF mark = 0 OR marks[mark] > top THEN
                        RETURN NULL;
                    END IF;
                    top := marks[mark];
                    mark := mark - 1;
                ELSIF top = 0 THEN
                    RETURN NULL;
                ELSE
                    top := top - 1;
                END IF;
            ELSE  -- of protocols 0 and 1, persistent ids, extension codes, buffers kept elsewhere
                RETURN NULL;
        END CASE;
    END LOOP;
    RETURN NULL;
END
$function$;

-- ------------------------------------------------------------------------------------------------------- Dict, for SQL

-- The stored text of a str key, as serializers/keys.py writes it: itself, but escaped if it begins with U+0001, and cut before a
-- hash if it has more than 1,024 bytes.
CREATE FUNCTION pgstore.dict_key(key text) RETURNS text
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp SET standard_conforming_strings = on AS $function$
DECLARE
    stored text COLLATE "C" := key;  -- whatever the caller's collation: some ignore U+0001
    data   bytea;
    cut    integer := 1024;
BEGIN
    IF left(stored, 1) = E'\u0001' THEN
        stored := E'\u0001s' || replace(replace(replace(stored, '\', '\\'), ',', '\,'), E'\u0001', '\1');
    END IF;
    IF octet_length(stored) <= cut THEN
        RETURN stored;
    END IF;
    data := convert_to(stored, 'UTF8');
    WHILE get_byte(data, cut) & 192 = 128 LOOP  -- not within a character
        cut := cut - 1;
    END LOOP;
    RETURN convert_from(substr(data, 1, cut), 'UTF8') || E'\u0001' || encode(sha256(data), 'hex');
END
$function$;

-- Every live entry with its value as jsonb. To index values, make the Dict with json_projection=True and, for its id only,
--     CREATE INDEX CONCURRENTLY ON pgstore.dict_entry USING gin (json_value jsonb_path_ops) WHERE store_id = 7;
-- then query dict_entry itself. Updates of these entries are then no longer HOT.
CREATE VIEW pgstore.dict_items AS
SELECT s.environment,
       s.name,                                        -- NULL: ephemeral
       s.id AS store_id,
       e.key,
       CASE e.codec
           WHEN 'i' THEN to_jsonb(e.integer_value)
           WHEN 'f' THEN pgstore.float_json(e.float_value)::jsonb
           WHEN 'j' THEN e.json_value
           WHEN 'p' THEN coalesce(e.json_value, pgstore.decode_pickle(e.value))
           WHEN 's' THEN coalesce(e.json_value, pgstore.decode_pickle(substr(e.value, 17)))
       END AS value,                                  -- NULL: decode_pickle says when
       e.codec,
       e.revision,
       e.updated_at,
       e.expires_at,
       coalesce(octet_length(e.value), 0) + coalesce(pg_column_size(e.json_value), 0)
           + CASE WHEN e.codec IN ('i', 'f') THEN 8 ELSE 0 END AS size_bytes  -- of the value, JSON as compressed
  FROM pgstore.store s
  JOIN pgstore.dict_entry e ON e.store_id = s.id
 WHERE s.kind = 'dict'
   AND (e.expires_at IS NULL OR e.expires_at > statement_timestamp());

-- Keys are those that are str in Python. Each function comes by id and by name; a Dict that is not there is error P0002.

CREATE FUNCTION pgstore.dict_id(p_name text, p_environment text DEFAULT 'main') RETURNS bigint
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
    found_id bigint := (SELECT s.id
                          FROM pgstore.store s
                         WHERE s.environment = p_environment COLLATE "C"
                           AND (CASE s.kind WHEN 'nfs' THEN 'volume' ELSE s.kind END) = 'dict'
                           AND s.name = p_name COLLATE "C");
BEGIN
    IF found_id IS NULL THEN
        RAISE EXCEPTION 'no Dict % in environment %', quote_nullable(p_name), quote_nullable(p_environment)
              USING ERRCODE = 'no_data_found', HINT = 'Dicts are made by pgstore.Dict.from_name(name, create_if_missing=True).';
    END IF;
    RETURN found_id;
END
$function$;

-- NULL for a key that is not there or has expired; the JSON value null is 'null'.
CREATE FUNCTION pgstore.dict_get(p_store_id bigint, p_key text) RETURNS jsonb
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
    stored CONSTANT text COLLATE "C" := pgstore.dict_key(p_key);
    result jsonb;
BEGIN
    SELECT i.value
      INTO result
      FROM pgstore.dict_items i
     WHERE i.store_id = p_store_id
       AND i.key = stored;
    IF NOT FOUND AND NOT EXISTS (SELECT FROM pgstore.store s WHERE s.id = p_store_id AND s.kind = 'dict') THEN
        RAISE EXCEPTION 'no Dict with id %', coalesce(p_store_id::text, 'NULL') USING ERRCODE = 'no_data_found';
    END IF;
    RETURN result;
END
$function$;

CREATE FUNCTION pgstore.dict_get(p_name text, p_key text, p_environment text DEFAULT 'main') RETURNS jsonb
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
    RETURN pgstore.dict_get(pgstore.dict_id(p_name, p_environment), p_key);
END
$function$;

-- Numbers become what Python calls them: 1 an int, which increment() takes, 1.0 and 0.1 a float; what neither holds stays JSON.
CREATE FUNCTION pgstore.dict_put(p_store_id bigint, p_key text, p_value jsonb) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp SET standard_conforming_strings = on AS $function$
DECLARE
    stored   CONSTANT text COLLATE "C" := pgstore.dict_key(p_key);
    encoded  CONSTANT bytea := convert_to(p_key, 'UTF8');
    pickled  bytea;
    number   numeric;
    integral bigint;
    fraction double precision;
    codec    "char" := 'j';
    settings jsonb;
    changed  bigint;
BEGIN
    IF p_key IS NULL OR p_value IS NULL THEN
        RAISE EXCEPTION 'key and value of dict_put must not be NULL'
              USING ERRCODE = 'null_value_not_allowed', HINT = $hint$The JSON value null is 'null'::jsonb.$hint$;
    END IF;
    IF pg_column_size(p_value) > 33554432 AND octet_length(p_value::text) > 268435456 THEN  -- an escape has six bytes for one
        RAISE EXCEPTION 'the value of key % has more than 256 MiB', quote_literal(left(p_key, 100))
              USING ERRCODE = 'program_limit_exceeded', HINT = 'Store it as a file in a Volume.';
    END IF;
    IF jsonb_typeof(p_value) = 'number' THEN
        number := p_value::numeric;
        IF scale(number) = 0 AND number BETWEEN -9223372036854775808 AND 9223372036854775807 THEN
            codec := 'i';
            integral := number::bigint;
        ELSIF scale(number) > 0 AND abs(number) < 1e308 AND (number = 0 OR abs(number) > 1e-307) THEN
            IF pgstore.float_json(number::double precision)::numeric = number THEN
                codec := 'f';
                fraction := number::double precision;
            END IF;
        END IF;
    END IF;
    -- Where the text is not the key itself, Python finds the key in a pickle: protocol 4, BINUNICODE with its length, STOP.
    IF stored <> p_key COLLATE "C" THEN
        pickled := '\x800458'::bytea
                   || decode(lpad(to_hex(octet_length(encoded) & 255), 2, '0')
                             || lpad(to_hex((octet_length(encoded) >> 8) & 255), 2, '0')
                             || lpad(to_hex((octet_length(encoded) >> 16) & 255), 2, '0')
                             || lpad(to_hex((octet_length(encoded) >> 24) & 255), 2, '0'), 'hex')
                   || encoded || '\x2e'::bytea;
    END IF;

    SELECT s.options
      INTO settings
      FROM pgstore.store s
     WHERE s.id = p_store_id
       AND s.kind = 'dict';
    INSERT INTO pgstore.dict_entry AS e (store_id, key, key_pickle, codec, integer_value, float_value, json_value, expires_at)
    SELECT s.id, stored, pickled, codec, integral, fraction, CASE codec WHEN 'j' THEN p_value END,
           statement_timestamp() + make_interval(secs => (settings ->> 'ttl')::double precision)
      FROM pgstore.store s
     WHERE s.id = p_store_id
       AND s.kind = 'dict'
    ON CONFLICT (store_id, key) DO UPDATE
       SET codec = excluded.codec,
           value = NULL,
           integer_value = excluded.integer_value,
           float_value = excluded.float_value,
           json_value = excluded.json_value,
           revision = excluded.revision,
           updated_at = excluded.updated_at,
           expires_at = excluded.expires_at
    RETURNING e.revision INTO changed;
    IF changed IS NULL THEN
        RAISE EXCEPTION 'no Dict with id %', coalesce(p_store_id::text, 'NULL') USING ERRCODE = 'no_data_found';
    END IF;
    IF settings @> '{"watch": true}' THEN
        INSERT INTO pgstore.dict_change (store_id, kind, key, revision, key_pickle)
        VALUES (p_store_id, 'p', stored, changed, pickled);
        PERFORM pgstore.notify_if_awaited(p_store_id, 'watch');
    END IF;
END
$function$;

CREATE FUNCTION pgstore.dict_put(p_name text, p_key text, p_value jsonb, p_environment text DEFAULT 'main') RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
    PERFORM pgstore.dict_put(pgstore.dict_id(p_name, p_environment), p_key, p_value);
END
$function$;

-- Whether there was such a key.
CREATE FUNCTION pgstore.dict_delete(p_store_id bigint, p_key text) RETURNS boolean
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
    stored   CONSTANT text COLLATE "C" := pgstore.dict_key(p_key);
    settings jsonb;
    entry    record;
BEGIN
    SELECT s.options
      INTO settings
      FROM pgstore.store s
     WHERE s.id = p_store_id
       AND s.kind = 'dict';
    IF NOT FOUND THEN
        RAISE EXCEPTION 'no Dict with id %', coalesce(p_store_id::text, 'NULL') USING ERRCODE = 'no_data_found';
    END IF;
    DELETE FROM pgstore.dict_entry e
     WHERE e.store_id = p_store_id
       AND e.key = stored
    RETURNING e.key, e.revision, e.expires_at, e.key_pickle INTO entry;
    IF NOT FOUND OR entry.expires_at <= statement_timestamp() THEN
        RETURN false;
    END IF;
    IF settings @> '{"watch": true}' THEN
        INSERT INTO pgstore.dict_change (store_id, kind, key, revision, key_pickle)
        VALUES (p_store_id, 'd', entry.key, entry.revision, entry.key_pickle);
        PERFORM pgstore.notify_if_awaited(p_store_id, 'watch');
    END IF;
    RETURN true;
END
$function$;

CREATE FUNCTION pgstore.dict_delete(p_name text, p_key text, p_environment text DEFAULT 'main') RETURNS boolean
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
    RETURN pgstore.dict_delete(pgstore.dict_id(p_name, p_environment), p_key);
END
$function$;

-- ---------------------------------------------------------------------------------------------------- waking who waits

-- As zlib.crc32: 0 to 4294967295.
CREATE FUNCTION pgstore.crc32(data bytea) RETURNS bigint
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
    shifted CONSTANT bigint[] := '{0,498536548,997073096,651767980,1994146192,1802195444,1303535960,1342533948,
                                   3988292384,4027552580,3604390888,3412177804,2607071920,2262029012,2685067896,3183342108}';
    crc     bigint := 4294967295;
BEGIN
    FOR i IN 0 .. octet_length(data) - 1 LOOP  -- by four bits
        crc := crc # get_byte(data, i)::bigint;
        crc := (crc >> 4) # shifted[(crc & 15)::integer + 1];
        crc := (crc >> 4) # shifted[(crc & 15)::integer + 1];
    END LOOP;
    RETURN crc # 4294967295;
END
$function$;

-- Who waits for a topic of a store holds advisory locks of two integers with the session that listens (pgstore/client/waiters.py). The
-- second integer, the key of the topic, is crc32 of `<store id>/<topic>`; the first says what the lock is. Who holds it, and how:
--   1885827956 (0x70677374)  each waiter, shared: somebody waits.
--   1885827959 (0x70677377)  each waiter that one is enough for, shared. Only waiters try it exclusively: whoever gets it was alone.
--   1885828096 (0x70677400)  and on, plus the slot, 0 to 63: the same, exclusive: the slot is taken. Who has it listens to the channel
--                            `pgstore_<(topic # slot) & 255>`. The slot is no part of the key: else it could be that of another topic,
--                            whose waiter would be told instead, and nobody would take what there is.
--   1885827951 (0x7067736f)  each waiter that hears of everything, shared. With key 0: those who wait for very many topics.
--   1885827949 (0x7067736d)  a taker in full swing, exclusive: nobody has to be told, for it looks again soon.
-- All are tried, and given back at once by those who only ask: kept until the commit, they would make writers take each other for
-- waiters. A slot is tried shared, so that two who ask at the same time do not find each other.

-- Tell as many of those who wait for a topic as there is something for; with 0 the first, of something to come. Nobody, if a taker in
-- full swing looks anyway, unless p_always. Called where somebody waits (`SOMEONE_WAITS`, in
-- pgstore/client/waking.py). A notification is `<slot> <for how many> <0 or 1: who takes something tells one more> <topic>`; the slot
-- is `-` for those who hear of everything, and `?` if none was found taken.
CREATE FUNCTION pgstore.wake(p_key integer, p_topic text, p_count bigint, p_chained boolean DEFAULT false,
                             p_always boolean DEFAULT false) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $function$
-- Nothing is PERFORMed, which would run a query; an expression takes a fraction of that.
DECLARE
    start    CONSTANT integer := floor(random() * 64)::integer;
    slot     integer := start;
    lower    integer;
    is_taken boolean;
    found    integer[] := '{}';
    is_told  boolean;
BEGIN
    is_told := CASE WHEN pg_try_advisory_lock(1885827951, p_key) THEN NOT pg_advisory_unlock(1885827951, p_key) ELSE true END
            OR CASE WHEN pg_try_advisory_lock(1885827951, 0) THEN NOT pg_advisory_unlock(1885827951, 0) ELSE true END;
    IF is_told AND pg_notify('pgstore', concat_ws(' ', '-', greatest(p_count, 1), p_chained::integer, p_topic)) IS NULL THEN
        NULL;
    END IF;
    IF NOT p_always AND p_count > 0 THEN
        is_taken := CASE WHEN pg_try_advisory_lock_shared(1885827949, p_key)
                         THEN NOT pg_advisory_unlock_shared(1885827949, p_key) ELSE true END;
        IF is_taken THEN
            RETURN;
        END IF;
    END IF;
    IF p_count = 1 THEN
        -- Low slots are taken first, so halving finds a taken one in few steps.
        LOOP
            is_taken := CASE WHEN pg_try_advisory_lock_shared(1885828096 + slot, p_key)
                             THEN NOT pg_advisory_unlock_shared(1885828096 + slot, p_key) ELSE true END;
            IF is_taken THEN
                found := ARRAY[slot];
            END IF;
            EXIT WHEN is_taken OR slot = 0;
            slot := slot >> 1;
        END LOOP;
        -- Or another below it, for everybody to have a turn.
        IF is_taken AND slot < start THEN
            lower := floor(random() * (slot + 1))::integer;
            IF lower < slot THEN
                is_taken := CASE WHEN pg_try_advisory_lock_shared(1885828096 + lower, p_key)
                                 THEN NOT pg_advisory_unlock_shared(1885828096 + lower, p_key) ELSE true END;
                IF is_taken THEN
                    found := ARRAY[lower];
                END IF;
            END IF;
        END IF;
    END IF;
    IF found = '{}' THEN
        FOR i IN 0 .. 63 LOOP
            slot := CASE p_count WHEN 0 THEN i ELSE (start + i) & 63 END;
            is_taken := CASE WHEN pg_try_advisory_lock_shared(1885828096 + slot, p_key)
                             THEN NOT pg_advisory_unlock_shared(1885828096 + slot, p_key) ELSE true END;
            IF is_taken THEN
                found := found || slot;
                EXIT WHEN cardinality(found) >= p_count;
            END IF;
        END LOOP;
    END IF;
    FOREACH slot IN ARRAY found LOOP
        IF pg_notify('pgstore_' || ((p_key # slot) & 255),
                     concat_ws(' ', slot, greatest((p_count - 1) / cardinality(found) + 1, 1),
                               (p_chained OR p_count > cardinality(found))::integer, p_topic)) IS NULL THEN
            NULL;
        END IF;
    END LOOP;
    -- Whoever waits has no slot, or none yet.
    IF found = '{}' AND NOT is_told
       AND pg_notify('pgstore', concat_ws(' ', '?', greatest(p_count, 1), p_chained::integer, p_topic)) IS NULL THEN
        NULL;
    END IF;
END
$function$;

-- The key of a topic.
CREATE FUNCTION pgstore.topic_key(p_topic text) RETURNS integer
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
    crc CONSTANT bigint := pgstore.crc32(convert_to(p_topic, 'UTF8'));
BEGIN
    RETURN CASE WHEN crc < 2147483648 THEN crc ELSE crc - 4294967296 END;
END
$function$;

-- Tell those who wait for something that there is, if anybody does: as many as there is something for. An unconditional NOTIFY would
-- make all commits of the database queue up.
CREATE FUNCTION pgstore.wake_if_awaited(p_store_id bigint, p_name text, p_count bigint) RETURNS void
LANGUAGE plpgsql VOLATILE STRICT SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
    topic CONSTANT text    := p_store_id::text || '/' || p_name;
    key   CONSTANT integer := pgstore.topic_key(topic);
BEGIN
    IF pg_try_advisory_lock(1885827956, key) THEN
        PERFORM pg_advisory_unlock(1885827956, key);
    ELSE
        PERFORM pgstore.wake(key, topic, p_count);
    END IF;
END
$function$;

-- Tell all who wait for a topic that everybody hears of, if anybody does.
CREATE FUNCTION pgstore.notify_if_awaited(p_store_id bigint, p_name text) RETURNS void
LANGUAGE plpgsql VOLATILE STRICT SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
    topic CONSTANT text    := p_store_id::text || '/' || p_name;
    key   CONSTANT integer := pgstore.topic_key(topic);
BEGIN
    IF pg_try_advisory_lock(1885827956, key) THEN
        PERFORM pg_advisory_unlock(1885827956, key);
    ELSE
        PERFORM pg_notify('pgstore', '- 1 0 ' || topic);
    END IF;
END
$function$;

-- Begin to wait for a topic. p_how: 's', with a slot; 'e', to hear of everything; 't', with the first lock alone. `slot` is NULL without
-- one, also if none is free: then the waiter hears what is told where nobody has one. `is_registered` is false if somebody keeps the
-- locks from us: then nothing is heard. `is_alone`: nobody with a slot was there before, who would answer for those whose commit is
-- under way and who saw nobody.
CREATE FUNCTION pgstore.wait_begin(p_key integer, p_slot integer, p_how text,
                                   OUT slot integer, OUT is_registered boolean, OUT is_alone boolean)
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
    second   CONSTANT integer := CASE p_how WHEN 's' THEN 1885827959 ELSE 1885827951 END;
    has_both boolean := p_how = 't';
BEGIN
    is_registered := false;
    is_alone := true;
    FOR attempt IN 1 .. 20 LOOP  -- whoever asks holds the exclusive lock for a moment
        is_registered := pg_try_advisory_lock_shared(1885827956, p_key);
        EXIT WHEN is_registered;
    END LOOP;
    IF NOT is_registered OR has_both THEN
        RETURN;
    END IF;
    IF p_how = 's' THEN
        -- After the first lock, and given up before it: so whoever saw nobody comes before the first that finds itself alone here.
        is_alone := pg_try_advisory_lock(second, p_key);
        IF is_alone THEN
            PERFORM pg_advisory_unlock(second, p_key);
        END IF;
    END IF;
    FOR attempt IN 1 .. 20 LOOP
        has_both := pg_try_advisory_lock_shared(second, p_key);
        EXIT WHEN has_both;
    END LOOP;
    IF NOT has_both THEN
        is_registered := false;
        is_alone := true;
        PERFORM pg_advisory_unlock_shared(1885827956, p_key);
    ELSIF p_how = 's' THEN
        IF pg_try_advisory_lock(1885828096 + p_slot, p_key) THEN
            slot := p_slot;
        ELSE
            FOR i IN 0 .. 63 LOOP
                IF pg_try_advisory_lock(1885828096 + i, p_key) THEN
                    slot := i;
                    EXIT;
                END IF;
            END LOOP;
        END IF;
        IF slot IS NULL THEN
            PERFORM pg_advisory_unlock_shared(second, p_key);
        END IF;
    END IF;
END
$function$;

-- End what wait_begin began: p_slot is what that returned, p_how what it was told.
CREATE FUNCTION pgstore.wait_end(p_key integer, p_slot integer, p_how text) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
    IF p_slot IS NOT NULL THEN
        PERFORM pg_advisory_unlock(1885828096 + p_slot, p_key);
        PERFORM pg_advisory_unlock_shared(1885827959, p_key);
    ELSIF p_how = 'e' THEN
        PERFORM pg_advisory_unlock_shared(1885827951, p_key);
    END IF;
    PERFORM pg_advisory_unlock_shared(1885827956, p_key);
END
$function$;

-- Let nobody be told of a topic, since we take whatever comes, and look again soon. False: somebody does so already. If nothing is
-- heard of us for a second the server ends the session.
CREATE FUNCTION pgstore.mask_begin(p_key integer) RETURNS boolean
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
    IF NOT pg_try_advisory_lock(1885827949, p_key) THEN
        RETURN false;
    END IF;
    PERFORM set_config('idle_session_timeout', '1000', false);
    RETURN true;
END
$function$;

-- End what mask_begin began. p_last: there is no other topic of this session.
CREATE FUNCTION pgstore.mask_end(p_key integer, p_last boolean) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
    PERFORM pg_advisory_unlock(1885827949, p_key);
    IF p_last THEN
        RESET idle_session_timeout;
    END IF;
END
$function$;

-- How many slots of a topic are taken, unless p_all is false, and how many of them below one.
CREATE FUNCTION pgstore.waiters(p_key integer, p_slot integer, p_all boolean, OUT waiting integer, OUT before integer)
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
    slots CONSTANT integer := coalesce(p_slot, CASE WHEN p_all THEN 64 ELSE 0 END);
    taken integer := 0;
BEGIN
    before := 0;
    FOR i IN 0 .. CASE WHEN p_all THEN 64 ELSE slots END - 1 LOOP
        IF pg_try_advisory_lock_shared(1885828096 + i, p_key) THEN
            PERFORM pg_advisory_unlock_shared(1885828096 + i, p_key);
        ELSE
            taken := taken + 1;
            before := before + (i < slots)::integer;
        END IF;
    END LOOP;
    IF p_all THEN
        waiting := taken;
    END IF;
END
$function$;

-- ----------------------------------------------------------------------------------------------------------- Queue, for SQL

-- Every item that can be taken, with its value as jsonb; also what is due and has not been moved back yet, which a get does.
CREATE VIEW pgstore.queue_items AS
SELECT s.environment,
       s.name,                                        -- NULL: ephemeral
       s.id AS store_id,
       q.partition,
       q.id,                                          -- NULL: due, but not moved back yet
       q.put_at,
       q.attempts,
       CASE q.codec
           WHEN 'j' THEN convert_from(q.payload, 'UTF8')::jsonb
           WHEN 'p' THEN pgstore.decode_pickle(q.payload)
           WHEN 's' THEN pgstore.decode_pickle(substr(q.payload, 17))
       END AS item,                                   -- NULL: decode_pickle says when
       octet_length(q.payload) AS size_bytes
  FROM pgstore.store s
  JOIN (SELECT i.store_id, i.partition, i.id, i.put_at, i.attempts, i.codec, i.payload, false AS was_leased
          FROM pgstore.queue_item i
         UNION ALL
        SELECT e.store_id, e.partition, NULL, e.put_at, e.attempts, e.codec, e.payload, e.kind = 'l'
          FROM pgstore.queue_deferred e
         WHERE e.due_at <= statement_timestamp()) AS q ON q.store_id = s.id
 WHERE s.kind = 'queue'
   AND (q.was_leased AND q.attempts >= (s.options ->> 'max_attempts')::integer) IS NOT TRUE
   AND NOT EXISTS (SELECT
                     FROM pgstore.queue_lapse l
                    WHERE l.store_id = s.id
                      AND l.partition = q.partition
                      AND l.lapses_at <= statement_timestamp()
                      AND l.put_at >= q.put_at);

-- One row a Queue. Counts rows, so it reads as much as it counts. What a client has taken and not told yet, or never told because it
-- was killed, is missing in `gets` and in `puts`; what it took in a transaction of its caller's counts though that may roll back.
CREATE VIEW pgstore.queue_stats AS
SELECT s.environment,
       s.name,                                        -- NULL: ephemeral
       s.id AS store_id,
       i.depth + d.due AS depth,                      -- items that can be taken
       least(i.oldest_at, d.oldest_due_at) AS oldest_at,  -- when the oldest of them was put
       statement_timestamp() - least(i.oldest_at, d.oldest_due_at) AS oldest_age,
       d.leased,
       d.delayed,
       d.dead,
       i.items + d.items + c.gets + c.cleared AS puts,  -- all that ever were here
       c.gets,                                        -- these two are ten seconds late: see queue_count
       c.cleared
  FROM pgstore.store s
 CROSS JOIN LATERAL (SELECT count(*) AS items,
                            count(*) FILTER (WHERE l.put_at IS NULL) AS depth,
                            min(q.put_at) FILTER (WHERE l.put_at IS NULL) AS oldest_at
                       FROM pgstore.queue_item q
                       LEFT JOIN pgstore.queue_lapse l ON l.store_id = s.id
                                                      AND l.partition = q.partition
                                                      AND l.lapses_at <= statement_timestamp()
                                                      AND l.put_at >= q.put_at
                      WHERE q.store_id = s.id) AS i
 CROSS JOIN LATERAL (SELECT count(*) FILTER (WHERE f.state = 'l') AS leased,
                            count(*) FILTER (WHERE f.state = 'd') AS delayed,
                            count(*) FILTER (WHERE f.state = 'x') AS dead,
                            count(*) FILTER (WHERE f.state = 'i') AS due,
                            count(*) AS items,
                            min(f.put_at) FILTER (WHERE f.state = 'i') AS oldest_due_at
                       FROM (SELECT e.put_at,
                                    CASE WHEN e.due_at > statement_timestamp() OR e.kind = 'x' THEN e.kind
                                         WHEN e.kind = 'l' AND e.attempts >= (s.options ->> 'max_attempts')::integer THEN 'x'
                                         WHEN l.put_at IS NOT NULL THEN 'e'   -- of a partition that is emptied
                                         ELSE 'i'                             -- as an item, which it will be
                                     END AS state
                               FROM pgstore.queue_deferred e
                               LEFT JOIN pgstore.queue_lapse l ON l.store_id = s.id
                                                              AND l.partition = e.partition
                                                              AND l.lapses_at <= statement_timestamp()
                                                              AND l.put_at >= e.put_at
                              WHERE e.store_id = s.id) AS f) AS d
 CROSS JOIN LATERAL (SELECT coalesce(sum(n.gets), 0)::bigint AS gets, coalesce(sum(n.cleared), 0)::bigint AS cleared
                       FROM pgstore.queue_count n
                      WHERE n.store_id = s.id) AS c
 WHERE s.kind = 'queue';

-- Wait until it is our turn (queue_turn), and keep it until the end of the transaction. Who has the turn to put into a Queue with a
-- bound counts then what is there, and a transaction whose snapshot is older would count too little: error 0A000.
CREATE FUNCTION pgstore.queue_take_turn(p_store_id bigint, p_kind text, p_partition text) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
    IF p_kind = 'r' AND current_setting('transaction_isolation') NOT IN ('read committed', 'read uncommitted') THEN
        RAISE EXCEPTION 'a transaction that is % cannot put into a Queue made with maxsize: it does not see what others have put',
                        current_setting('transaction_isolation')
              USING ERRCODE = 'feature_not_supported', HINT = 'Put in a transaction that is READ COMMITTED.';
    END IF;
    LOOP
        PERFORM FROM pgstore.queue_turn t
          WHERE t.store_id = p_store_id
            AND t.kind = p_kind COLLATE "C"
            AND t.partition = p_partition COLLATE "C"
            FOR NO KEY UPDATE;
        EXIT WHEN FOUND;
        INSERT INTO pgstore.queue_turn (store_id, kind, partition)
        SELECT s.id, p_kind, p_partition
          FROM pgstore.store s
         WHERE s.id = p_store_id
        ON CONFLICT DO NOTHING;
        EXIT WHEN FOUND OR NOT EXISTS (SELECT FROM pgstore.store s WHERE s.id = p_store_id);
    END LOOP;
END
$function$;

-- What tells queue_advance that we insert, where the advisory lock is not to be had: every login may hold that, so nobody waits for
-- it. True. Others who insert, into whatever Queue, hold this lock at the same time; those who have no rights here cannot hold one
-- that keeps it from us.
CREATE FUNCTION pgstore.queue_inserting(p_store_id bigint) RETURNS boolean
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
    LOCK TABLE pgstore.queue_turn IN ROW EXCLUSIVE MODE;
    RETURN true;
END
$function$;

-- Put a JSON value, which Python takes as plain objects. A trigger on a table of yours can feed workers so. A Queue that is not there
-- is error P0002, one that is full (maxsize) 53400: nothing in SQL waits for room.
CREATE FUNCTION pgstore.queue_put(p_store_id bigint, p_item jsonb, p_partition text DEFAULT '') RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
    settings jsonb;
    maxsize  bigint;
BEGIN
    IF p_item IS NULL OR p_partition IS NULL THEN
        RAISE EXCEPTION 'item and partition of queue_put must not be NULL'
              USING ERRCODE = 'null_value_not_allowed',
                    HINT = $hint$The JSON value null is 'null'::jsonb, the default partition ''.$hint$;
    END IF;
    IF octet_length(p_partition) > 64 THEN
        RAISE EXCEPTION 'partition % has more than 64 bytes', quote_literal(p_partition) USING ERRCODE = 'name_too_long';
    END IF;
    SELECT s.options
      INTO settings
      FROM pgstore.store s
     WHERE s.id = p_store_id
       AND s.kind = 'queue';
    IF NOT FOUND THEN
        RAISE EXCEPTION 'no Queue with id %', coalesce(p_store_id::text, 'NULL') USING ERRCODE = 'no_data_found';
    END IF;
    maxsize := (settings ->> 'maxsize')::bigint;
    IF maxsize IS NOT NULL THEN
        -- As in pgstore/queue/put.py: who puts into a bounded queue has to have the turn, and counts after it is taken.
        PERFORM pgstore.queue_take_turn(p_store_id, 'r', '');
        IF (SELECT count(*)
              FROM (SELECT
                      FROM pgstore.queue_item q
                     WHERE q.store_id = p_store_id
                     LIMIT maxsize) AS waiting) >= maxsize THEN
            RAISE EXCEPTION 'the Queue with id % is full: % items', p_store_id, maxsize
                  USING ERRCODE = 'configuration_limit_exceeded';
        END IF;
    END IF;
    -- Before the id is drawn: see queue_advance.
    IF NOT pg_try_advisory_xact_lock_shared(1885827945, (p_store_id % 2147483648)::integer) THEN
        PERFORM pgstore.queue_inserting(p_store_id);
    END IF;
    INSERT INTO pgstore.queue_item (store_id, partition, codec, payload)
    SELECT s.id, p_partition, 'j', convert_to(p_item::text, 'UTF8')
      FROM pgstore.store s
     WHERE s.id = p_store_id;
    PERFORM pgstore.wake_if_awaited(p_store_id, p_partition, 1);
END
$function$;

CREATE FUNCTION pgstore.queue_put(p_name text, p_item jsonb, p_partition text DEFAULT '', p_environment text DEFAULT 'main')
RETURNS void LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
    found_id CONSTANT bigint := (SELECT s.id
                                   FROM pgstore.store s
                                  WHERE s.environment = p_environment COLLATE "C"
                                    AND (CASE s.kind WHEN 'nfs' THEN 'volume' ELSE s.kind END) = 'queue'
                                    AND s.name = p_name COLLATE "C");
BEGIN
    IF found_id IS NULL THEN
        RAISE EXCEPTION 'no Queue % in environment %', quote_nullable(p_name), quote_nullable(p_environment)
              USING ERRCODE = 'no_data_found', HINT = 'Queues are made by pgstore.Queue.from_name(name, create_if_missing=True).';
    END IF;
    PERFORM pgstore.queue_put(found_id, p_item, p_partition);
END
$function$;

-- -------------------------------------------------------------------------------- Queue: below which id there is nothing left
--
-- A get that starts at the first id has to pass the dead row of every item taken since the oldest snapshot that somebody holds; so
-- gets start at a low watermark (pgstore/queue/watermark.py has the proof). Whoever inserts into queue_item takes a shared advisory
-- lock, key (1885827945, store_id % 2147483648), before the id is drawn and holds it to the end of the transaction; or, where somebody
-- keeps it from them, the lock of queue_inserting. Once those who held one when the sequence was read are gone, every id up to what
-- was read is visible or will never be.

-- Raise the watermark. Called first without p_last_id, p_inserters and p_server, and again with what it returned as long as `low` is
-- NULL: someone is still inserting. After a failover or a crash it begins anew, for the sequence may have gone back.
-- Only under READ COMMITTED, since each step here has to see what was committed before it, and in a transaction that has written
-- nothing: an item that it has taken, and may give back, would be invisible here. Else low is NULL, and nothing is done.
CREATE FUNCTION pgstore.queue_advance(p_store_id bigint, p_partition text, p_last_id bigint, p_inserters text[], p_server text,
                                      OUT low bigint, OUT last_id bigint, OUT inserters text[], OUT server text)
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $function$
#variable_conflict use_column
DECLARE
    still_there text[];
    oldest      bigint;
    known_low   bigint;
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' OR pg_current_xact_id_if_assigned() IS NOT NULL THEN
        RETURN;
    END IF;
    server := concat_ws('/', extract(epoch FROM pg_postmaster_start_time()),
                        extract(epoch FROM pg_stat_get_bgwriter_stat_reset_time()));  -- a crash resets statistics
    IF server = p_server THEN
        last_id := p_last_id;
        inserters := p_inserters;
    END IF;
    IF last_id IS NULL THEN
        SELECT s.last_value - CASE WHEN s.is_called THEN 0 ELSE 1 END
          INTO last_id
          FROM pgstore.queue_item_id_seq s;
    END IF;
    SELECT coalesce(array_agg(DISTINCT l.virtualtransaction), '{}')
      INTO still_there
      FROM pg_locks l
     WHERE l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
       AND ((l.locktype = 'advisory'
             AND l.mode = 'ShareLock'
             AND l.classid = 1885827945
             AND l.objid = (p_store_id % 2147483648)::oid
             AND l.objsubid = 2)
            OR (l.locktype = 'relation'
                AND l.mode = 'RowExclusiveLock'
                AND l.relation = 'pgstore.queue_turn'::regclass));
    IF inserters IS NULL THEN
        inserters := still_there;
    END IF;
    -- A transaction that is prepared changes its number to -1/….
    IF inserters && still_there OR (inserters <> '{}' AND EXISTS (SELECT FROM unnest(still_there) t WHERE t LIKE '-1/%')) THEN
        RETURN;
    END IF;
    known_low := coalesce((SELECT h.low
                             FROM pgstore.queue_head h
                            WHERE h.store_id = p_store_id
                              AND h.partition = p_partition), 0);
    -- An item that someone is taking is still visible, and holds the watermark back: it may be given back.
    SELECT q.id
      INTO oldest
      FROM pgstore.queue_item q
     WHERE q.store_id = p_store_id
       AND q.partition = p_partition
       AND q.id >= known_low
     ORDER BY q.id
     LIMIT 1;
    low := least(coalesce(oldest, last_id + 1), last_id + 1);
    IF low > known_low THEN
        INSERT INTO pgstore.queue_head AS h (store_id, partition, low)
        SELECT s.id, p_partition, queue_advance.low
          FROM pgstore.store s
         WHERE s.id = p_store_id
        ON CONFLICT (store_id, partition) DO UPDATE
           SET low = excluded.low
         WHERE h.low < excluded.low;
    END IF;
END
$function$;

-- What a waiting taker asks. `is_there`: items to be taken, NULL if there is no such Queue. `is_settled`: nobody was inserting any more
-- before it was looked, so whoever puts from now on sees who waits now. `due_in`: seconds until the next item comes back.
-- `waiting` and `before` are those of waiters, for one who waits; NULL where p_key is.
CREATE FUNCTION pgstore.queue_look(p_store_id bigint, p_partition text, p_low bigint, p_key integer, p_slot integer, p_all boolean,
                                   OUT is_there boolean, OUT is_settled boolean, OUT due_in double precision,
                                   OUT waiting integer, OUT before integer)
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $function$
#variable_conflict use_column
BEGIN
    -- Not in one statement with what follows, which has to see what was committed before. Who inserts while we hold this goes another
    -- way (queue_inserting), and sees us: whoever asks is registered as waiting.
    is_settled := pg_try_advisory_lock(1885827945, (p_store_id % 2147483648)::integer);
    IF is_settled THEN
        PERFORM pg_advisory_unlock(1885827945, (p_store_id % 2147483648)::integer);
    END IF;
    IF p_low = 0 THEN
        p_low := coalesce((SELECT h.low
                             FROM pgstore.queue_head h
                            WHERE h.store_id = p_store_id
                              AND h.partition = p_partition), 0);
    END IF;
    SELECT EXISTS (SELECT
                     FROM pgstore.queue_item i
                    WHERE i.store_id = p_store_id
                      AND i.partition = p_partition
                      AND i.id >= p_low),
           (SELECT extract(epoch FROM min(e.due_at) - statement_timestamp())::double precision
              FROM pgstore.queue_deferred e
             WHERE e.store_id = p_store_id
               AND e.partition = p_partition
               AND e.due_at IS NOT NULL)
      INTO is_there, due_in
      FROM pgstore.store s
     WHERE s.id = p_store_id;
    IF p_key IS NOT NULL THEN
        SELECT w.waiting, w.before INTO waiting, before FROM pgstore.waiters(p_key, p_slot, p_all) w;
    END IF;
END
$function$;

-- Begin to wait for items, and look. p_answers: others may rely on us to see what is put by those who are inserting already, whoever
-- else waits.
CREATE FUNCTION pgstore.queue_wait_begin(p_key integer, p_slot integer, p_answers boolean,
                                         p_store_id bigint, p_partition text, p_low bigint,
                                         OUT slot integer, OUT is_registered boolean, OUT is_alone boolean,
                                         OUT is_there boolean, OUT is_settled boolean, OUT due_in double precision,
                                         OUT waiting integer, OUT before integer)
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $function$
#variable_conflict use_column
BEGIN
    SELECT b.slot, b.is_registered, b.is_alone
      INTO slot, is_registered, is_alone
      FROM pgstore.wait_begin(p_key, p_slot, 's') b;
    SELECT l.is_there, l.is_settled OR NOT (is_alone OR p_answers), l.due_in, l.waiting, l.before
      INTO is_there, is_settled, due_in, waiting, before
      FROM pgstore.queue_look(p_store_id, p_partition, p_low, p_key, slot, false) l;
END
$function$;

-- What pgstore/queue/take.py does on its own connections, for those of a caller: the planner's settings are not ours to change there.
-- p_low: a watermark; 0: the one that is kept. Of more than eight items that make up more than 2 GiB only eight.
CREATE FUNCTION pgstore.queue_take(p_store_id bigint, p_partition text, p_items bigint, p_low bigint)
RETURNS TABLE (id bigint, put_at timestamptz, codec "char", payload bytea, attempts smallint)
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET enable_bitmapscan = off SET plan_cache_mode = force_generic_plan AS $function$
#variable_conflict use_column
BEGIN
    IF p_store_id IS NULL OR p_partition IS NULL OR p_items IS NULL OR p_low IS NULL THEN  -- NULL items would be all
        RAISE EXCEPTION 'the arguments of queue_take must not be NULL'
              USING ERRCODE = 'null_value_not_allowed', HINT = $hint$The default partition is ''.$hint$;
    END IF;
    IF p_low = 0 THEN
        p_low := coalesce((SELECT h.low
                             FROM pgstore.queue_head h
                            WHERE h.store_id = p_store_id
                              AND h.partition = p_partition), 0);
    END IF;
    IF p_items > 8 AND (SELECT sum(octet_length(o.payload))
                          FROM (SELECT i.payload
                                  FROM pgstore.queue_item i
                                 WHERE i.store_id = p_store_id
                                   AND i.partition = p_partition
                                   AND i.id >= p_low
                                 ORDER BY i.id
                                 LIMIT p_items) AS o) > 2147483648 THEN
        p_items := 8;
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

-- ------------------------------------------------------------------------------------------------------------ large objects

-- Chunks that are large objects. Only these functions say which, and to nobody: whoever could set chunk.large_object, or name an
-- oid, would read and write everybody's large objects with the rights of the functions' owner. They lock the chunk first: of two
-- lo_put into one page the second would fail.
--
-- An oid proves nothing: after a restore of the tables alone, or beside other applications, it may be that of somebody else's object.
-- So each of ours begins with a header of 32 bytes that no other has, and none is read, written or unlinked without it. The bytes
-- of the chunk begin at 2048, with the second page of pg_largeobject, so that who writes whole pages need not read them first; what
-- lies between is a hole. A dump keeps all of it.
CREATE FUNCTION pgstore.chunk_header(p_store_id bigint, p_chunk_id bigint) RETURNS bytea
LANGUAGE plpgsql STABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
    RETURN (SELECT uuid_send(i.id) || int8send(p_store_id) || int8send(p_chunk_id) FROM pgstore.installation i);
END
$function$;

-- Whether a chunk's large object is there and is its own, as far as the functions' owner can see. False for a chunk that is a row.
CREATE FUNCTION pgstore.chunk_is_ours(p_store_id bigint, p_chunk_id bigint) RETURNS boolean
LANGUAGE plpgsql STABLE STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
    RETURN coalesce((SELECT CASE WHEN pg_has_role(m.lomowner, 'USAGE')
                                 THEN lo_get(m.oid, 0, 32) = pgstore.chunk_header(p_store_id, p_chunk_id) END
                       FROM pgstore.chunk k
                       JOIN pg_largeobject_metadata m ON m.oid = k.large_object
                      WHERE k.store_id = p_store_id
                        AND k.id = p_chunk_id), false);
END
$function$;

CREATE FUNCTION pgstore.chunk_refuse(p_store_id bigint, p_chunk_id bigint) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
    IF EXISTS (SELECT FROM pgstore.chunk k WHERE k.store_id = p_store_id AND k.id = p_chunk_id AND k.large_object IS NOT NULL) THEN
        RAISE EXCEPTION 'the large object of chunk % of store % is missing or not its own, so it is left alone: restore the large objects of the same backup as the tables (`pgstore check` lists such chunks)', p_chunk_id, p_store_id
              USING ERRCODE = 'data_corrupted';
    END IF;
    RAISE EXCEPTION 'chunk % of store % is no large object', p_chunk_id, p_store_id USING ERRCODE = 'no_data_found';
END
$function$;

CREATE FUNCTION pgstore.chunk_read(p_store_id bigint, p_chunk_id bigint, p_offset bigint, p_length integer) RETURNS bytea
LANGUAGE plpgsql STABLE STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
    result bytea;
    closed integer;
BEGIN
    IF p_offset < 0 THEN  -- there is the header, which says whose the object is
        RAISE EXCEPTION 'offset % of a chunk is negative', p_offset USING ERRCODE = 'invalid_parameter_value';
    END IF;
    -- One statement, and the object opened once: lo_get opens it each time, and looks for its end first. OFFSET 0 keeps the order.
    SELECT r.bytes, lo_close(r.descriptor)
      INTO result, closed
      FROM (SELECT o.descriptor,
                   CASE WHEN loread(o.descriptor, 32) = (SELECT uuid_send(i.id) FROM pgstore.installation i)
                                                        || int8send(p_store_id) || int8send(p_chunk_id)
                        THEN CASE WHEN lo_lseek64(o.descriptor, 2048 + p_offset, 0) > 0 THEN loread(o.descriptor, p_length) END
                   END AS bytes
              FROM (SELECT lo_open(k.large_object, x'40000'::integer) AS descriptor  -- INV_READ
                      FROM pgstore.chunk k
                     WHERE k.store_id = p_store_id
                       AND k.id = p_chunk_id
                       AND pg_has_role((SELECT m.lomowner FROM pg_largeobject_metadata m WHERE m.oid = k.large_object), 'USAGE')
                    OFFSET 0) o
            OFFSET 0) r;
    IF result IS NULL THEN
        PERFORM pgstore.chunk_refuse(p_store_id, p_chunk_id);
    END IF;
    RETURN result;
END
$function$;

CREATE FUNCTION pgstore.chunk_create(p_store_id bigint, p_chunk_id bigint, p_offset bigint, p_data bytea) RETURNS void
LANGUAGE plpgsql VOLATILE STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
    made    oid;
    grantee text;
BEGIN
    IF p_offset < 0 THEN  -- there is the header, which says whose the object is
        RAISE EXCEPTION 'offset % of a chunk is negative', p_offset USING ERRCODE = 'invalid_parameter_value';
    END IF;
    PERFORM FROM pgstore.file_system f WHERE f.store_id = p_store_id AND f.storage = 'l';
    IF NOT FOUND THEN
        RAISE EXCEPTION 'file system % does not keep large objects', p_store_id USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    made := lo_from_bytea(0, pgstore.chunk_header(p_store_id, p_chunk_id));
    -- From PostgreSQL 18 on default privileges may let others read, or write, what is made here.
    FOR grantee IN
        SELECT DISTINCT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END
          FROM pg_largeobject_metadata m
         CROSS JOIN LATERAL aclexplode(m.lomacl) a
         WHERE m.oid = made
           AND a.grantee <> m.lomowner
    LOOP
        EXECUTE format('REVOKE ALL ON LARGE OBJECT %s FROM %s', made, grantee);
    END LOOP;
    PERFORM lo_put(made, 2048 + p_offset, p_data);
    INSERT INTO pgstore.chunk (store_id, id, large_object) VALUES (p_store_id, p_chunk_id, made);
END
$function$;

CREATE FUNCTION pgstore.chunk_write(p_store_id bigint, p_chunk_id bigint, p_offset bigint, p_data bytea) RETURNS void
LANGUAGE plpgsql VOLATILE STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
    written integer;
    closed  integer;
BEGIN
    IF p_offset < 0 THEN  -- there is the header, which says whose the object is
        RAISE EXCEPTION 'offset % of a chunk is negative', p_offset USING ERRCODE = 'invalid_parameter_value';
    END IF;
    -- As chunk_read. An object that is open for writing is seen as it is by now, so after the lock as the last one left it.
    SELECT w.bytes, lo_close(w.descriptor)
      INTO written, closed
      FROM (SELECT o.descriptor,
                   CASE WHEN loread(o.descriptor, 32) = (SELECT uuid_send(i.id) FROM pgstore.installation i)
                                                        || int8send(p_store_id) || int8send(p_chunk_id)
                        THEN CASE WHEN lo_lseek64(o.descriptor, 2048 + p_offset, 0) > 0 THEN lowrite(o.descriptor, p_data) END
                   END AS bytes
              FROM (SELECT lo_open(l.large_object, x'60000'::integer) AS descriptor  -- INV_READ | INV_WRITE
                      FROM (SELECT k.large_object
                              FROM pgstore.chunk k
                             WHERE k.store_id = p_store_id
                               AND k.id = p_chunk_id
                               AND pg_has_role((SELECT m.lomowner FROM pg_largeobject_metadata m WHERE m.oid = k.large_object), 'USAGE')
                               FOR NO KEY UPDATE) l
                    OFFSET 0) o
            OFFSET 0) w;
    IF written IS NULL THEN
        PERFORM pgstore.chunk_refuse(p_store_id, p_chunk_id);
    END IF;
END
$function$;

-- Chunk p_target becomes what the first p_length bytes of chunk p_source are.
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
    IF p_length < 0 THEN  -- there is the header, which says whose the object is
        RAISE EXCEPTION 'length % of a chunk is negative', p_length USING ERRCODE = 'invalid_parameter_value';
    END IF;
    SELECT k.large_object
      INTO found_oid
      FROM pgstore.chunk k
     WHERE k.store_id = p_store_id
       AND k.id = p_chunk_id
       FOR NO KEY UPDATE;
    IF NOT pgstore.chunk_is_ours(p_store_id, p_chunk_id) THEN
        PERFORM pgstore.chunk_refuse(p_store_id, p_chunk_id);
    END IF;
    descriptor := lo_open(found_oid, x'60000'::integer);  -- INV_READ | INV_WRITE
    IF lo_lseek64(descriptor, 0, 2) > 2048 + p_length THEN
        PERFORM lo_truncate64(descriptor, 2048 + p_length);
    END IF;
    PERFORM lo_close(descriptor);
END
$function$;

-- How many bytes a chunk has, wherever they are. NULL: none that are ours.
CREATE FUNCTION pgstore.chunk_length(p_store_id bigint, p_chunk_id bigint) RETURNS bigint
LANGUAGE plpgsql STABLE STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
    there      record;
    descriptor integer;
    result     bigint;
BEGIN
    SELECT octet_length(k.data) AS length, k.large_object
      INTO there
      FROM pgstore.chunk k
     WHERE k.store_id = p_store_id
       AND k.id = p_chunk_id;
    IF there.large_object IS NULL OR NOT pgstore.chunk_is_ours(p_store_id, p_chunk_id) THEN
        RETURN there.length;
    END IF;
    descriptor := lo_open(there.large_object, x'40000'::integer);  -- INV_READ
    result := greatest(lo_lseek64(descriptor, 0, 2) - 2048, 0);
    PERFORM lo_close(descriptor);
    RETURN result;
END
$function$;

-- Each large object takes a lock until the commit: at most 1,000 in one transaction. One that is not ours stays.
CREATE FUNCTION pgstore.chunk_delete(p_store_id bigint, p_chunk_id bigint) RETURNS boolean
LANGUAGE plpgsql VOLATILE STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
    is_ours   CONSTANT boolean := pgstore.chunk_is_ours(p_store_id, p_chunk_id);
    found_oid oid;
BEGIN
    DELETE FROM pgstore.chunk k
     WHERE k.store_id = p_store_id
       AND k.id = p_chunk_id
    RETURNING k.large_object INTO found_oid;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    IF is_ours THEN
        PERFORM lo_unlink(found_oid);
    END IF;
    RETURN true;
END
$function$;

-- Part of store_delete: deletes the extents and the chunks that are large objects, and notes the objects.
CREATE FUNCTION pgstore.large_objects_leave(p_store_id bigint) RETURNS bigint
LANGUAGE plpgsql VOLATILE STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
    noted bigint;
BEGIN
    WITH gone AS (
         DELETE FROM pgstore.extent WHERE store_id = p_store_id),
    chunks AS (
         DELETE FROM pgstore.chunk WHERE store_id = p_store_id AND large_object IS NOT NULL RETURNING id, large_object)
    INSERT INTO pgstore.large_object_left (store_id, chunk_id, large_object)
    SELECT p_store_id, c.id, c.large_object
      FROM chunks c;
    GET DIAGNOSTICS noted = ROW_COUNT;
    RETURN noted;
END
$function$;

-- Unlinks some of them. Returns how many; each takes a lock until the commit, of which a server has a few thousand.
CREATE FUNCTION pgstore.large_objects_unlink(p_store_id bigint) RETURNS bigint
LANGUAGE plpgsql VOLATILE STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
    unlinked bigint := 0;
    gone     record;
BEGIN
    FOR gone IN
        DELETE FROM pgstore.large_object_left
         WHERE store_id = p_store_id
           AND ctid = ANY (ARRAY(SELECT ctid
                                   FROM pgstore.large_object_left
                                  WHERE store_id = p_store_id
                                  LIMIT 1000
                                    FOR UPDATE SKIP LOCKED))
        RETURNING chunk_id, large_object
    LOOP
        PERFORM lo_unlink(m.oid)
           FROM pg_largeobject_metadata m
          WHERE m.oid = gone.large_object
            AND CASE WHEN pg_has_role(m.lomowner, 'USAGE')
                     THEN lo_get(m.oid, 0, 32) = pgstore.chunk_header(p_store_id, gone.chunk_id) ELSE false END;
        unlinked := unlinked + 1;
    END LOOP;
    RETURN unlinked;
END
$function$;

-- data with piece written at p_offset; what lies between becomes zeros.
CREATE FUNCTION pgstore.bytes_overlaid(data bytea, p_offset integer, piece bytea) RETURNS bytea
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $function$
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

-- Files of a NetworkFileSystem are written in place. Locks are taken in this order: the inode, its blob, its extents and chunks
-- from the first to the last, the inode's new size and time. Whoever only writes into chunks holds the inode FOR KEY SHARE and
-- the blob FOR SHARE: any number at once, who wait for each other where they write the same chunk, and for the short update at
-- the end. Whoever changes where the bytes are (a first blob, one that a copy has as well, truncation) or builds on the size
-- (append) is alone: the inode FOR UPDATE. So is a transaction of several calls, which would else wait for those who wait for it.

-- Writes into a blob that is not shared, of which the caller holds the locks.
CREATE FUNCTION pgstore.blob_write(p_store_id bigint, p_blob_id bigint, p_chunk_size integer, p_offset bigint, p_data bytea) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $function$
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
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
    UPDATE pgstore.extent
       SET chunk_id = p_new,
           is_owned = true
     WHERE store_id = p_store_id
       AND blob_id = p_blob_id
       AND position = p_position;
    INSERT INTO pgstore.chunk_candidate (store_id, chunk_id)
    VALUES (p_store_id, p_old)
    ON CONFLICT (store_id, chunk_id) DO UPDATE SET noted_at = greatest(excluded.noted_at, chunk_candidate.noted_at);
END
$function$;

-- A blob for a file that is not inline any more. Returns its id.
CREATE FUNCTION pgstore.blob_create(p_store_id bigint, p_data bytea) RETURNS bigint
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $function$
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

-- A blob of one's own with the first chunks of one that is shared. Returns its id.
CREATE FUNCTION pgstore.blob_fork(p_store_id bigint, p_blob_id bigint, p_chunks bigint) RETURNS bigint
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $function$
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
    INSERT INTO pgstore.blob_candidate (store_id, blob_id)
    VALUES (p_store_id, p_blob_id)
    ON CONFLICT (store_id, blob_id) DO UPDATE SET noted_at = greatest(excluded.noted_at, blob_candidate.noted_at);
    RETURN made;
END
$function$;

-- Writes p_data at p_offset, NULL: at the end. p_is_relaxed: the commit need not wait for the disk. Returns the new size; NULL: no
-- such file. Where it has to be alone after all it fails, for whoever called to try again with p_is_alone.
CREATE FUNCTION pgstore.file_write(p_store_id bigint, p_ino bigint, p_offset bigint, p_data bytea, p_is_alone boolean, p_is_relaxed boolean) RETURNS bigint
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $function$
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

-- Makes a hole of the bytes from p_start to before p_stop, as far as the file has them: whole chunks go, and what is left of others
-- becomes zeros. Returns whether there is such a file.
CREATE FUNCTION pgstore.file_punch(p_store_id bigint, p_ino bigint, p_start bigint, p_stop bigint, p_is_relaxed boolean) RETURNS boolean
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
    there  record;
    blob   record;
    stop   bigint;
    first  bigint;  -- of the chunks that go, and the first behind them
    behind bigint;
    edge   record;
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
    stop := least(p_stop, there.size_bytes);
    IF p_start >= stop THEN
        RETURN true;
    END IF;

    IF there.blob_id IS NULL THEN
        there.inline_data := pgstore.bytes_overlaid(there.inline_data, p_start::integer,
                                                    decode(repeat('00', (stop - p_start)::integer), 'hex'));
    ELSE
        SELECT b.chunk_size_bytes, b.is_shared
          INTO blob
          FROM pgstore.blob b
         WHERE b.store_id = p_store_id
           AND b.id = there.blob_id
           FOR SHARE;
        IF blob.is_shared THEN
            there.blob_id := pgstore.blob_fork(p_store_id, there.blob_id, 2147483648);
        END IF;
        first := (p_start + blob.chunk_size_bytes - 1) / blob.chunk_size_bytes;
        behind := CASE WHEN stop = there.size_bytes THEN (stop + blob.chunk_size_bytes - 1) / blob.chunk_size_bytes
                       ELSE stop / blob.chunk_size_bytes END;
        WITH gone AS (
             DELETE FROM pgstore.extent
              WHERE store_id = p_store_id
                AND blob_id = there.blob_id
                AND position >= first
                AND position < behind
             RETURNING chunk_id)
        INSERT INTO pgstore.chunk_candidate (store_id, chunk_id)
        SELECT p_store_id, g.chunk_id
          FROM gone g
        ON CONFLICT (store_id, chunk_id) DO UPDATE SET noted_at = greatest(excluded.noted_at, chunk_candidate.noted_at);
        FOR edge IN
            SELECT greatest(p_start, e.position::bigint * blob.chunk_size_bytes) AS start,
                   least(stop, (e.position::bigint + 1) * blob.chunk_size_bytes) AS stop
              FROM pgstore.extent e
             WHERE e.store_id = p_store_id
               AND e.blob_id = there.blob_id
               AND e.position IN ((p_start / blob.chunk_size_bytes)::integer, (stop / blob.chunk_size_bytes)::integer)
             ORDER BY e.position
        LOOP
            CONTINUE WHEN edge.start >= edge.stop;
            PERFORM pgstore.blob_write(p_store_id, there.blob_id, blob.chunk_size_bytes, edge.start,
                                       decode(repeat('00', (edge.stop - edge.start)::integer), 'hex'));
        END LOOP;
    END IF;
    UPDATE pgstore.inode
       SET blob_id = there.blob_id,
           inline_data = there.inline_data,
           mtime_ns = now_ns,
           ctime_ns = now_ns
     WHERE store_id = p_store_id
       AND ino = p_ino
       AND version_to = 9223372036854775807;
    RETURN true;
END
$function$;

-- Cuts a file to p_size bytes, or lets it grow to so many by a hole. Returns whether there is such a file.
CREATE FUNCTION pgstore.file_truncate(p_store_id bigint, p_ino bigint, p_size bigint, p_is_relaxed boolean) RETURNS boolean
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $function$
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
        INSERT INTO pgstore.blob_candidate (store_id, blob_id)
        VALUES (p_store_id, there.blob_id)
        ON CONFLICT (store_id, blob_id) DO UPDATE SET noted_at = greatest(excluded.noted_at, blob_candidate.noted_at);
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
            INSERT INTO pgstore.chunk_candidate (store_id, chunk_id)
            SELECT p_store_id, g.chunk_id
              FROM gone g
            ON CONFLICT (store_id, chunk_id) DO UPDATE SET noted_at = greatest(excluded.noted_at, chunk_candidate.noted_at);
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

-- Takes the lock of a whole file for p_holder, for so many seconds, in place of the one that it has. Returns false if others have
-- what keeps it from that, NULL if there is no such file. Locks that have expired are nobody's.
CREATE FUNCTION pgstore.file_lock(p_store_id bigint, p_ino bigint, p_holder text, p_is_exclusive boolean, p_seconds double precision)
RETURNS boolean
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
    now CONSTANT timestamptz := clock_timestamp();
BEGIN
    -- Who takes a lock of one file does so after the other. Not FOR UPDATE, which would wait for those who copy the file.
    PERFORM
       FROM pgstore.inode i
      WHERE i.store_id = p_store_id
        AND i.ino = p_ino
        AND i.version_to = 9223372036854775807
        FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    DELETE FROM pgstore.file_lock
     WHERE store_id = p_store_id
       AND ino = p_ino
       AND expires_at < now;
    IF EXISTS (SELECT
                 FROM pgstore.file_lock l
                WHERE l.store_id = p_store_id
                  AND l.ino = p_ino
                  AND l.holder <> p_holder
                  AND (l.is_exclusive OR p_is_exclusive)) THEN
        RETURN false;
    END IF;
    INSERT INTO pgstore.file_lock (store_id, ino, holder, is_exclusive, expires_at)
    VALUES (p_store_id, p_ino, p_holder, p_is_exclusive, now + p_seconds * interval '1 second')
    ON CONFLICT (store_id, ino, holder) DO UPDATE
       SET is_exclusive = excluded.is_exclusive,
           expires_at = excluded.expires_at;
    RETURN true;
END
$function$;

-- ------------------------------------------------------------------------------------------- files, put in one call

-- A commit of one small file to a Volume, in one call: what `fs.commit.merge` comes to where its directory p_directory exists and
-- p_name leads to nothing, or to a file of one name. Returns false, with nothing done, where things are otherwise; NULL: there is no
-- such file system. p_ino was drawn for this put alone: with p_is_repeated, after a call whose answer was lost, it tells whether that
-- call has put the file, whatever others have done with it since. (As long as its rows are there: see the grace of collection.) Who
-- waits for the key p_key is told p_notice, the version, and p_origin.
CREATE FUNCTION pgstore.volume_put(p_store_id bigint, p_ino bigint, p_directory bytea[], p_name bytea, p_mode integer, p_mtime_ns bigint,
                                   p_now_ns bigint, p_data bytea, p_is_repeated boolean, p_key integer DEFAULT NULL, p_notice text DEFAULT NULL,
                                   p_origin text DEFAULT NULL) RETURNS boolean
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $function$
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
           (store_id, ino, version_from, kind, mode, uid, gid, link_count, size_bytes, mtime_ns, ctime_ns, parent, xattrs, atime_ns)
    SELECT c.store_id, c.ino, version, c.kind, c.mode, c.uid, c.gid, c.link_count, c.size_bytes,
           greatest(c.mtime_ns, p_now_ns), greatest(c.ctime_ns, p_now_ns), c.parent, c.xattrs, c.atime_ns
      FROM closed c;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'directory % was removed meanwhile', directory USING ERRCODE = 'serialization_failure';
    END IF;
    INSERT INTO pgstore.inode (store_id, ino, kind, mode, size_bytes, mtime_ns, ctime_ns, inline_data)
    VALUES (p_store_id, p_ino, 'f', p_mode, octet_length(p_data), p_mtime_ns, p_now_ns, nullif(p_data, ''));
    INSERT INTO pgstore.dirent (store_id, parent, name, version_from, ino, kind)
    VALUES (p_store_id, directory, p_name, version, p_ino, 'f');
    IF p_key IS NULL THEN
        RETURN true;
    ELSIF pg_try_advisory_lock(1885827956, p_key) THEN
        PERFORM pg_advisory_unlock(1885827956, p_key);
    ELSE
        PERFORM pg_notify('pgstore', p_notice || version || p_origin);
    END IF;
    RETURN true;
END
$function$;

-- ------------------------------------------------------------------------------ names of a NetworkFileSystem, changed in one call

-- What `fs.tree.nodes` and `fs.commit.live` do for one change of names, as one statement and one commit. They return the errno of Linux
-- with which it is refused, having changed nothing; 0: done. Locks in the order of LiveChanges: the file system where a directory is
-- moved, directories in the order of their numbers, then files. Names are looked up before, to know what to lock, and once more
-- after. p_is_relaxed: the commit does not wait for the disk.

-- Locks directories, in the order of their numbers. Returns 0; 116 (ESTALE) if one is gone, 20 (ENOTDIR) if one is no directory.
CREATE FUNCTION pgstore.directories_lock(p_store_id bigint, p_directories bigint[]) RETURNS integer
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
    directory  bigint;
    found_kind "char";
BEGIN
    FOR directory IN SELECT DISTINCT u.ino FROM unnest(p_directories) AS u (ino) WHERE u.ino IS NOT NULL ORDER BY u.ino LOOP
        SELECT i.kind
          INTO found_kind
          FROM pgstore.inode i
         WHERE i.store_id = p_store_id
           AND i.ino = directory
           AND i.version_to = 9223372036854775807
           FOR UPDATE;
        IF NOT FOUND THEN
            RETURN 116;
        ELSIF found_kind <> 'd' THEN
            RETURN 20;
        END IF;
    END LOOP;
    RETURN 0;
END
$function$;

-- A name in a locked directory came or went.
CREATE FUNCTION pgstore.directory_touch(p_store_id bigint, p_directory bigint, p_now_ns bigint) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
    UPDATE pgstore.inode
       SET mtime_ns = greatest(mtime_ns, p_now_ns), ctime_ns = greatest(ctime_ns, p_now_ns)
     WHERE store_id = p_store_id
       AND ino = p_directory
       AND version_to = 9223372036854775807;
END
$function$;

-- A file loses the name that led to it.
CREATE FUNCTION pgstore.file_unlink(p_store_id bigint, p_ino bigint, p_now_ns bigint) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
    UPDATE pgstore.inode
       SET link_count = greatest(link_count - 1, 0), ctime_ns = p_now_ns
     WHERE store_id = p_store_id
       AND ino = p_ino
       AND version_to = 9223372036854775807;
END
$function$;

-- Makes anything but a file's large contents. p_ino was drawn for this call alone: with p_is_repeated, after a call whose answer was lost,
-- it tells whether that call has done it.
CREATE FUNCTION pgstore.node_make(p_store_id bigint, p_parent bigint, p_name bytea, p_ino bigint, p_kind "char", p_mode integer, p_uid bigint,
                                  p_gid bigint, p_device bigint, p_target bytea, p_data bytea, p_now_ns bigint, p_is_relaxed boolean,
                                  p_is_repeated boolean) RETURNS integer
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
    refused integer;
BEGIN
    IF p_is_relaxed THEN
        PERFORM set_config('synchronous_commit', 'off', true);
    END IF;
    refused := pgstore.directories_lock(p_store_id, ARRAY[p_parent]);
    IF p_is_repeated AND EXISTS (SELECT FROM pgstore.inode i WHERE i.store_id = p_store_id AND i.ino = p_ino) THEN
        RETURN 0;
    ELSIF refused <> 0 THEN
        RETURN refused;
    ELSIF EXISTS (SELECT
                    FROM pgstore.dirent d
                   WHERE d.store_id = p_store_id
                     AND d.parent = p_parent
                     AND d.name = p_name
                     AND d.version_to = 9223372036854775807) THEN
        RETURN 17;
    END IF;
    INSERT INTO pgstore.inode
           (store_id, ino, kind, mode, uid, gid, size_bytes, mtime_ns, ctime_ns, inline_data, link_target, parent, device)
    VALUES (p_store_id, p_ino, p_kind, p_mode, p_uid, p_gid, coalesce(octet_length(p_target), octet_length(p_data), 0), p_now_ns, p_now_ns,
            nullif(p_data, ''), p_target, CASE p_kind WHEN 'd' THEN p_parent END, p_device);
    INSERT INTO pgstore.dirent (store_id, parent, name, ino, kind)
    VALUES (p_store_id, p_parent, p_name, p_ino, p_kind);
    PERFORM pgstore.directory_touch(p_store_id, p_parent, p_now_ns);
    RETURN 0;
END
$function$;

CREATE FUNCTION pgstore.node_link(p_store_id bigint, p_ino bigint, p_parent bigint, p_name bytea, p_now_ns bigint, p_is_relaxed boolean)
RETURNS integer
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
    refused integer;
    there   record;
BEGIN
    IF p_is_relaxed THEN
        PERFORM set_config('synchronous_commit', 'off', true);
    END IF;
    refused := pgstore.directories_lock(p_store_id, ARRAY[p_parent]);
    IF refused <> 0 THEN
        RETURN refused;
    ELSIF EXISTS (SELECT
                    FROM pgstore.dirent d
                   WHERE d.store_id = p_store_id
                     AND d.parent = p_parent
                     AND d.name = p_name
                     AND d.version_to = 9223372036854775807) THEN
        RETURN 17;
    END IF;
    SELECT i.kind, i.link_count
      INTO there
      FROM pgstore.inode i
     WHERE i.store_id = p_store_id
       AND i.ino = p_ino
       AND i.version_to = 9223372036854775807
       FOR UPDATE;
    IF NOT FOUND THEN
        RETURN 116;
    ELSIF there.kind = 'd' THEN
        RETURN 1;
    ELSIF there.link_count = 0 THEN
        RETURN 2;
    END IF;
    UPDATE pgstore.inode
       SET link_count = link_count + 1, ctime_ns = p_now_ns
     WHERE store_id = p_store_id
       AND ino = p_ino
       AND version_to = 9223372036854775807;
    INSERT INTO pgstore.dirent (store_id, parent, name, ino, kind)
    VALUES (p_store_id, p_parent, p_name, p_ino, there.kind);
    PERFORM pgstore.directory_touch(p_store_id, p_parent, p_now_ns);
    RETURN 0;
END
$function$;

-- Removes an empty directory, or with p_is_directory false the name of anything else; `ino` is what it led to.
CREATE FUNCTION pgstore.node_remove(p_store_id bigint, p_parent bigint, p_name bytea, p_is_directory boolean, p_now_ns bigint,
                                    p_is_relaxed boolean, OUT refused integer, OUT ino bigint)
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $function$
#variable_conflict use_column
DECLARE
    there record;
    again record;
BEGIN
    IF p_is_relaxed THEN
        PERFORM set_config('synchronous_commit', 'off', true);
    END IF;
    SELECT d.ino, d.kind
      INTO there
      FROM pgstore.dirent d
     WHERE d.store_id = p_store_id
       AND d.parent = p_parent
       AND d.name = p_name
       AND d.version_to = 9223372036854775807;
    refused := pgstore.directories_lock(p_store_id, ARRAY[p_parent, CASE there.kind WHEN 'd' THEN there.ino END]);
    SELECT d.ino, d.kind
      INTO again
      FROM pgstore.dirent d
     WHERE d.store_id = p_store_id
       AND d.parent = p_parent
       AND d.name = p_name
       AND d.version_to = 9223372036854775807;
    IF (again.ino, again.kind) IS DISTINCT FROM (there.ino, there.kind) THEN
        RAISE EXCEPTION 'the name was changed meanwhile' USING ERRCODE = 'serialization_failure';
    ELSIF refused <> 0 THEN
        RETURN;
    END IF;
    refused := CASE WHEN there.ino IS NULL THEN 2
                    WHEN there.kind = 'd' AND NOT p_is_directory THEN 21
                    WHEN there.kind <> 'd' AND p_is_directory THEN 20
                    WHEN there.kind = 'd' AND EXISTS (SELECT
                                                        FROM pgstore.dirent d
                                                       WHERE d.store_id = p_store_id
                                                         AND d.parent = there.ino
                                                         AND d.version_to = 9223372036854775807) THEN 39
                    ELSE 0
               END;
    IF refused <> 0 THEN
        RETURN;
    END IF;
    DELETE FROM pgstore.dirent
     WHERE store_id = p_store_id
       AND parent = p_parent
       AND name = p_name
       AND version_to = 9223372036854775807;
    IF there.kind = 'd' THEN
        DELETE FROM pgstore.inode AS i
         WHERE i.store_id = p_store_id
           AND i.ino = there.ino
           AND i.version_to = 9223372036854775807;
    ELSE
        PERFORM pgstore.file_unlink(p_store_id, there.ino, p_now_ns);
    END IF;
    PERFORM pgstore.directory_touch(p_store_id, p_parent, p_now_ns);
    ino := there.ino;
END
$function$;

-- renameat2(2), p_flags as there. `ino` is what was renamed, `replaced` what was there: it lost the name, or was exchanged.
CREATE FUNCTION pgstore.node_rename(p_store_id bigint, p_parent bigint, p_name bytea, p_to_parent bigint, p_to_name bytea, p_flags integer,
                                    p_now_ns bigint, p_is_relaxed boolean, OUT refused integer, OUT ino bigint, OUT replaced bigint)
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $function$
#variable_conflict use_column
DECLARE
    source    record;
    target    record;
    other     record;
    step      record;
    is_there  boolean;
    directory bigint;
BEGIN
    IF p_is_relaxed THEN
        PERFORM set_config('synchronous_commit', 'off', true);
    END IF;
    SELECT max(d.ino) AS ino, max(d.kind::text)::"char" AS kind
      INTO source
      FROM pgstore.dirent d
     WHERE d.store_id = p_store_id AND d.parent = p_parent AND d.name = p_name AND d.version_to = 9223372036854775807;
    SELECT max(d.ino) AS ino, max(d.kind::text)::"char" AS kind
      INTO target
      FROM pgstore.dirent d
     WHERE d.store_id = p_store_id AND d.parent = p_to_parent AND d.name = p_to_name AND d.version_to = 9223372036854775807;
    -- Moves of directories happen one after the other: of two at once each could move its directory below the other's.
    IF p_parent <> p_to_parent AND 'd' IN (source.kind, target.kind) THEN
        PERFORM FROM pgstore.file_system f WHERE f.store_id = p_store_id FOR UPDATE;
    END IF;
    refused := pgstore.directories_lock(p_store_id, ARRAY[p_parent, p_to_parent,
                                                          CASE WHEN target.kind = 'd' AND p_flags <> 2 THEN target.ino END]);
    FOR step IN SELECT u.parent, u.name, u.ino
                  FROM (VALUES (p_parent, p_name, source.ino), (p_to_parent, p_to_name, target.ino)) AS u (parent, name, ino) LOOP
        SELECT max(d.ino) AS ino
          INTO other
          FROM pgstore.dirent d
         WHERE d.store_id = p_store_id AND d.parent = step.parent AND d.name = step.name AND d.version_to = 9223372036854775807;
        IF other.ino IS DISTINCT FROM step.ino THEN
            RAISE EXCEPTION 'a name was changed meanwhile' USING ERRCODE = 'serialization_failure';
        END IF;
    END LOOP;
    IF refused <> 0 THEN
        RETURN;
    END IF;
    is_there := target.ino IS NOT NULL;
    refused := CASE WHEN source.ino IS NULL THEN 2 ELSE 0 END;
    IF refused = 0 AND p_parent <> p_to_parent THEN
        -- No directory comes below itself.
        FOR step IN SELECT u.start, u.moved
                      FROM (VALUES (p_to_parent, CASE source.kind WHEN 'd' THEN source.ino END),
                                   (p_parent, CASE WHEN target.kind = 'd' AND p_flags = 2 THEN target.ino END)) AS u (start, moved)
                     WHERE u.moved IS NOT NULL LOOP
            directory := step.start;
            WHILE directory <> 1 LOOP
                IF directory = step.moved THEN
                    refused := 22;
                    RETURN;
                END IF;
                SELECT i.parent
                  INTO directory
                  FROM pgstore.inode i
                 WHERE i.store_id = p_store_id
                   AND i.ino = directory
                   AND i.version_to = 9223372036854775807;
                EXIT WHEN NOT FOUND;
            END LOOP;
        END LOOP;
    END IF;
    refused := CASE WHEN refused <> 0 THEN refused
                    WHEN p_flags = 2 AND NOT is_there THEN 2
                    WHEN p_flags = 1 AND is_there THEN 17
                    WHEN p_flags <> 0 OR NOT is_there OR source.ino = target.ino THEN 0
                    WHEN source.kind = 'd' AND target.kind <> 'd' THEN 20
                    WHEN source.kind <> 'd' AND target.kind = 'd' THEN 21
                    WHEN target.kind = 'd' AND EXISTS (SELECT
                                                         FROM pgstore.dirent d
                                                        WHERE d.store_id = p_store_id
                                                          AND d.parent = target.ino
                                                          AND d.version_to = 9223372036854775807) THEN 39
                    ELSE 0
               END;
    IF refused <> 0 THEN
        RETURN;
    END IF;
    ino := source.ino;
    replaced := target.ino;
    IF source.ino = target.ino THEN
        RETURN;  -- POSIX: both names stay
    END IF;
    DELETE FROM pgstore.dirent
     WHERE store_id = p_store_id AND parent = p_parent AND name = p_name AND version_to = 9223372036854775807;
    DELETE FROM pgstore.dirent
     WHERE store_id = p_store_id AND parent = p_to_parent AND name = p_to_name AND version_to = 9223372036854775807;
    INSERT INTO pgstore.dirent (store_id, parent, name, ino, kind)
    VALUES (p_store_id, p_to_parent, p_to_name, source.ino, source.kind);
    IF p_flags = 2 THEN
        INSERT INTO pgstore.dirent (store_id, parent, name, ino, kind)
        VALUES (p_store_id, p_parent, p_name, target.ino, target.kind);
    ELSIF target.kind = 'd' THEN
        DELETE FROM pgstore.inode AS i
         WHERE i.store_id = p_store_id
           AND i.ino = target.ino
           AND i.version_to = 9223372036854775807;
    ELSIF is_there THEN
        PERFORM pgstore.file_unlink(p_store_id, target.ino, p_now_ns);
    END IF;
    IF p_parent <> p_to_parent THEN
        FOR step IN SELECT u.ino, u.parent
                      FROM (VALUES (source.ino, p_to_parent, source.kind), (target.ino, p_parent, target.kind)) AS u (ino, parent, kind)
                     WHERE u.kind = 'd' AND (u.ino = source.ino OR p_flags = 2) LOOP
            UPDATE pgstore.inode
               SET parent = step.parent
             WHERE store_id = p_store_id
               AND ino = step.ino
               AND version_to = 9223372036854775807;
        END LOOP;
        PERFORM pgstore.directory_touch(p_store_id, p_to_parent, p_now_ns);
    END IF;
    PERFORM pgstore.directory_touch(p_store_id, p_parent, p_now_ns);
END
$function$;

-- What volume_put is to a Volume: a small file put in one call, where its directory exists and p_name leads to nothing or to a file. The
-- results are the same; the file that was there may have other names, and keeps its contents for them and for who has it open.
CREATE FUNCTION pgstore.live_put(p_store_id bigint, p_ino bigint, p_directory bytea[], p_name bytea, p_mode integer, p_mtime_ns bigint,
                                 p_now_ns bigint, p_data bytea, p_is_repeated boolean, OUT is_put boolean, OUT directory bigint, OUT replaced bigint)
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
    step  bytea;
    there record;
BEGIN
    directory := 1;
    FOREACH step IN ARRAY p_directory LOOP
        SELECT d.ino
          INTO directory
          FROM pgstore.dirent d
         WHERE d.store_id = p_store_id
           AND d.parent = directory
           AND d.name = step
           AND d.version_to = 9223372036854775807
           AND d.kind = 'd';
        EXIT WHEN NOT FOUND;
    END LOOP;
    IF directory IS NULL OR pgstore.directories_lock(p_store_id, ARRAY[directory]) <> 0 THEN
        is_put := CASE WHEN p_is_repeated AND EXISTS (SELECT FROM pgstore.inode i WHERE i.store_id = p_store_id AND i.ino = p_ino) THEN true
                       WHEN EXISTS (SELECT FROM pgstore.file_system f WHERE f.store_id = p_store_id) THEN false
                  END;
        RETURN;
    ELSIF p_is_repeated AND EXISTS (SELECT FROM pgstore.inode i WHERE i.store_id = p_store_id AND i.ino = p_ino) THEN
        is_put := true;
        RETURN;
    END IF;
    SELECT d.ino, d.kind
      INTO there
      FROM pgstore.dirent d
     WHERE d.store_id = p_store_id
       AND d.parent = directory
       AND d.name = p_name
       AND d.version_to = 9223372036854775807;
    IF there.kind <> 'f' THEN
        is_put := false;
        RETURN;
    END IF;
    INSERT INTO pgstore.inode (store_id, ino, kind, mode, size_bytes, mtime_ns, ctime_ns, inline_data)
    VALUES (p_store_id, p_ino, 'f', p_mode, octet_length(p_data), p_mtime_ns, p_now_ns, nullif(p_data, ''));
    IF there.ino IS NULL THEN
        INSERT INTO pgstore.dirent (store_id, parent, name, ino, kind)
        VALUES (p_store_id, directory, p_name, p_ino, 'f');
    ELSE
        UPDATE pgstore.dirent
           SET ino = p_ino
         WHERE store_id = p_store_id
           AND parent = directory
           AND name = p_name
           AND version_to = 9223372036854775807;
        PERFORM pgstore.file_unlink(p_store_id, there.ino, p_now_ns);
    END IF;
    PERFORM pgstore.directory_touch(p_store_id, directory, p_now_ns);
    is_put := true;
    replaced := there.ino;
END
$function$;

-- --------------------------------------------------------------------------------------------------- files, for SQL

-- A name as text: UTF-8 as itself, of anything else each byte that belongs to no character as \xff.
CREATE FUNCTION pgstore.file_name(name bytea) RETURNS text
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp SET standard_conforming_strings = on AS $function$
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
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
    RETURN CASE kind WHEN 'f' THEN 'file' WHEN 'd' THEN 'directory' WHEN 'l' THEN 'symlink' WHEN 'p' THEN 'fifo'
                     WHEN 'c' THEN 'character device' WHEN 'b' THEN 'block device' ELSE 'socket' END;
END
$function$;

-- Every path of every Volume, in its newest version, and NetworkFileSystem. Goes from each root down to all files, so it reads as
-- much as the store has names, whatever is asked of `path`; a condition on volume or store_id leaves other stores out.
-- list_directory() goes to one directory.
CREATE VIEW pgstore.files AS
SELECT s.environment,
       s.name AS volume,                              -- of the NetworkFileSystem, if kind says so; NULL: ephemeral
       s.kind,                                        -- volume, nfs
       s.id AS store_id,
       t.path,                                        -- from the root, without a leading slash; names as file_name() shows them
       pgstore.file_type(i.kind) AS type,             -- file, directory, symlink, fifo, socket, character device, block device
       i.size_bytes::bigint AS size,
       to_timestamp(i.mtime_ns / 1e9) AS mtime,
       i.mode::integer AS mode,                       -- permission bits, an integer
       i.uid::bigint AS uid,
       i.gid::bigint AS gid,
       i.link_count,
       pgstore.file_name(i.link_target) AS link_target,
       nullif(greatest(t.version, i.version_from), 0) AS version,  -- the commit since which the path leads to this; NULL: nfs
       t.ino                                          -- read_file(store_id, ino) reads the file
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

-- Each of the following comes by id and by name. What is missing is error P0002 if it is the store, 42704 if it is the version, 58P01 if it
-- is the file; a directory where there should be a file, or the reverse, is 42809. What a transaction has done to a Volume in
-- Python is not to be seen before it commits.

CREATE FUNCTION pgstore.file_system_id(p_name text, p_environment text DEFAULT 'main') RETURNS bigint
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $function$
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

-- Where to look for a version: the newest state (NULL) is what is valid just before the end of all versions. Version 0, the Volume as
-- it was made, is there as long as version 1, or while there is none.
CREATE FUNCTION pgstore.file_version(p_store_id bigint, p_version bigint) RETURNS bigint
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $function$
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

-- Where a path leads. Symbolic links are followed, the last name's too; an absolute target begins at the root of the store.
CREATE FUNCTION pgstore.file_find(p_store_id bigint, p_path text, p_version bigint,
                                  OUT ino bigint, OUT kind "char", OUT version bigint)
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp SET standard_conforming_strings = on AS $function$
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

-- The bytes of a file, or p_length of them from p_offset on, which may reach beyond its end. At most 500 MiB at a time.
CREATE FUNCTION pgstore.read_file(p_store_id bigint, p_ino bigint, p_version bigint DEFAULT NULL,
                                  p_offset bigint DEFAULT 0, p_length bigint DEFAULT NULL) RETURNS bytea
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp SET standard_conforming_strings = on AS $function$
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
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
    target record;
BEGIN
    SELECT w.ino, w.kind INTO target FROM pgstore.file_find(p_store_id, p_path, p_version) w;
    IF target.kind <> 'f' THEN
        RAISE EXCEPTION '% is a %, not a file', quote_literal(p_path), pgstore.file_type(target.kind) USING ERRCODE = 'wrong_object_type';
    END IF;
    RETURN pgstore.read_file(p_store_id, target.ino, p_version, p_offset, p_length);
END
$function$;

CREATE FUNCTION pgstore.read_file(p_name text, p_path text, p_version bigint DEFAULT NULL, p_environment text DEFAULT 'main',
                                  p_offset bigint DEFAULT 0, p_length bigint DEFAULT NULL) RETURNS bytea
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
    RETURN pgstore.read_file(pgstore.file_system_id(p_name, p_environment), p_path, p_version, p_offset, p_length);
END
$function$;

-- The same as text; what is not text in this encoding is error 22021.
CREATE FUNCTION pgstore.read_text(p_store_id bigint, p_ino bigint, p_version bigint DEFAULT NULL, p_encoding text DEFAULT 'UTF8')
RETURNS text LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
    RETURN convert_from(pgstore.read_file(p_store_id, p_ino, p_version), p_encoding);
END
$function$;

CREATE FUNCTION pgstore.read_text(p_store_id bigint, p_path text, p_version bigint DEFAULT NULL, p_encoding text DEFAULT 'UTF8')
RETURNS text LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
    RETURN convert_from(pgstore.read_file(p_store_id, p_path, p_version), p_encoding);
END
$function$;

CREATE FUNCTION pgstore.read_text(p_name text, p_path text, p_version bigint DEFAULT NULL, p_environment text DEFAULT 'main',
                                  p_encoding text DEFAULT 'UTF8') RETURNS text
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
    RETURN convert_from(pgstore.read_file(p_name, p_path, p_version, p_environment), p_encoding);
END
$function$;

-- What a directory holds, in the order of the names' bytes; of a file: itself. p_recursive: all below it, in no order. Page by page:
-- p_limit entries, of the names after p_after, which is `name` of the last entry of the page before.
CREATE FUNCTION pgstore.list_directory(p_store_id bigint, p_path text, p_version bigint DEFAULT NULL,
                                       p_recursive boolean DEFAULT false, p_after bytea DEFAULT NULL, p_limit bigint DEFAULT NULL)
RETURNS TABLE (path text, type text, size bigint, mtime timestamptz, mode integer, link_target text, version bigint, ino bigint,
               name bytea)
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp SET jit = off AS $function$
#variable_conflict use_column
DECLARE
    at_version CONSTANT bigint := coalesce(p_version, 9223372036854775806);
    prefix     CONSTANT text := (SELECT string_agg(p.part, '/' ORDER BY p.position)
                                   FROM string_to_table(p_path, '/') WITH ORDINALITY AS p (part, position)
                                  WHERE p.part NOT IN ('', '.'));
    target     record;
BEGIN
    SELECT w.ino, w.kind, w.version INTO target FROM pgstore.file_find(p_store_id, p_path, p_version) w;
    IF p_recursive AND (p_after IS NOT NULL OR p_limit IS NOT NULL) THEN
        RAISE EXCEPTION 'a recursive listing has no pages' USING ERRCODE = 'invalid_parameter_value';
    ELSIF target.kind <> 'd' THEN
        RETURN QUERY
        SELECT prefix, pgstore.file_type(n.kind), n.size_bytes::bigint, to_timestamp(n.mtime_ns / 1e9), n.mode::integer, NULL::text,
               nullif(greatest(target.version, n.version_from), 0), n.ino::bigint, convert_to(substring(prefix FROM '[^/]*$'), 'UTF8')
          FROM pgstore.inode n
         WHERE n.store_id = p_store_id
           AND n.ino = target.ino
           AND n.version_from <= at_version
           AND n.version_to > at_version;
    ELSIF p_recursive THEN
        RETURN QUERY
        WITH RECURSIVE tree AS (
             SELECT target.ino, 'd'::"char" AS kind, prefix AS path, target.version AS version, NULL::bytea AS name
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
               nullif(greatest(target.version, e.version_from, i.version_from), 0), e.ino, e.name::bytea
          FROM (SELECT d.ino, d.name, d.version_from
                  FROM pgstore.dirent d
                 WHERE d.store_id = p_store_id
                   AND d.parent = target.ino
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
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
    RETURN QUERY
    SELECT *
      FROM pgstore.list_directory(pgstore.file_system_id(p_name, p_environment), p_path, p_version, p_recursive, p_after, p_limit);
END
$function$;

-- ------------------------------------------------------------------------------------------------------------ App, for SQL

-- Spawned calls; without what they were given and what they returned, which are pickles.
CREATE VIEW pgstore.calls AS
SELECT s.environment,
       s.name AS app,
       'fc-' || to_hex(c.store_id) || '-' || to_hex(c.id) AS call_id,  -- FunctionCall.object_id
       c.function,
       CASE c.state
           WHEN 'd' THEN 'done'
           WHEN 'f' THEN 'failed'
           WHEN 'p' THEN CASE WHEN e.id IS NOT NULL THEN 'running'
                              WHEN c.session_id IS NOT NULL AND r.id IS NULL THEN 'cancelled'  -- with the run that was to take it
                              ELSE 'pending'
                          END
           ELSE 'cancelled'
       END AS state,
       c.attempts,
       c.spawned_at,
       c.started_at,                                  -- the last attempt
       c.ended_at,
       c.error,                                       -- of the last attempt that came to nothing
       c.session_id AS run,                           -- NULL: any `pgstore worker` takes it
       c.store_id,
       c.id
  FROM pgstore.store s
  JOIN pgstore.spawned_call c ON c.store_id = s.id
  LEFT JOIN pgstore.queue_deferred e ON e.store_id = c.store_id
                                    AND e.id = c.lease_id
                                    AND e.kind = 'l'
                                    AND e.due_at > statement_timestamp()
  LEFT JOIN pgstore.session r ON r.id = c.session_id
 WHERE s.kind = 'app';

-- ------------------------------------------------------------------------------------ what a deletion takes with it

-- Deletes a store and all that it holds. Returns whether there was one; of a store that is gone it deletes what an insert left that
-- raced with the deletion. Its large objects are only noted, for each takes a lock until the commit: large_objects_unlink deletes
-- them afterwards, a few in each transaction.
CREATE FUNCTION pgstore.store_delete(p_store_id bigint) RETURNS boolean
LANGUAGE plpgsql VOLATILE STRICT SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
    existed boolean;
BEGIN
    -- The store's row first: inserts that read it meanwhile wait for nothing, and those that come after find none.
    DELETE FROM pgstore.store WHERE id = p_store_id;
    existed := FOUND;
    -- In the order of the keys, as who updates many of them locks them, or the two would wait for each other in a circle.
    PERFORM count(*)
       FROM (SELECT 1
               FROM pgstore.dict_entry
              WHERE store_id = p_store_id
              ORDER BY key
                FOR UPDATE) AS entry;
    DELETE FROM pgstore.dict_entry WHERE store_id = p_store_id;
    DELETE FROM pgstore.dict_change WHERE store_id = p_store_id;
    DELETE FROM pgstore.dict_lock WHERE store_id = p_store_id;
    DELETE FROM pgstore.queue_item WHERE store_id = p_store_id;
    DELETE FROM pgstore.queue_deferred WHERE store_id = p_store_id;
    DELETE FROM pgstore.queue_key WHERE store_id = p_store_id;
    DELETE FROM pgstore.queue_lapse WHERE store_id = p_store_id;
    DELETE FROM pgstore.queue_head WHERE store_id = p_store_id;
    DELETE FROM pgstore.queue_turn WHERE store_id = p_store_id;
    DELETE FROM pgstore.queue_count WHERE store_id = p_store_id;
    DELETE FROM pgstore.spawned_call WHERE store_id = p_store_id;
    PERFORM pgstore.large_objects_leave(p_store_id);  -- deletes the extents, too
    DELETE FROM pgstore.dirent WHERE store_id = p_store_id;
    DELETE FROM pgstore.inode WHERE store_id = p_store_id;
    DELETE FROM pgstore.blob WHERE store_id = p_store_id;
    DELETE FROM pgstore.chunk WHERE store_id = p_store_id;
    DELETE FROM pgstore.blob_candidate WHERE store_id = p_store_id;
    DELETE FROM pgstore.chunk_candidate WHERE store_id = p_store_id;
    DELETE FROM pgstore.inode_pin WHERE store_id = p_store_id;
    DELETE FROM pgstore.file_lock WHERE store_id = p_store_id;
    DELETE FROM pgstore.version_pin WHERE store_id = p_store_id;
    DELETE FROM pgstore.volume_version WHERE store_id = p_store_id;
    DELETE FROM pgstore.file_system WHERE store_id = p_store_id;
    RETURN existed;
END
$function$;

-- Deletes sessions without a heartbeat for p_silent, at most 100, and their ephemeral stores. Returns how many sessions. Their pins
-- and holds no longer count; collection deletes those, and what they were uploading.
CREATE FUNCTION pgstore.session_sweep(p_silent interval) RETURNS bigint
LANGUAGE plpgsql VOLATILE STRICT SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
    dead bigint[];
BEGIN
    -- Two sweepers never wait for each other: each takes what the other has not locked.
    dead := ARRAY(SELECT s.id
                    FROM pgstore.session s
                   WHERE s.heartbeat_at < statement_timestamp() - p_silent
                   ORDER BY s.id
                     FOR UPDATE SKIP LOCKED
                   LIMIT 100);
    PERFORM pgstore.store_delete(e.id)
       FROM (SELECT s.id
               FROM pgstore.store s
              WHERE s.session_id = ANY (dead)) AS e;
    DELETE FROM pgstore.session WHERE id = ANY (dead);
    RETURN cardinality(dead);
END
$function$;

-- ------------------------------------------------------------------------------------------------- all of it at a glance

-- One row a store: how much it holds. Counts rows, so it reads as much as it counts.
CREATE VIEW pgstore.store_sizes AS
SELECT s.environment,
       s.kind,
       s.name,                                        -- NULL: ephemeral
       s.id AS store_id,
       s.created_at,
       s.created_by,
       c.entries,                                     -- entries of a Dict, items of a Queue that can be taken, files of a Volume or NetworkFileSystem, calls of an App
       c.size_bytes                                   -- bytes of their values, payloads, contents, or arguments and outcomes
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
       SELECT count(*), coalesce(sum(q.size_bytes), 0)::bigint
         FROM pgstore.queue_items q
        WHERE s.kind = 'queue' AND q.store_id = s.id
       HAVING s.kind = 'queue'
        UNION ALL
       SELECT count(*), coalesce(sum(i.size_bytes), 0)::bigint
         FROM pgstore.inode i
        WHERE s.kind IN ('volume', 'nfs') AND i.store_id = s.id AND i.kind = 'f' AND i.version_to = 9223372036854775807
       HAVING s.kind IN ('volume', 'nfs')
        UNION ALL
       SELECT count(*),
              coalesce(sum(coalesce(octet_length(k.arguments), 0) + coalesce(octet_length(k.outcome), 0)), 0)::bigint
         FROM pgstore.spawned_call k
        WHERE s.kind = 'app' AND k.store_id = s.id
       HAVING s.kind = 'app'
 ) c;

-- ------------------------------------------------------------------------- what psql says of it: \d+ pgstore.*, \df+ pgstore.*, \dD+ pgstore.*
--
-- In short; the reasons stand above, with each object. A function is marked internal that is no use outside of pgstore's own code.

-- what there is once
COMMENT ON TABLE pgstore.schema_revision IS 'one row: the revision of this schema, written by `pgstore migrate` alone';
COMMENT ON COLUMN pgstore.schema_revision.version_num IS 'number of the newest revision in alembic/versions that was applied';
COMMENT ON TABLE pgstore.installation IS 'one row: what this installation is, and who may still use it';
COMMENT ON COLUMN pgstore.installation.singleton IS 'always true: there is one row';
COMMENT ON COLUMN pgstore.installation.id IS 'by which a client recognises its database on a connection that it was given';
COMMENT ON COLUMN pgstore.installation.oldest_code_revision IS 'code written for this revision or a later one works with this schema';

-- types of columns
COMMENT ON DOMAIN pgstore.stored_value IS 'bytes of one stored value: at most 256 MiB';
COMMENT ON DOMAIN pgstore.inline_contents IS 'contents of a file kept in its inode: at most 64 KiB';
COMMENT ON DOMAIN pgstore.entry_name IS 'name in a directory, as POSIX has it: 1 to 255 bytes in no encoding, without / and NUL; not . and ..';
COMMENT ON DOMAIN pgstore.inode_kind IS 'f file, d directory, l symbolic link, p fifo, s socket, c character device, b block device';
COMMENT ON DOMAIN pgstore.owner_number IS 'number of a user or group: 0 to 4294967294';
COMMENT ON DOMAIN pgstore.device_number IS 'number of a device as Linux has it: minor & 0xff | major << 8 | (minor & ~0xff) << 12';
COMMENT ON DOMAIN pgstore.permission_bits IS 'permission bits of a file, with set-user-ID, set-group-ID and sticky: 0 to 4095 (octal 7777)';
COMMENT ON DOMAIN pgstore.chunk_storage IS 'where bytes of files lie: r in rows, l in large objects';
COMMENT ON DOMAIN pgstore.whole_number IS 'integer from 0 on';
COMMENT ON DOMAIN pgstore.positive_number IS 'integer from 1 on';
COMMENT ON DOMAIN pgstore.byte_count IS 'bigint from 0 on: how many bytes';
COMMENT ON DOMAIN pgstore.ordinal IS 'bigint from 1 on';

-- sessions and stores
COMMENT ON SEQUENCE pgstore.session_id_seq IS 'upper 43 bits of session.id';
COMMENT ON TABLE pgstore.session IS 'client processes that own something which must not outlive them; without a heartbeat for ten minutes one is dead';
COMMENT ON COLUMN pgstore.session.id IS 'never used twice: a sequence above 20 bits by chance';
COMMENT ON COLUMN pgstore.session.host IS 'where the client process runs';
COMMENT ON COLUMN pgstore.session.pid IS 'of the client process, on host';
COMMENT ON COLUMN pgstore.session.started_at IS 'when the client process began to own something';
COMMENT ON COLUMN pgstore.session.heartbeat_at IS 'by the server''s clock, about once a minute';
COMMENT ON SEQUENCE pgstore.store_id_seq IS 'upper 43 bits of store.id';
COMMENT ON TABLE pgstore.store IS 'one row a Dict, Queue, Volume, NetworkFileSystem or App; small, and never written when one is used';
COMMENT ON COLUMN pgstore.store.id IS 'leads the key of every row of the store''s data; never used twice: a sequence above 20 bits by chance';
COMMENT ON COLUMN pgstore.store.environment IS 'name space of the store: names are unique within it';
COMMENT ON COLUMN pgstore.store.kind IS 'dict, queue, volume, nfs or app';
COMMENT ON COLUMN pgstore.store.name IS 'unique within environment and kind, of which volume and nfs are one; NULL: ephemeral';
COMMENT ON COLUMN pgstore.store.session_id IS 'of an ephemeral store: the session that owns it, with which it ends; else NULL';
COMMENT ON COLUMN pgstore.store.options IS 'fixed at creation. Dict: serializer, ttl, watch, json_projection; Queue: maxsize, max_attempts, backoff; Volume, NetworkFileSystem: storage, chunk_size, keep';
COMMENT ON COLUMN pgstore.store.created_at IS 'when it was made';
COMMENT ON COLUMN pgstore.store.created_by IS 'the login role that made it';
COMMENT ON INDEX pgstore.store_name IS 'one store a name; Volumes and NetworkFileSystems share one name space';

-- secrets
COMMENT ON TABLE pgstore.secret IS 'environment variables of functions, encrypted by a key that is never in the database';
COMMENT ON COLUMN pgstore.secret.environment IS 'name space of the secret';
COMMENT ON COLUMN pgstore.secret.name IS 'unique within the environment';
COMMENT ON COLUMN pgstore.secret.token IS 'Fernet token of a JSON object {environment, name, values: {variable: value}}';
COMMENT ON COLUMN pgstore.secret.created_at IS 'when a secret of this name was first made';
COMMENT ON COLUMN pgstore.secret.created_by IS 'the login role that made it';
COMMENT ON COLUMN pgstore.secret.updated_at IS 'when its values were last set';
COMMENT ON COLUMN pgstore.secret.last_used_at IS 'when a function last used it, to the minute; NULL: never';

-- Dict
COMMENT ON TABLE pgstore.dict_json_name IS 'names under which there was ever a Dict of serializer json: readers that name no serializer refuse to load pickles there';
COMMENT ON COLUMN pgstore.dict_json_name.environment IS 'as in store';
COMMENT ON COLUMN pgstore.dict_json_name.name IS 'as in store';
COMMENT ON SEQUENCE pgstore.dict_revision_seq IS 'gives dict_entry.revision';
COMMENT ON TABLE pgstore.dict_entry IS 'entries of Dicts; to read them in SQL use the view dict_items or dict_get()';
COMMENT ON COLUMN pgstore.dict_entry.store_id IS 'the Dict: store.id';
COMMENT ON COLUMN pgstore.dict_entry.key IS 'a str as itself; any other key as text after U+0001; see dict_key()';
COMMENT ON COLUMN pgstore.dict_entry.codec IS 'p pickle in value, s pickle after a signature of 16 bytes, i integer_value, f float_value, j json_value';
COMMENT ON COLUMN pgstore.dict_entry.integer_value IS 'codec i: the value';
COMMENT ON COLUMN pgstore.dict_entry.float_value IS 'codec f: the value';
COMMENT ON COLUMN pgstore.dict_entry.revision IS 'another with every write of the entry; not an order of commits';
COMMENT ON COLUMN pgstore.dict_entry.updated_at IS 'when the entry was last put';
COMMENT ON COLUMN pgstore.dict_entry.expires_at IS 'NULL: never; past it the entry does not exist for any reader, and is deleted later';
COMMENT ON COLUMN pgstore.dict_entry.key_pickle IS 'the pickled key, where its text cannot give it back; else NULL';
COMMENT ON COLUMN pgstore.dict_entry.value IS 'codec p, s: the pickled value';
COMMENT ON COLUMN pgstore.dict_entry.json_value IS 'codec j: the value; p, s: the same value again, where it is JSON and the Dict has json_projection';
COMMENT ON INDEX pgstore.dict_entry_expiry IS 'finds expired entries; those that never expire are not in it';
COMMENT ON SEQUENCE pgstore.dict_change_id_seq IS 'gives dict_change.id';
COMMENT ON TABLE pgstore.dict_change IS 'log of changes of Dicts made with watch=True, kept for an hour';
COMMENT ON COLUMN pgstore.dict_change.store_id IS 'the Dict: store.id';
COMMENT ON COLUMN pgstore.dict_change.transaction_id IS 'the transaction that made the change; numbers belong to their cluster';
COMMENT ON COLUMN pgstore.dict_change.id IS 'order of changes within a transaction';
COMMENT ON COLUMN pgstore.dict_change.revision IS 'of the entry put, or of the one removed; of a clear 0';
COMMENT ON COLUMN pgstore.dict_change.changed_at IS 'when the change was made, before its commit';
COMMENT ON COLUMN pgstore.dict_change.kind IS 'p put, d delete (not by expiry), c clear (one row for all entries)';
COMMENT ON COLUMN pgstore.dict_change.key IS 'as in dict_entry; of a clear the empty string';
COMMENT ON COLUMN pgstore.dict_change.key_pickle IS 'as in dict_entry';
COMMENT ON SEQUENCE pgstore.dict_lock_token_seq IS 'gives dict_lock.token';
COMMENT ON TABLE pgstore.dict_lock IS 'locks on keys of Dicts, held for a time (leases)';
COMMENT ON COLUMN pgstore.dict_lock.store_id IS 'the Dict: store.id';
COMMENT ON COLUMN pgstore.dict_lock.key IS 'as in dict_entry; there need be no entry';
COMMENT ON COLUMN pgstore.dict_lock.token IS 'of this acquisition: grows from one to the next, for fencing';
COMMENT ON COLUMN pgstore.dict_lock.acquired_at IS 'when the lock was taken';
COMMENT ON COLUMN pgstore.dict_lock.expires_at IS 'renewed by the holder while it lives; past it the lock is free';

-- Queue
COMMENT ON SEQUENCE pgstore.queue_item_id_seq IS 'gives queue_item.id';
COMMENT ON TABLE pgstore.queue_item IS 'items of Queues that can be taken; to look at them in SQL use the view queue_items';
COMMENT ON COLUMN pgstore.queue_item.store_id IS 'the Queue, or the App whose calls are items: store.id';
COMMENT ON COLUMN pgstore.queue_item.id IS 'order of the items within a partition';
COMMENT ON COLUMN pgstore.queue_item.put_at IS 'when the item was put';
COMMENT ON COLUMN pgstore.queue_item.codec IS 'p pickle, s pickle after a signature of 16 bytes, j JSON as UTF-8 text';
COMMENT ON COLUMN pgstore.queue_item.partition IS 'the partition the item is in; the default one is the empty string';
COMMENT ON COLUMN pgstore.queue_item.payload IS 'the item, as codec says';
COMMENT ON COLUMN pgstore.queue_item.attempts IS 'leases of the item that came to nothing';
COMMENT ON SEQUENCE pgstore.queue_deferred_id_seq IS 'gives queue_deferred.id';
COMMENT ON TABLE pgstore.queue_deferred IS 'items that nobody can take now: leased, delayed and dead ones; due ones move back to the end of queue_item';
COMMENT ON COLUMN pgstore.queue_deferred.store_id IS 'the Queue, or the App whose calls are items: store.id';
COMMENT ON COLUMN pgstore.queue_deferred.id IS 'token of the lease, used once';
COMMENT ON COLUMN pgstore.queue_deferred.put_at IS 'when the item was put';
COMMENT ON COLUMN pgstore.queue_deferred.due_at IS 'when it moves back, by the server''s clock; NULL: a dead letter, which stays';
COMMENT ON COLUMN pgstore.queue_deferred.attempts IS 'leases so far, a running one included';
COMMENT ON COLUMN pgstore.queue_deferred.kind IS 'l leased, d delayed, x dead';
COMMENT ON COLUMN pgstore.queue_deferred.codec IS 'as in queue_item';
COMMENT ON COLUMN pgstore.queue_deferred.partition IS 'as in queue_item';
COMMENT ON COLUMN pgstore.queue_deferred.payload IS 'as in queue_item';
COMMENT ON COLUMN pgstore.queue_deferred.reason IS 'what the last failure was';
COMMENT ON INDEX pgstore.queue_deferred_due IS 'next due item of a partition, for those who wait in it';
COMMENT ON INDEX pgstore.queue_deferred_next IS 'due items of a Queue, in all partitions';
COMMENT ON INDEX pgstore.queue_deferred_dead IS 'dead letters of a Queue';
COMMENT ON TABLE pgstore.queue_key IS 'idempotency keys of puts, for 24 hours: a put that is repeated with its key puts once';
COMMENT ON COLUMN pgstore.queue_key.store_id IS 'the Queue: store.id';
COMMENT ON COLUMN pgstore.queue_key.key IS 'as the caller gave it: at most 1024 bytes';
COMMENT ON COLUMN pgstore.queue_key.put_at IS 'when the put with this key was made';
COMMENT ON INDEX pgstore.queue_key_age IS 'finds keys that are too old';
COMMENT ON TABLE pgstore.queue_lapse IS 'partitions that will be emptied at a time (partition_ttl)';
COMMENT ON COLUMN pgstore.queue_lapse.store_id IS 'the Queue: store.id';
COMMENT ON COLUMN pgstore.queue_lapse.partition IS 'as in queue_item';
COMMENT ON COLUMN pgstore.queue_lapse.put_at IS 'of the last put that said so: what was put later stays';
COMMENT ON COLUMN pgstore.queue_lapse.lapses_at IS 'when the partition is emptied';
COMMENT ON INDEX pgstore.queue_lapse_next IS 'finds partitions whose time has come';
COMMENT ON TABLE pgstore.queue_head IS 'low watermarks of partitions, where gets start to look; only ever raised';
COMMENT ON COLUMN pgstore.queue_head.store_id IS 'the Queue, or the App: store.id';
COMMENT ON COLUMN pgstore.queue_head.partition IS 'as in queue_item';
COMMENT ON COLUMN pgstore.queue_head.low IS 'every item with an id below is gone for good';
COMMENT ON TABLE pgstore.queue_turn IS 'rows locked by whoever puts where puts wait for each other''s commits';
COMMENT ON COLUMN pgstore.queue_turn.store_id IS 'the Queue: store.id';
COMMENT ON COLUMN pgstore.queue_turn.kind IS 'o puts in order into the partition, r puts into a Queue with maxsize';
COMMENT ON COLUMN pgstore.queue_turn.partition IS 'as in queue_item; of kind r the empty string';
COMMENT ON TABLE pgstore.queue_count IS 'how many items have left a Queue, told by its clients every ten seconds';
COMMENT ON COLUMN pgstore.queue_count.store_id IS 'the Queue: store.id';
COMMENT ON COLUMN pgstore.queue_count.slot IS 'drawn by each client, so that they seldom meet in one row';
COMMENT ON COLUMN pgstore.queue_count.gets IS 'items taken for good, by get or by the end of a lease''s work';
COMMENT ON COLUMN pgstore.queue_count.cleared IS 'items removed by clear and discard';

-- App
COMMENT ON SEQUENCE pgstore.call_id_seq IS 'upper 43 bits of spawned_call.id';
COMMENT ON TABLE pgstore.spawned_call IS 'spawned calls of functions of Apps, and their outcomes; to look at them in SQL use the view calls';
COMMENT ON COLUMN pgstore.spawned_call.store_id IS 'the App: store.id';
COMMENT ON COLUMN pgstore.spawned_call.id IS 'never used twice: a sequence above 20 bits by chance';
COMMENT ON COLUMN pgstore.spawned_call.session_id IS 'the run that alone takes the call, and with which it ends; NULL: any worker takes it';
COMMENT ON COLUMN pgstore.spawned_call.lease_id IS 'queue_deferred.id of the last attempt: while that is leased the call runs';
COMMENT ON COLUMN pgstore.spawned_call.spawned_at IS 'when the call was spawned';
COMMENT ON COLUMN pgstore.spawned_call.started_at IS 'when the last attempt began';
COMMENT ON COLUMN pgstore.spawned_call.ended_at IS 'when the call ended; NULL while it is pending or running';
COMMENT ON COLUMN pgstore.spawned_call.attempts IS 'attempts begun so far';
COMMENT ON COLUMN pgstore.spawned_call.state IS 'p pending or running, d done, f failed, c cancelled, k cancelled with its worker killed at once';
COMMENT ON COLUMN pgstore.spawned_call.codec IS 'of arguments and outcome: p pickle, s pickle after a signature of 16 bytes';
COMMENT ON COLUMN pgstore.spawned_call.function IS 'as the App has it: "f", "Class.method"';
COMMENT ON COLUMN pgstore.spawned_call.arguments IS 'what the call was given; NULL when it has ended';
COMMENT ON COLUMN pgstore.spawned_call.outcome IS 'what it returned or raised; kept for seven days';
COMMENT ON COLUMN pgstore.spawned_call.error IS 'of the last attempt that came to nothing';
COMMENT ON INDEX pgstore.call_of_run IS 'calls of a run that have not ended';
COMMENT ON INDEX pgstore.call_outcome IS 'outcomes, to be deleted after seven days';
COMMENT ON INDEX pgstore.call_ended IS 'calls that have ended, to be deleted later';

-- Volume, NetworkFileSystem
COMMENT ON TABLE pgstore.file_system IS 'what of a Volume or NetworkFileSystem changes with use; the lock of this row is the order of commits';
COMMENT ON COLUMN pgstore.file_system.store_id IS 'the Volume or NetworkFileSystem: store.id';
COMMENT ON COLUMN pgstore.file_system.head IS 'newest committed version; 0: nothing is committed yet';
COMMENT ON COLUMN pgstore.file_system.chunk_size_bytes IS 'of new files; of a Volume''s files above 64 MiB at least 1 MiB';
COMMENT ON COLUMN pgstore.file_system.storage IS 'where bytes of files lie: r in rows, l in large objects';
COMMENT ON COLUMN pgstore.file_system.versions_kept IS 'Volume: this many of the newest versions stay readable';
COMMENT ON TABLE pgstore.volume_version IS 'committed versions of Volumes that can be read';
COMMENT ON COLUMN pgstore.volume_version.store_id IS 'the Volume: store.id';
COMMENT ON COLUMN pgstore.volume_version.version IS 'counted from 1 within the Volume';
COMMENT ON COLUMN pgstore.volume_version.committed_at IS 'when it was committed';
COMMENT ON TABLE pgstore.version_pin IS 'versions of Volumes that somebody reads: collection leaves them alone';
COMMENT ON COLUMN pgstore.version_pin.store_id IS 'the Volume: store.id';
COMMENT ON COLUMN pgstore.version_pin.session_id IS 'who reads; counts while this session lives';
COMMENT ON COLUMN pgstore.version_pin.version IS 'as in volume_version; 0: the Volume as it was made';
COMMENT ON TABLE pgstore.inode_pin IS 'inodes of NetworkFileSystems that somebody has open: they stay when their last name is gone';
COMMENT ON COLUMN pgstore.inode_pin.store_id IS 'the NetworkFileSystem: store.id';
COMMENT ON COLUMN pgstore.inode_pin.session_id IS 'who has it open; counts while this session lives';
COMMENT ON COLUMN pgstore.inode_pin.ino IS 'as in inode';
COMMENT ON TABLE pgstore.file_lock IS 'locks of whole files (flock) of NetworkFileSystems, taken by file_lock()';
COMMENT ON COLUMN pgstore.file_lock.store_id IS 'the NetworkFileSystem: store.id';
COMMENT ON COLUMN pgstore.file_lock.ino IS 'as in inode';
COMMENT ON COLUMN pgstore.file_lock.holder IS 'one open file of one mount, by a name that nobody else has';
COMMENT ON COLUMN pgstore.file_lock.is_exclusive IS 'nobody else may have it; else others may, too';
COMMENT ON COLUMN pgstore.file_lock.expires_at IS 'renewed by the mount while it lives; past it the lock is nobody''s';
COMMENT ON SEQUENCE pgstore.blob_id_seq IS 'gives blob.id';
COMMENT ON SEQUENCE pgstore.chunk_id_seq IS 'gives chunk.id';
COMMENT ON SEQUENCE pgstore.inode_seq IS 'gives inode.ino; 1 is the root of every file system';
COMMENT ON TABLE pgstore.blob IS 'one state of the bytes of a file above 64 KiB; copies of a file share it';
COMMENT ON COLUMN pgstore.blob.store_id IS 'the Volume or NetworkFileSystem: store.id';
COMMENT ON COLUMN pgstore.blob.id IS 'drawn from blob_id_seq';
COMMENT ON COLUMN pgstore.blob.chunk_size_bytes IS 'of all its chunks; what a shorter one lacks reads as zeros';
COMMENT ON COLUMN pgstore.blob.session_id IS 'who still writes it, before an inode refers to it; NULL afterwards';
COMMENT ON COLUMN pgstore.blob.is_shared IS 'copies may refer to it: it is never written again';
COMMENT ON INDEX pgstore.blob_unfinished IS 'blobs that are being written';
COMMENT ON TABLE pgstore.chunk IS 'a piece of the bytes of files; to read files in SQL use read_file()';
COMMENT ON COLUMN pgstore.chunk.store_id IS 'the Volume or NetworkFileSystem: store.id';
COMMENT ON COLUMN pgstore.chunk.id IS 'drawn from chunk_id_seq';
COMMENT ON COLUMN pgstore.chunk.data IS 'the bytes, at most chunk_size_bytes of the blob; what is missing reads as zeros';
COMMENT ON COLUMN pgstore.chunk.large_object IS 'oid of the large object with the bytes after a header, in place of data; written by functions only';
COMMENT ON TABLE pgstore.extent IS 'which chunk holds which bytes of a blob; where there is no row is a hole, read as zeros';
COMMENT ON COLUMN pgstore.extent.store_id IS 'the Volume or NetworkFileSystem: store.id';
COMMENT ON COLUMN pgstore.extent.blob_id IS 'the blob';
COMMENT ON COLUMN pgstore.extent.position IS 'number of the chunk in the blob: its bytes begin at position * chunk_size_bytes';
COMMENT ON COLUMN pgstore.extent.chunk_id IS 'the chunk';
COMMENT ON COLUMN pgstore.extent.is_owned IS 'no other extent has the chunk, which may be written in place';
COMMENT ON INDEX pgstore.extent_chunk IS 'extents that have a chunk';
COMMENT ON TABLE pgstore.inode IS 'files, directories and links apart from their names, in each version; to look at them in SQL use the view files';
COMMENT ON COLUMN pgstore.inode.store_id IS 'the Volume or NetworkFileSystem: store.id';
COMMENT ON COLUMN pgstore.inode.ino IS 'number of the inode, never used twice; 1 is the root directory';
COMMENT ON COLUMN pgstore.inode.version_from IS 'first version in which this row holds; 0: since the file was made';
COMMENT ON COLUMN pgstore.inode.version_to IS 'first version in which it holds no more; 9223372036854775807: it holds now';
COMMENT ON COLUMN pgstore.inode.kind IS 'f file, d directory, l symbolic link, p fifo, s socket, c character device, b block device';
COMMENT ON COLUMN pgstore.inode.mode IS 'permission bits';
COMMENT ON COLUMN pgstore.inode.uid IS 'number of the owner';
COMMENT ON COLUMN pgstore.inode.gid IS 'number of the group';
COMMENT ON COLUMN pgstore.inode.link_count IS 'names that lead to a file; of a directory 1';
COMMENT ON COLUMN pgstore.inode.size_bytes IS 'logical size: with holes the chunks may have fewer bytes';
COMMENT ON COLUMN pgstore.inode.mtime_ns IS 'when the contents changed: nanoseconds since 1970 UTC';
COMMENT ON COLUMN pgstore.inode.ctime_ns IS 'when the inode changed: nanoseconds since 1970 UTC';
COMMENT ON COLUMN pgstore.inode.blob_id IS 'the contents of a file above 64 KiB; else NULL';
COMMENT ON COLUMN pgstore.inode.link_target IS 'where a symbolic link leads, as it was given';
COMMENT ON COLUMN pgstore.inode.inline_data IS 'the contents of a file up to 64 KiB; NULL without a blob_id: empty';
COMMENT ON COLUMN pgstore.inode.parent IS 'of a directory: the inode of the one it is in; of the root 1';
COMMENT ON COLUMN pgstore.inode.xattrs IS 'extended attributes: {name: value in base64}; a name that is not UTF-8 is \x and its bytes in hex; NULL: none';
COMMENT ON COLUMN pgstore.inode.atime_ns IS 'last access as programs have set it: nanoseconds since 1970 UTC; NULL: as mtime_ns';
COMMENT ON COLUMN pgstore.inode.device IS 'of a device node: which device';
COMMENT ON INDEX pgstore.inode_blob IS 'inodes that refer to a blob';
COMMENT ON INDEX pgstore.inode_closed IS 'rows of former versions, for collection';
COMMENT ON INDEX pgstore.inode_nameless IS 'files without a name, which go when nobody has them open';
COMMENT ON TABLE pgstore.dirent IS 'names in directories, in each version';
COMMENT ON COLUMN pgstore.dirent.store_id IS 'the Volume or NetworkFileSystem: store.id';
COMMENT ON COLUMN pgstore.dirent.parent IS 'inode of the directory; 1 is the root';
COMMENT ON COLUMN pgstore.dirent.name IS 'the name, as bytes';
COMMENT ON COLUMN pgstore.dirent.version_from IS 'first version in which this row holds';
COMMENT ON COLUMN pgstore.dirent.version_to IS 'first version in which it holds no more; 9223372036854775807: it holds now';
COMMENT ON COLUMN pgstore.dirent.ino IS 'the inode that the name leads to';
COMMENT ON COLUMN pgstore.dirent.kind IS 'of that inode';
COMMENT ON INDEX pgstore.dirent_closed IS 'rows of former versions, for collection';
COMMENT ON TABLE pgstore.blob_candidate IS 'blobs that may have lost their last inode, for collection to look at';
COMMENT ON COLUMN pgstore.blob_candidate.store_id IS 'the Volume or NetworkFileSystem: store.id';
COMMENT ON COLUMN pgstore.blob_candidate.blob_id IS 'the blob';
COMMENT ON COLUMN pgstore.blob_candidate.noted_at IS 'the time of grace counts from here; -infinity: it is over';
COMMENT ON TABLE pgstore.chunk_candidate IS 'chunks that may have lost their last extent, for collection to look at';
COMMENT ON COLUMN pgstore.chunk_candidate.store_id IS 'the Volume or NetworkFileSystem: store.id';
COMMENT ON COLUMN pgstore.chunk_candidate.chunk_id IS 'the chunk';
COMMENT ON COLUMN pgstore.chunk_candidate.noted_at IS 'when it was noted';
COMMENT ON TABLE pgstore.large_object_left IS 'large objects of deleted stores, to be unlinked a few at a time';
COMMENT ON COLUMN pgstore.large_object_left.store_id IS 'the store that was deleted';
COMMENT ON COLUMN pgstore.large_object_left.chunk_id IS 'the chunk that was deleted';
COMMENT ON COLUMN pgstore.large_object_left.large_object IS 'oid; unlinked only if it begins with the header of that chunk';

-- views
COMMENT ON VIEW pgstore.dict_items IS 'every live entry of every Dict, with its value as jsonb';
COMMENT ON COLUMN pgstore.dict_items.environment IS 'of the Dict';
COMMENT ON COLUMN pgstore.dict_items.name IS 'of the Dict; NULL: ephemeral';
COMMENT ON COLUMN pgstore.dict_items.store_id IS 'the Dict: store.id';
COMMENT ON COLUMN pgstore.dict_items.key IS 'as in dict_entry: a str as itself';
COMMENT ON COLUMN pgstore.dict_items.value IS 'as jsonb; NULL where decode_pickle() gives up';
COMMENT ON COLUMN pgstore.dict_items.codec IS 'as in dict_entry';
COMMENT ON COLUMN pgstore.dict_items.revision IS 'another with every write of the entry';
COMMENT ON COLUMN pgstore.dict_items.updated_at IS 'when the entry was last put';
COMMENT ON COLUMN pgstore.dict_items.expires_at IS 'NULL: never';
COMMENT ON COLUMN pgstore.dict_items.size_bytes IS 'of the value; JSON as compressed';
COMMENT ON VIEW pgstore.queue_items IS 'every item of every Queue that can be taken, with its value as jsonb';
COMMENT ON COLUMN pgstore.queue_items.environment IS 'of the Queue';
COMMENT ON COLUMN pgstore.queue_items.name IS 'of the Queue; NULL: ephemeral';
COMMENT ON COLUMN pgstore.queue_items.store_id IS 'the Queue: store.id';
COMMENT ON COLUMN pgstore.queue_items.partition IS 'the default one is the empty string';
COMMENT ON COLUMN pgstore.queue_items.id IS 'order within the partition; NULL: due, but not moved back yet';
COMMENT ON COLUMN pgstore.queue_items.put_at IS 'when the item was put';
COMMENT ON COLUMN pgstore.queue_items.attempts IS 'leases of the item that came to nothing';
COMMENT ON COLUMN pgstore.queue_items.item IS 'as jsonb; NULL where decode_pickle() gives up';
COMMENT ON COLUMN pgstore.queue_items.size_bytes IS 'of the stored item';
COMMENT ON VIEW pgstore.queue_stats IS 'one row a Queue: what is in it, and what went through; reads as much as it counts';
COMMENT ON COLUMN pgstore.queue_stats.environment IS 'of the Queue';
COMMENT ON COLUMN pgstore.queue_stats.name IS 'of the Queue; NULL: ephemeral';
COMMENT ON COLUMN pgstore.queue_stats.store_id IS 'the Queue: store.id';
COMMENT ON COLUMN pgstore.queue_stats.depth IS 'items that can be taken';
COMMENT ON COLUMN pgstore.queue_stats.oldest_at IS 'when the oldest of them was put';
COMMENT ON COLUMN pgstore.queue_stats.oldest_age IS 'how long ago that was';
COMMENT ON COLUMN pgstore.queue_stats.leased IS 'items that somebody is at work on';
COMMENT ON COLUMN pgstore.queue_stats.delayed IS 'items whose time has not come';
COMMENT ON COLUMN pgstore.queue_stats.dead IS 'dead letters';
COMMENT ON COLUMN pgstore.queue_stats.puts IS 'items ever put';
COMMENT ON COLUMN pgstore.queue_stats.gets IS 'items taken for good; ten seconds late';
COMMENT ON COLUMN pgstore.queue_stats.cleared IS 'items removed by clear and discard; ten seconds late';
COMMENT ON VIEW pgstore.files IS 'every path of every Volume, in its newest version, and NetworkFileSystem; name a volume, or it goes through all';
COMMENT ON COLUMN pgstore.files.environment IS 'of the Volume or NetworkFileSystem';
COMMENT ON COLUMN pgstore.files.volume IS 'its name; NULL: ephemeral';
COMMENT ON COLUMN pgstore.files.kind IS 'volume or nfs';
COMMENT ON COLUMN pgstore.files.store_id IS 'store.id';
COMMENT ON COLUMN pgstore.files.path IS 'from the root, without a leading slash; names as file_name() shows them';
COMMENT ON COLUMN pgstore.files.type IS 'file, directory, symlink, fifo, socket, character device or block device';
COMMENT ON COLUMN pgstore.files.size IS 'logical size in bytes';
COMMENT ON COLUMN pgstore.files.mtime IS 'when the contents changed';
COMMENT ON COLUMN pgstore.files.mode IS 'permission bits, as an integer';
COMMENT ON COLUMN pgstore.files.uid IS 'number of the owner';
COMMENT ON COLUMN pgstore.files.gid IS 'number of the group';
COMMENT ON COLUMN pgstore.files.link_count IS 'names that lead to the file; of a directory 1';
COMMENT ON COLUMN pgstore.files.link_target IS 'where a symbolic link leads';
COMMENT ON COLUMN pgstore.files.version IS 'the commit since which the path leads to this; NULL: of a NetworkFileSystem';
COMMENT ON COLUMN pgstore.files.ino IS 'read_file(store_id, ino) reads the file';
COMMENT ON VIEW pgstore.calls IS 'spawned calls of all Apps, without what they were given and returned';
COMMENT ON COLUMN pgstore.calls.environment IS 'of the App';
COMMENT ON COLUMN pgstore.calls.app IS 'name of the App';
COMMENT ON COLUMN pgstore.calls.call_id IS 'FunctionCall.object_id';
COMMENT ON COLUMN pgstore.calls.function IS 'as the App has it: "f", "Class.method"';
COMMENT ON COLUMN pgstore.calls.state IS 'pending, running, done, failed or cancelled';
COMMENT ON COLUMN pgstore.calls.attempts IS 'attempts begun so far';
COMMENT ON COLUMN pgstore.calls.spawned_at IS 'when the call was spawned';
COMMENT ON COLUMN pgstore.calls.started_at IS 'when the last attempt began';
COMMENT ON COLUMN pgstore.calls.ended_at IS 'when the call ended';
COMMENT ON COLUMN pgstore.calls.error IS 'of the last attempt that came to nothing';
COMMENT ON COLUMN pgstore.calls.run IS 'session.id of the run that alone takes it; NULL: any worker takes it';
COMMENT ON COLUMN pgstore.calls.store_id IS 'the App: store.id';
COMMENT ON COLUMN pgstore.calls.id IS 'spawned_call.id';
COMMENT ON VIEW pgstore.store_sizes IS 'one row a store: how much it holds; reads as much as it counts';
COMMENT ON COLUMN pgstore.store_sizes.environment IS 'of the store';
COMMENT ON COLUMN pgstore.store_sizes.kind IS 'dict, queue, volume, nfs or app';
COMMENT ON COLUMN pgstore.store_sizes.name IS 'NULL: ephemeral';
COMMENT ON COLUMN pgstore.store_sizes.store_id IS 'store.id';
COMMENT ON COLUMN pgstore.store_sizes.created_at IS 'when it was made';
COMMENT ON COLUMN pgstore.store_sizes.created_by IS 'the login role that made it';
COMMENT ON COLUMN pgstore.store_sizes.entries IS 'entries of a Dict, items of a Queue that can be taken, files of a Volume or NetworkFileSystem, calls of an App';
COMMENT ON COLUMN pgstore.store_sizes.size_bytes IS 'bytes of their values, payloads, contents, or arguments and outcomes';

-- functions: reading pickles
COMMENT ON FUNCTION pgstore.float_json(double precision) IS 'a float as the shortest JSON text that gives it back, always with a fraction or an exponent';
COMMENT ON FUNCTION pgstore.pickle_text(bytea) IS 'internal: a str of a pickle as JSON text; NULL: not the UTF-8 that Python writes';
COMMENT ON FUNCTION pgstore.pickle_integer(bytea) IS 'internal: an int of a pickle, which is two''s complement, lowest byte first';
COMMENT ON FUNCTION pgstore.pickle_differ(jsonb) IS 'internal: whether it is certain that the elements of an array are as many in a set';
COMMENT ON FUNCTION pgstore.pickle_keys_differ(text[]) IS 'internal: whether it is certain that keys of a dict are as many in Python';
COMMENT ON FUNCTION pgstore.pickle_object(text, text, boolean, boolean) IS 'internal: what a well-known class makes of its arguments, as JSON text';
COMMENT ON FUNCTION pgstore.decode_pickle(bytea) IS 'a pickle (protocols 2 to 5) as jsonb, read as data: nothing in it is run; NULL for what it cannot show, never an error';

-- functions: Dict
COMMENT ON FUNCTION pgstore.dict_key(text) IS 'stored text of a str key: itself, but escaped after U+0001 and cut before a hash above 1024 bytes';
COMMENT ON FUNCTION pgstore.dict_id(text, text) IS 'store.id of a Dict by name and environment; error P0002 if there is none';
COMMENT ON FUNCTION pgstore.dict_get(bigint, text) IS 'value of a str key of the Dict with this id; NULL: there is no such key, or it has expired';
COMMENT ON FUNCTION pgstore.dict_get(text, text, text) IS 'value of a str key of a Dict, by name and environment; NULL: there is no such key, or it has expired';
COMMENT ON FUNCTION pgstore.dict_put(bigint, text, jsonb) IS 'put a value under a str key of the Dict with this id; numbers become what Python calls them';
COMMENT ON FUNCTION pgstore.dict_put(text, text, jsonb, text) IS 'put a value under a str key of a Dict, by name and environment; numbers become what Python calls them';
COMMENT ON FUNCTION pgstore.dict_delete(bigint, text) IS 'delete a str key of the Dict with this id; returns whether there was one';
COMMENT ON FUNCTION pgstore.dict_delete(text, text, text) IS 'delete a str key of a Dict, by name and environment; returns whether there was one';

-- functions: waking who waits
COMMENT ON FUNCTION pgstore.crc32(bytea) IS 'as zlib.crc32: 0 to 4294967295';
COMMENT ON FUNCTION pgstore.wake(integer, text, bigint, boolean, boolean) IS 'internal: tell as many of those who wait for a topic as there is something for';
COMMENT ON FUNCTION pgstore.topic_key(text) IS 'internal: key of a topic, for the advisory locks of those who wait';
COMMENT ON FUNCTION pgstore.wake_if_awaited(bigint, text, bigint) IS 'internal: tell as many of those who wait as there is something for, if anybody does';
COMMENT ON FUNCTION pgstore.notify_if_awaited(bigint, text) IS 'internal: tell all who wait for a topic, if anybody does';
COMMENT ON FUNCTION pgstore.wait_begin(integer, integer, text) IS 'internal: begin to wait for a topic';
COMMENT ON FUNCTION pgstore.wait_end(integer, integer, text) IS 'internal: end what wait_begin began';
COMMENT ON FUNCTION pgstore.mask_begin(integer) IS 'internal: let nobody be told of a topic, since the caller takes whatever comes';
COMMENT ON FUNCTION pgstore.mask_end(integer, boolean) IS 'internal: end what mask_begin began';
COMMENT ON FUNCTION pgstore.waiters(integer, integer, boolean) IS 'internal: how many slots of a topic are taken, and how many of them below one';

-- functions: Queue
COMMENT ON FUNCTION pgstore.queue_take_turn(bigint, text, text) IS 'internal: wait for the turn to put, and keep it until the end of the transaction';
COMMENT ON FUNCTION pgstore.queue_inserting(bigint) IS 'internal: what tells queue_advance that we insert, where the advisory lock is not to be had';
COMMENT ON FUNCTION pgstore.queue_put(bigint, jsonb, text) IS 'put a JSON value into the Queue with this id; error P0002 if there is none, 53400 if it is full';
COMMENT ON FUNCTION pgstore.queue_put(text, jsonb, text, text) IS 'put a JSON value into a Queue, by name and environment; error P0002 if there is none, 53400 if it is full';
COMMENT ON FUNCTION pgstore.queue_advance(bigint, text, bigint, text[], text) IS 'internal: raise the low watermark of a partition';
COMMENT ON FUNCTION pgstore.queue_look(bigint, text, bigint, integer, integer, boolean) IS 'internal: what a waiting taker asks: whether there are items, and when the next comes back';
COMMENT ON FUNCTION pgstore.queue_wait_begin(integer, integer, boolean, bigint, text, bigint) IS 'internal: begin to wait for items, and look';
COMMENT ON FUNCTION pgstore.queue_take(bigint, text, bigint, bigint) IS 'internal: take the oldest items of a partition, on a connection of the caller''s';

-- functions: large objects
COMMENT ON FUNCTION pgstore.chunk_header(bigint, bigint) IS 'internal: the 32 bytes that begin each large object of pgstore, and no other';
COMMENT ON FUNCTION pgstore.chunk_is_ours(bigint, bigint) IS 'whether a chunk''s large object is there and is its own; false for a chunk that is a row';
COMMENT ON FUNCTION pgstore.chunk_refuse(bigint, bigint) IS 'internal: raise the error for a chunk whose large object is missing or not its own';
COMMENT ON FUNCTION pgstore.chunk_read(bigint, bigint, bigint, integer) IS 'internal: read bytes of a chunk that is a large object';
COMMENT ON FUNCTION pgstore.chunk_create(bigint, bigint, bigint, bytea) IS 'internal: make a chunk that is a large object';
COMMENT ON FUNCTION pgstore.chunk_write(bigint, bigint, bigint, bytea) IS 'internal: write bytes into a chunk that is a large object';
COMMENT ON FUNCTION pgstore.chunk_copy(bigint, bigint, bigint, integer) IS 'internal: make a chunk of the first bytes of another';
COMMENT ON FUNCTION pgstore.chunk_truncate(bigint, bigint, integer) IS 'internal: cut a chunk that is a large object';
COMMENT ON FUNCTION pgstore.chunk_length(bigint, bigint) IS 'how many bytes a chunk has, wherever they are; NULL: none that are its own';
COMMENT ON FUNCTION pgstore.chunk_delete(bigint, bigint) IS 'internal: delete a chunk, and its large object if it has one of its own';
COMMENT ON FUNCTION pgstore.large_objects_leave(bigint) IS 'internal: part of store_delete: delete extents and chunks, and note the large objects';
COMMENT ON FUNCTION pgstore.large_objects_unlink(bigint) IS 'unlink up to 1,000 large objects of a deleted store; returns how many notes are done';

-- functions: files
COMMENT ON FUNCTION pgstore.bytes_overlaid(bytea, integer, bytea) IS 'internal: bytes with a piece written at an offset; what lies between becomes zeros';
COMMENT ON FUNCTION pgstore.blob_write(bigint, bigint, integer, bigint, bytea) IS 'internal: write into a blob that is not shared, of which the caller holds the locks';
COMMENT ON FUNCTION pgstore.chunk_replace(bigint, bigint, integer, bigint, bigint) IS 'internal: give an extent another chunk, and note the old one for collection';
COMMENT ON FUNCTION pgstore.blob_create(bigint, bytea) IS 'internal: make a blob for a file that is not inline any more; returns its id';
COMMENT ON FUNCTION pgstore.blob_fork(bigint, bigint, bigint) IS 'internal: make a blob with the first chunks of one that is shared; returns its id';
COMMENT ON FUNCTION pgstore.file_write(bigint, bigint, bigint, bytea, boolean, boolean) IS 'internal: write bytes of a file of a NetworkFileSystem; returns the new size, NULL: no such file';
COMMENT ON FUNCTION pgstore.file_punch(bigint, bigint, bigint, bigint, boolean) IS 'internal: make a hole in a file of a NetworkFileSystem; returns whether there is such a file';
COMMENT ON FUNCTION pgstore.file_truncate(bigint, bigint, bigint, boolean) IS 'internal: cut or grow a file of a NetworkFileSystem; returns whether there is such a file';
COMMENT ON FUNCTION pgstore.file_lock(bigint, bigint, text, boolean, double precision) IS 'internal: take the lock of a whole file for some seconds; false: others have it, NULL: no such file';
COMMENT ON FUNCTION pgstore.volume_put(bigint, bigint, bytea[], bytea, integer, bigint, bigint, bytea, boolean, integer, text, text) IS 'internal: commit one small file to a Volume; false: the directory or name is not as it has to be';
COMMENT ON FUNCTION pgstore.directories_lock(bigint, bigint[]) IS 'internal: lock directories in the order of their numbers; returns 0 or an errno of Linux';
COMMENT ON FUNCTION pgstore.directory_touch(bigint, bigint, bigint) IS 'internal: note that a name in a locked directory came or went';
COMMENT ON FUNCTION pgstore.file_unlink(bigint, bigint, bigint) IS 'internal: a file loses the name that led to it';
COMMENT ON FUNCTION pgstore.node_make(bigint, bigint, bytea, bigint, "char", integer, bigint, bigint, bigint, bytea, bytea, bigint, boolean, boolean) IS 'internal: make a file, directory, link or device of a NetworkFileSystem; returns 0 or an errno of Linux';
COMMENT ON FUNCTION pgstore.node_link(bigint, bigint, bigint, bytea, bigint, boolean) IS 'internal: give a file of a NetworkFileSystem another name; returns 0 or an errno of Linux';
COMMENT ON FUNCTION pgstore.node_remove(bigint, bigint, bytea, boolean, bigint, boolean) IS 'internal: remove an empty directory or a name of a NetworkFileSystem; refused is 0 or an errno of Linux';
COMMENT ON FUNCTION pgstore.node_rename(bigint, bigint, bytea, bigint, bytea, integer, bigint, boolean) IS 'internal: renameat2 in a NetworkFileSystem; refused is 0 or an errno of Linux';
COMMENT ON FUNCTION pgstore.live_put(bigint, bigint, bytea[], bytea, integer, bigint, bigint, bytea, boolean) IS 'internal: put one small file into a NetworkFileSystem; false: the directory or name is not as it has to be';
COMMENT ON FUNCTION pgstore.file_name(bytea) IS 'a name as text: UTF-8 as itself, each byte of anything else as \xff';
COMMENT ON FUNCTION pgstore.file_type("char") IS 'word for a kind of inode: file, directory, symlink, fifo, socket, character device, block device';
COMMENT ON FUNCTION pgstore.file_system_id(text, text) IS 'store.id of a Volume or NetworkFileSystem by name and environment; error P0002 if there is none';
COMMENT ON FUNCTION pgstore.file_version(bigint, bigint) IS 'internal: where to look for a version; NULL is the newest state; error 42704 if it is not kept';
COMMENT ON FUNCTION pgstore.file_find(bigint, text, bigint) IS 'where a path leads, symbolic links followed; error 58P01 if there is nothing';
COMMENT ON FUNCTION pgstore.read_file(bigint, bigint, bigint, bigint, bigint) IS 'bytes of a file by store and inode, or a part of them, in a version; at most 500 MiB';
COMMENT ON FUNCTION pgstore.read_file(bigint, text, bigint, bigint, bigint) IS 'bytes of a file by store and path, or a part of them, in a version; at most 500 MiB';
COMMENT ON FUNCTION pgstore.read_file(text, text, bigint, text, bigint, bigint) IS 'bytes of a file by names of store and path, or a part of them, in a version; at most 500 MiB';
COMMENT ON FUNCTION pgstore.read_text(bigint, bigint, bigint, text) IS 'text of a file by store and inode; error 22021 if it is not text in the encoding';
COMMENT ON FUNCTION pgstore.read_text(bigint, text, bigint, text) IS 'text of a file by store and path; error 22021 if it is not text in the encoding';
COMMENT ON FUNCTION pgstore.read_text(text, text, bigint, text, text) IS 'text of a file by names of store and path; error 22021 if it is not text in the encoding';
COMMENT ON FUNCTION pgstore.list_directory(bigint, text, bigint, boolean, bytea, bigint) IS 'what a directory holds, by store and path, in the order of names; recursive, or page by page';
COMMENT ON FUNCTION pgstore.list_directory(text, text, bigint, text, boolean, bytea, bigint) IS 'what a directory holds, by names of store and path, in the order of names; recursive, or page by page';

-- functions: what a deletion takes with it
COMMENT ON FUNCTION pgstore.store_delete(bigint) IS 'delete a store and all that it holds; then call large_objects_unlink until it returns 0. Returns whether there was one';
COMMENT ON FUNCTION pgstore.session_sweep(interval) IS 'delete at most 100 sessions without a heartbeat for so long, and their ephemeral stores; returns how many';
