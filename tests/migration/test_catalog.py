"""The rules that keep the schema distributable and safe (see the head of sql/schema.sql), held against the catalog.

Each query finds the breaches of one rule, and is shown to find one.
"""

from __future__ import annotations

import re

import psycopg
import pytest

from pgstore import migrate

# Not data of a store: `store` itself, names, what there is once, and processes.
UNDISTRIBUTED = ["store", "session", "installation", "schema_revision", "dict_json_name", "secret"]

RULES = {
    "the store id leads primary keys and unique indexes": """
        SELECT i.indexrelid::regclass
          FROM pg_index i
          JOIN pg_class c ON c.oid = i.indrelid
          LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = i.indkey[0]
         WHERE c.relnamespace = 'pgstore'::regnamespace AND i.indisunique AND c.relname <> ALL (%(undistributed)s)
           AND a.attname IS DISTINCT FROM 'store_id'
    """,
    "every table of data has a primary key": """
        SELECT c.oid::regclass
          FROM pg_class c
         WHERE c.relnamespace = 'pgstore'::regnamespace AND c.relkind IN ('r', 'p')
           AND NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary)
    """,
    "the store id is a bigint that is never missing": """
        SELECT c.oid::regclass
          FROM pg_class c
          LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'store_id'
         WHERE c.relnamespace = 'pgstore'::regnamespace AND c.relkind IN ('r', 'p')
           AND c.relname <> ALL (%(undistributed)s)
           AND (a.atttypid IS DISTINCT FROM 'bigint'::regtype OR NOT a.attnotnull)
    """,
    "foreign keys stay within a store or lead to store": """
        SELECT f.conname
          FROM pg_constraint f
          JOIN pg_class source ON source.oid = f.conrelid
          JOIN pg_class target ON target.oid = f.confrelid
         WHERE f.contype = 'f' AND f.connamespace = 'pgstore'::regnamespace
           AND (source.relname = ANY (%(undistributed)s)
                OR (SELECT attname FROM pg_attribute WHERE attrelid = f.conrelid AND attnum = f.conkey[1]) <> 'store_id'
                OR (SELECT attname FROM pg_attribute WHERE attrelid = f.confrelid AND attnum = f.confkey[1])
                   <> CASE target.relname WHEN 'store' THEN 'id' ELSE 'store_id' END
                OR f.confdeltype IN ('n', 'd') OR f.confupdtype IN ('n', 'd'))
    """,
    "no column is an identity": """
        SELECT a.attrelid::regclass || '.' || a.attname
          FROM pg_attribute a
          JOIN pg_class c ON c.oid = a.attrelid
         WHERE c.relnamespace = 'pgstore'::regnamespace AND a.attidentity <> ''
    """,
    "sequences are bigint, and belong to no column": """
        SELECT s.seqrelid::regclass
          FROM pg_sequence s
          JOIN pg_class c ON c.oid = s.seqrelid
         WHERE c.relnamespace = 'pgstore'::regnamespace
           AND (s.seqtypid <> 'bigint'::regtype OR s.seqcycle
                OR EXISTS (SELECT
                             FROM pg_depend d
                            WHERE d.objid = c.oid AND d.classid = 'pg_class'::regclass AND d.deptype IN ('a', 'i')))
    """,
    "columns filled from a sequence are bigint": """
        SELECT a.attrelid::regclass || '.' || a.attname
          FROM pg_attrdef d
          JOIN pg_attribute a ON a.attrelid = d.adrelid AND a.attnum = d.adnum
          JOIN pg_class c ON c.oid = d.adrelid
         WHERE c.relnamespace = 'pgstore'::regnamespace AND pg_get_expr(d.adbin, d.adrelid) LIKE 'nextval(%%'
           AND a.atttypid <> 'bigint'::regtype
    """,
    "functions are plpgsql": """
        SELECT p.oid::regprocedure
          FROM pg_proc p
          JOIN pg_language l ON l.oid = p.prolang
         WHERE p.pronamespace = 'pgstore'::regnamespace AND l.lanname <> 'plpgsql'
    """,
    "a function fixes its search_path": """
        SELECT p.oid::regprocedure
          FROM pg_proc p
         WHERE p.pronamespace = 'pgstore'::regnamespace
           AND 'search_path=pg_catalog, pg_temp' <> ALL (coalesce(p.proconfig, '{}'))
    """,
    "a function with a backslash fixes what that means": """
        SELECT p.oid::regprocedure
          FROM pg_proc p
         WHERE p.pronamespace = 'pgstore'::regnamespace
           AND strpos(p.prosrc, chr(92)) > 0
           AND 'standard_conforming_strings=on' <> ALL (coalesce(p.proconfig, '{}'))
    """,
    "a function with its owner's rights takes no oid": """
        SELECT p.oid::regprocedure
          FROM pg_proc p
         WHERE p.pronamespace = 'pgstore'::regnamespace AND p.prosecdef AND 'oid'::regtype = ANY (p.proargtypes)
    """,
    "nobody but the owner has rights that were not granted": """
        SELECT a.grantee::regrole
          FROM (SELECT n.nspowner, n.nspacl FROM pg_namespace n WHERE n.nspname = 'pgstore'
                 UNION ALL
                SELECT c.relowner, c.relacl FROM pg_class c WHERE c.relnamespace = 'pgstore'::regnamespace
                 UNION ALL
                SELECT p.proowner, coalesce(p.proacl, acldefault('f', p.proowner))
                  FROM pg_proc p
                 WHERE p.pronamespace = 'pgstore'::regnamespace
                 UNION ALL
                SELECT t.typowner, coalesce(t.typacl, acldefault('T', t.typowner))
                  FROM pg_type t
                 WHERE t.typnamespace = 'pgstore'::regnamespace AND t.typtype = 'd') AS part (owner, acl)
         CROSS JOIN LATERAL aclexplode(part.acl) a
         WHERE a.grantee <> part.owner AND a.grantee <> ALL (ARRAY(SELECT r.oid FROM pg_roles r WHERE r.rolname LIKE 'pgstore%%'))
    """,
    "no table has triggers of its own or row security": """
        SELECT c.oid::regclass
          FROM pg_class c
         WHERE c.relnamespace = 'pgstore'::regnamespace
           AND (c.relrowsecurity OR EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = c.oid AND NOT t.tgisinternal))
    """,
}

