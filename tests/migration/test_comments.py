"""What psql says of each object: `\\d+ pgstore.*`, `\\df+ pgstore.*`, `\\dD+ pgstore.*`."""

from __future__ import annotations

import psycopg
import pytest

CHARS_MAX = 200  # what a line of psql's tables still holds

# Indexes of primary keys explain themselves. Of views the columns count; of indexes and sequences they do not.
COMMENTS = """
SELECT pg_describe_object(o.classid, o.objid, o.objsubid) AS object,
       CASE WHEN o.objsubid > 0 THEN col_description(o.objid, o.objsubid)
            ELSE obj_description(o.objid, o.classid::regclass::name) END AS comment
  FROM (SELECT 'pg_class'::regclass::oid AS classid, c.oid AS objid, 0 AS objsubid
          FROM pg_class c
         WHERE c.relnamespace = 'pgstore'::regnamespace
           AND NOT EXISTS (SELECT FROM pg_index i WHERE i.indexrelid = c.oid AND i.indisprimary)
         UNION ALL
        SELECT 'pg_class'::regclass, a.attrelid, a.attnum
          FROM pg_attribute a
          JOIN pg_class c ON c.oid = a.attrelid
         WHERE c.relnamespace = 'pgstore'::regnamespace
           AND c.relkind NOT IN ('i', 'I', 'S')
           AND a.attnum > 0
           AND NOT a.attisdropped
         UNION ALL
        SELECT 'pg_proc'::regclass, p.oid, 0 FROM pg_proc p WHERE p.pronamespace = 'pgstore'::regnamespace
         UNION ALL
        SELECT 'pg_type'::regclass, t.oid, 0
          FROM pg_type t
         WHERE t.typnamespace = 'pgstore'::regnamespace
           AND t.typrelid = 0  -- not those of tables' rows, nor the arrays that come with each type
           AND NOT EXISTS (SELECT FROM pg_type e WHERE e.typarray = t.oid)
         UNION ALL
        SELECT 'pg_trigger'::regclass, g.oid, 0
          FROM pg_trigger g
          JOIN pg_class c ON c.oid = g.tgrelid
         WHERE c.relnamespace = 'pgstore'::regnamespace
           AND NOT g.tgisinternal) AS o
"""


@pytest.fixture(scope="module")
def connection(server, migrated_template):
    """A connection to a migrated database that is this module's alone."""
    url = server.create_database(template=migrated_template)
    with psycopg.connect(url) as connection:
        yield connection
    server.drop_database(url)


@pytest.fixture
def comments(connection):
    """A call that returns each object with its comment, after *statement*, which is rolled back."""

    def comments(statement=None):
        if statement:
            connection.execute(statement)
        found = dict(connection.execute(COMMENTS).fetchall())
        connection.rollback()
        return found

    return comments


def test_every_object_of_the_schema_has_a_comment_of_one_line(comments):
    """
    Whoever looks with psql for the first time finds there what each thing is.
    """
    found = comments()

    assert len(found) > 350
    assert [name for name, comment in found.items() if not (comment or "").strip()] == []
    assert {name: len(text) for name, text in found.items() if len(text) > CHARS_MAX or "\n" in text} == {}


@pytest.mark.parametrize(
    "statement",
    [
        "COMMENT ON COLUMN pgstore.store_sizes.entries IS NULL",
        "COMMENT ON FUNCTION pgstore.dict_get(bigint, text) IS NULL",
        "CREATE INDEX new ON pgstore.store (created_at)",
        "CREATE SEQUENCE pgstore.new",
        "CREATE DOMAIN pgstore.new AS integer",
        "CREATE TYPE pgstore.new AS ENUM ()",
        "ALTER TABLE pgstore.store ADD COLUMN new text",
        "CREATE TRIGGER new BEFORE UPDATE ON pgstore.store FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()",
    ],
)
def test_an_object_without_a_comment_is_found(comments, statement):
    found = comments(statement)

    assert len([name for name, comment in found.items() if comment is None]) == 1