FUNCTION = "CREATE FUNCTION pgstore.f({args}) RETURNS int LANGUAGE {rest}"

BREACHES = {
    "the store id leads primary keys and unique indexes": [
        "CREATE UNIQUE INDEX bad ON pgstore.queue_item (id, store_id)",
        "CREATE UNIQUE INDEX bad ON pgstore.queue_item ((store_id + 0))",
    ],
    "every table of data has a primary key": ["CREATE TABLE pgstore.bad (store_id bigint NOT NULL)"],
    "the store id is a bigint that is never missing": [
        "CREATE TABLE pgstore.bad (store_id integer PRIMARY KEY)",
        "CREATE TABLE pgstore.bad (store_id bigint)",
        "CREATE TABLE pgstore.bad (id bigint PRIMARY KEY)",
    ],
    "foreign keys stay within a store or lead to store": [
        "ALTER TABLE pgstore.store ADD FOREIGN KEY (session_id) REFERENCES pgstore.session",
        "ALTER TABLE pgstore.inode ADD FOREIGN KEY (ino) REFERENCES pgstore.store",
        "ALTER TABLE pgstore.inode ADD FOREIGN KEY (blob_id, store_id) REFERENCES pgstore.blob (id, store_id)",
        "ALTER TABLE pgstore.blob ADD FOREIGN KEY (store_id) REFERENCES pgstore.store ON DELETE SET NULL",
    ],
    "no column is an identity": ["ALTER TABLE pgstore.blob ADD COLUMN bad bigint GENERATED ALWAYS AS IDENTITY"],
    "sequences are bigint, and belong to no column": [
        "CREATE SEQUENCE pgstore.bad AS integer",
        "ALTER TABLE pgstore.blob ADD COLUMN bad bigserial",
    ],
    "columns filled from a sequence are bigint": [
        "ALTER TABLE pgstore.blob ADD COLUMN bad integer DEFAULT nextval('pgstore.blob_id_seq')"
    ],
    "functions are plpgsql": [FUNCTION.format(args="", rest="sql AS 'SELECT 1'")],
    "a function fixes its search_path": [
        FUNCTION.format(args="", rest="plpgsql AS 'BEGIN RETURN 1; END'"),
        FUNCTION.format(args="", rest="plpgsql SET search_path = public AS 'BEGIN RETURN 1; END'"),
        FUNCTION.format(args="", rest="plpgsql SET search_path = public, pg_catalog, pg_temp AS 'BEGIN RETURN 1; END'"),
    ],
    "a function with a backslash fixes what that means": [
        FUNCTION.format(
            args="", rest=r"plpgsql SET search_path = pg_catalog, pg_temp AS $$BEGIN RETURN length('\\'); END$$"
        ),
    ],
    "a function with its owner's rights takes no oid": [
        FUNCTION.format(args="oid", rest="plpgsql SECURITY DEFINER AS 'BEGIN RETURN 1; END'"),
    ],
    "nobody but the owner has rights that were not granted": [
        "GRANT SELECT ON pgstore.store TO PUBLIC",
        "GRANT USAGE ON SCHEMA pgstore TO pg_monitor",
        "GRANT USAGE ON TYPE pgstore.entry_name TO PUBLIC",
        FUNCTION.format(args="", rest="plpgsql AS 'BEGIN RETURN 1; END'"),
    ],
    "no table has triggers of its own or row security": ["ALTER TABLE pgstore.blob ENABLE ROW LEVEL SECURITY"],
}


@pytest.fixture(scope="module")
def empty_tables(server, migrated_template):
    """The URL of a migrated database without rows: a deliberate breach must not fail for what other tests have left."""
    url = server.create_database(template=migrated_template)
    yield url
    server.drop_database(url)


@pytest.fixture
def breaches(empty_tables):
    """A call that gives the breaches of a rule, in a transaction that is rolled back."""
    with psycopg.connect(empty_tables) as connection:

        def breaches(rule, statement=None):
            if statement:
                connection.execute(statement)
            return [str(row[0]) for row in connection.execute(RULES[rule], {"undistributed": UNDISTRIBUTED})]

        yield breaches
        connection.rollback()


@pytest.mark.parametrize("rule", RULES)
def test_the_schema_keeps_the_rule(breaches, rule):
    """
    A table that breaks it cannot be distributed later without a rewrite, or opens a door.
    """
    assert breaches(rule) == []


@pytest.mark.parametrize(("rule", "statement"), [(rule, each) for rule, list_ in BREACHES.items() for each in list_])
def test_a_breach_of_the_rule_is_found(breaches, rule, statement):
    """
    A rule that finds nothing is worth nothing.
    """
    if "(blob_id, store_id)" in statement:  # the target needs such a key first
        statement = f"CREATE UNIQUE INDEX ON pgstore.blob (id, store_id); {statement}"

    assert len(breaches(rule, statement)) == 1


def test_every_rule_has_a_breach():
    """
    As the test before takes for granted.
    """
    assert RULES.keys() == BREACHES.keys()


# Bigints that no sequence gives: times, sizes, counts, versions; which session owns something, and whose row it is.
NOT_DRAWN = {
    "store_id", "session_id", "integer_value", "gets", "cleared", "head", "version", "version_from", "version_to", "size_bytes",
    "mtime_ns", "ctime_ns", "atime_ns", "uid", "gid", "device",
}  # fmt: skip


def test_the_check_of_sequences_knows_all_of_them(sql):
    """
    A list kept by hand forgets: it is held against what there is, each sequence with each column that may have a number of it.
    """
    check = (migrate.sql_directory() / "checks" / "sequences.sql").read_text()
    used = set(re.findall(r"SELECT '(\w+)', [^\n]*, '([^']+)' FROM pgstore\.(\w+)", check))
    columns = {(sequence, column) for sequence, places, _ in used for column in places.split(", ")}
    positions = dict(re.findall(r"SELECT '(\w+)', last_value \+ is_called::integer FROM pgstore\.(\w+)", check))

    sequences = {name for (name,) in sql("SELECT sequencename::text FROM pg_sequences WHERE schemaname = 'pgstore'")}
    drawing = sql(
        "SELECT s.relname::text, t.relname || '.' || a.attname FROM pg_depend d "
        "JOIN pg_class s ON s.oid = d.refobjid AND s.relkind = 'S' AND s.relnamespace = 'pgstore'::regnamespace "
        "JOIN pg_attrdef f ON f.oid = d.objid AND d.classid = 'pg_attrdef'::regclass "
        "JOIN pg_class t ON t.oid = f.adrelid JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum = f.adnum"
    )
    numbers = sql(
        "SELECT t.relname || '.' || a.attname, a.attname::text FROM pg_attribute a JOIN pg_class t ON t.oid = a.attrelid "
        "LEFT JOIN pg_type y ON y.oid = a.atttypid WHERE t.relnamespace = 'pgstore'::regnamespace AND t.relkind = 'r' "
        "AND a.attnum > 0 AND NOT a.attisdropped AND 'bigint'::regtype IN (a.atttypid, y.typbasetype)"
    )

    assert positions == {name: name for name in sequences}
    assert {sequence for sequence, _ in columns} == sequences
    assert len(drawing) > 5
    assert set(drawing) <= columns
    assert {place for place, name in numbers if name not in NOT_DRAWN} == {column for _, column in columns}


def test_a_deletion_knows_every_table_of_a_store(sql):
    """
    What it forgets stays for ever. Large objects are noted by a function of its own, which also deletes the extents.
    """
    ((deletion,),) = sql("SELECT prosrc FROM pg_proc WHERE oid = 'pgstore.store_delete(bigint)'::regprocedure")
    deleted = set(re.findall(r"DELETE FROM pgstore\.(\w+) WHERE store_id = p_store_id;", deletion))

    tables = sql(
        "SELECT c.relname::text FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'store_id' "
        "WHERE c.relnamespace = 'pgstore'::regnamespace AND c.relkind IN ('r', 'p')"
    )

    assert deleted == {name for (name,) in tables} - {"extent", "large_object_left"}
