"""Who may do what: readers, writers, the owner, and everybody else, which is nothing."""

from __future__ import annotations

import psycopg
import pytest

from pgstore import migrate
from tests.migration.conftest import HEAD, ROOT, url_as

PUT = "INSERT INTO pgstore.dict_entry (store_id, key, codec, integer_value) VALUES (%s, %s, 'i', 1) RETURNING revision"

RELATIONS = """
SELECT c.oid::regclass::text, c.relkind::text, c.relname::text
  FROM pg_class c
 WHERE c.relnamespace = 'pgstore'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm', 'S')
"""
CALLS = """
SELECT format('%s.%I(%s)', 'pgstore', p.proname,
              (SELECT string_agg(CASE WHEN format_type(a.type, NULL) LIKE '%[]' THEN '''{1}''::' ELSE '''1''::' END
                                 || format_type(a.type, NULL), ', ' ORDER BY a.position)
                 FROM unnest(p.proargtypes) WITH ORDINALITY AS a (type, position)))
  FROM pg_proc p
 WHERE p.pronamespace = 'pgstore'::regnamespace
"""
UNCHANGED = ("installation", "schema_revision", "large_object_left")
OWNERS = """
SELECT DISTINCT pg_get_userbyid(owner)::text
  FROM (SELECT relowner FROM pg_class WHERE relnamespace = 'pgstore'::regnamespace
         UNION ALL SELECT proowner FROM pg_proc WHERE pronamespace = 'pgstore'::regnamespace
         UNION ALL SELECT nspowner FROM pg_namespace WHERE nspname = 'pgstore') o (owner)
"""


@pytest.fixture
def roles(each_cluster):
    return each_cluster.roles()


@pytest.fixture
def url(each_cluster, roles, next_revision):
    """A database with everything the schema has, and with functions."""
    url = each_cluster.database()
    next_revision()
    migrate.upgrade(url, roles=roles)
    return url


def member(cluster, role, options=""):
    login = cluster.login(options)
    cluster.grant(role, login)
    return login


def refused(cluster, url, statement, *parameters):
    """Whether the server answers "permission denied"; any other error is one of the test."""
    try:
        cluster.execute(url, statement, *parameters)
    except psycopg.errors.InsufficientPrivilege:
        return True
    return False


def changes(table):
    """Statements that change nothing, and need the right to."""
    columns = {"installation": "singleton", "schema_revision": "version_num", "store": "id", "session": "id"}
    column = {**columns, "dict_json_name": "name", "secret": "name"}.get(table, "store_id")
    name = f"pgstore.{table}"
    return [
        f"UPDATE {name} SET {column} = {column} WHERE false",
        f"DELETE FROM {name} WHERE false",
        f"INSERT INTO {name} SELECT * FROM {name} WHERE false",
    ]


def test_a_reader_reads_everything_and_changes_nothing(each_cluster, url, roles):
    """
    For dashboards, and for people with psql.
    """
    reader = url_as(url, member(each_cluster, roles.reader))

    for relation, kind, name in each_cluster.execute(url, RELATIONS):
        assert refused(each_cluster, reader, f"SELECT * FROM {relation} LIMIT 1") == (name == "secret"), relation
        if kind in "rp":
            assert [refused(each_cluster, reader, change) for change in changes(name)] == [True] * 3, relation
            assert refused(each_cluster, reader, f"TRUNCATE {relation}"), relation
        if kind == "S":
            assert refused(each_cluster, reader, "SELECT nextval(%s)", relation), relation
    assert not refused(each_cluster, reader, "SELECT name, created_by, last_used_at FROM pgstore.secret")
    assert refused(each_cluster, reader, "SELECT token FROM pgstore.secret")
    assert not refused(each_cluster, reader, "SELECT pgstore.dict_size(1)")
    for call in ("dict_forget(1)", "store_delete(1)", "session_sweep(interval '1 hour')"):
        assert refused(each_cluster, reader, f"SELECT pgstore.{call}"), call
    assert refused(each_cluster, reader, "CREATE TABLE pgstore.mine ()")


def test_a_writer_uses_stores_and_changes_no_table(each_cluster, url, roles):
    """
    For the programs that use pgstore.
    """
    writer = url_as(url, member(each_cluster, roles.writer))

    assert [len(each_cluster.execute(writer, PUT, 1, "a"))] == [1]
    for relation, kind, name in each_cluster.execute(url, RELATIONS):
        assert not refused(each_cluster, writer, f"SELECT * FROM {relation} LIMIT 1"), relation
        if kind in "rp":
            answers = [refused(each_cluster, writer, change) for change in changes(name)]
            # Of a chunk only the data: large objects are reached through functions (tests/integration/test_large_objects.py).
            # That a name was of a JSON Dict can be said, and not unsaid.
            others = {"chunk": [True, False, True], "dict_json_name": [True, True, False]}
            expected = others.get(name, [name in UNCHANGED] * 3)
            assert answers == expected, relation
            assert refused(each_cluster, writer, f"ALTER TABLE {relation} ADD COLUMN mine text"), relation
            assert refused(each_cluster, writer, f"TRUNCATE {relation}"), relation
        if kind == "S":
            assert not refused(each_cluster, writer, "SELECT nextval(%s)", relation), relation
            assert refused(each_cluster, writer, "SELECT setval(%s, 1)", relation), relation
    for call in ("dict_forget(1)", "store_delete(1)", "session_sweep(interval '1 hour')"):
        assert not refused(each_cluster, writer, f"SELECT pgstore.{call}"), call
    assert refused(each_cluster, writer, "CREATE TABLE pgstore.mine ()")
    assert refused(each_cluster, writer, "DROP SCHEMA pgstore CASCADE")


def test_a_stranger_sees_nothing(each_cluster, url):
    """
    Even when somebody later gives everybody the use of the schema.
    """
    stranger = url_as(url, each_cluster.login())

    def open_doors():
        for relation, kind, _ in each_cluster.execute(url, RELATIONS):
            if not refused(each_cluster, stranger, f"SELECT FROM {relation}"):
                yield relation
            if kind == "S" and not refused(each_cluster, stranger, "SELECT nextval(%s)", relation):
                yield relation
        for (call,) in each_cluster.execute(url, CALLS):
            if not refused(each_cluster, stranger, f"SELECT {call}"):
                yield call

    assert list(open_doors()) == []
    each_cluster.execute(url, "GRANT USAGE ON SCHEMA pgstore TO PUBLIC")
    assert list(open_doors()) == []


def test_a_member_of_the_owner_migrates_what_another_made(each_cluster, roles, next_revision):
    """
    People who deploy come and go.
    """
    url = each_cluster.database()
    migrate.upgrade(url, roles=roles)
    login = member(each_cluster, roles.owner)
    next_revision()

    report = migrate.upgrade(url_as(url, login), roles=roles)

    assert report == migrate.Report(HEAD, "9999", tuple(roles), ())
    assert each_cluster.execute(url, OWNERS) == [(roles.owner,)]


def test_a_role_that_may_create_roles_keeps_what_it_made(each_cluster, roles, next_revision):
    """
    Administrators of hosted databases are no superusers; since PostgreSQL 16 making a role does not let one use it.
    """
    url, login = each_cluster.database(), each_cluster.login("CREATEROLE")
    each_cluster.execute(url, f'GRANT CREATE ON DATABASE "{url.rpartition("/")[2]}" TO "{login}"')

    report = migrate.upgrade(url_as(url, login), roles=roles)

    assert report == migrate.Report(None, HEAD, tuple(roles), ())
    assert each_cluster.execute(url, OWNERS) == [(roles.owner,)]
    assert [len(each_cluster.execute(url_as(url, login), PUT, 1, "a"))] == [1]
    next_revision()
    assert migrate.upgrade(url_as(url, login), roles=roles).after == "9999"
    assert each_cluster.execute(url, OWNERS) == [(roles.owner,)]


@pytest.mark.parametrize("granting", [True, False])
def test_an_administrator_takes_the_schema_from_nobody_who_would_lose_it(each_cluster, roles, next_revision, granting):
    """
    An application made the schema on first use, and goes on while somebody with all rights migrates. What is new is its as well.
    """
    url, login = each_cluster.database(), each_cluster.login()
    each_cluster.execute(url, f'GRANT CREATE ON DATABASE "{url.rpartition("/")[2]}" TO "{login}"')
    migrate.upgrade(url_as(url, login), roles=None)
    next_revision()

    migrate.upgrade(url, roles=roles if granting else None)

    assert each_cluster.execute(url, OWNERS) == [(login,)]
    assert [len(each_cluster.execute(url_as(url, login), PUT, 1, "a"))] == [1]
    if granting:
        each_cluster.grant(roles.owner, login)
        migrate.upgrade(url, roles=roles)
        assert each_cluster.execute(url, OWNERS) == [(roles.owner,)]


def test_a_role_that_does_not_inherit_stays_the_owner(cluster, next_revision):
    """
    It would lose what it gives away. (Since PostgreSQL 16 inheriting belongs to the membership, and it can be granted.)
    """
    url, login, roles = cluster.database(), cluster.login("CREATEROLE NOINHERIT"), cluster.roles()
    cluster.execute(url, f'GRANT CREATE ON DATABASE "{url.rpartition("/")[2]}" TO "{login}"')

    report = migrate.upgrade(url_as(url, login), roles=roles)
    next_revision()
    again = migrate.upgrade(url_as(url, login), roles=roles)

    assert [report.roles_granted, again.roles_granted] == [tuple(roles)] * 2
    if cluster.execute(url, "SELECT current_setting('server_version_num')::integer < 160000") == [(True,)]:
        assert cluster.execute(url, OWNERS) == [(login,)]


def test_without_the_right_to_create_roles_they_are_left_out(each_cluster, roles):
    """
    One login that may create a schema is enough to begin with.
    """
    url, login = each_cluster.database(), each_cluster.login()
    each_cluster.execute(url, f'ALTER DATABASE "{url.rpartition("/")[2]}" OWNER TO "{login}"')

    report = migrate.upgrade(url_as(url, login), roles=roles)

    assert report == migrate.Report(None, HEAD, (), tuple(roles))
    assert each_cluster.execute(url, OWNERS) == [(login,)]


def test_roles_that_a_dba_made_later_are_used(each_cluster, roles):
    """
    The next migration, or running sql/admin/roles.sql, grants what is missing.
    """
    url, login = each_cluster.database(), each_cluster.login()
    each_cluster.execute(url, f'ALTER DATABASE "{url.rpartition("/")[2]}" OWNER TO "{login}"')
    migrate.upgrade(url_as(url, login), roles=roles)
    each_cluster.create(roles)

    report = migrate.upgrade(url_as(url, login), roles=roles)

    assert report == migrate.Report(HEAD, HEAD, tuple(roles), ())
    assert each_cluster.execute(url, OWNERS) == [(login,)], "given away by a role that then could not use it"
    assert [len(each_cluster.execute(url_as(url, member(each_cluster, roles.writer)), PUT, 1, "a"))] == [1]
    assert not refused(each_cluster, url_as(url, member(each_cluster, roles.owner)), "TRUNCATE pgstore.dict_entry")

    each_cluster.grant(roles.owner, login)
    migrate.upgrade(url_as(url, login), roles=roles)
    assert each_cluster.execute(url, OWNERS) == [(roles.owner,)]


def test_a_superusers_migration_takes_the_schema_from_nobody(each_cluster, roles, next_revision):
    """
    An application's role made it on first use, and goes on to use it, with what later revisions bring.
    """
    login = each_cluster.login()
    url = each_cluster.database()
    name = url.rpartition("/")[2]
    each_cluster.execute(url, f'ALTER DATABASE "{name}" OWNER TO "{login}"')
    migrate.upgrade(url_as(url, login), roles=None)

    migrate.upgrade(url, roles=roles)
    assert each_cluster.execute(url, OWNERS) == [(login,)]
    next_revision()
    migrate.upgrade(url, roles=roles)

    assert each_cluster.execute(url, OWNERS) == [(login,)]
    each_cluster.execute(url_as(url, login), "INSERT INTO pgstore.novelty VALUES (1)")
    assert len(each_cluster.execute(url_as(url, member(each_cluster, roles.writer)), PUT, 1, "a")) == 1


def test_what_another_put_into_the_schema_stays_theirs(each_cluster, roles):
    """
    A function that runs with its owner's rights would get those of pgstore's owner.
    """
    url, stranger = each_cluster.database(), each_cluster.login()
    migrate.upgrade(url, roles=roles)
    each_cluster.execute(url, f'GRANT USAGE, CREATE ON SCHEMA pgstore TO "{stranger}"')
    body = "LANGUAGE sql SECURITY DEFINER AS 'SELECT current_user::text'"
    each_cluster.execute(url_as(url, stranger), f"CREATE FUNCTION pgstore.who() RETURNS text {body}")

    migrate.upgrade(url, roles=roles)

    assert each_cluster.execute(url_as(url, stranger), "SELECT pgstore.who()") == [(stranger,)]


def test_a_schema_that_another_owns_keeps_its_owner(each_cluster, roles, next_revision):
    """
    A DBA made it for us, and we have nothing to grant on it; the members of its owner are none of our business.
    """
    url, login = each_cluster.database(), each_cluster.login()
    each_cluster.execute(url, "CREATE SCHEMA pgstore")
    each_cluster.execute(url, f'GRANT USAGE, CREATE ON SCHEMA pgstore TO "{login}"')
    each_cluster.create(roles)
    each_cluster.grant(roles.owner, login)

    report = migrate.upgrade(url_as(url, login), roles=roles)

    assert report == migrate.Report(None, HEAD, (), tuple(roles))
    next_revision()
    assert migrate.upgrade(url_as(url, login), roles=roles).after == "9999"


def test_without_roles_none_are_made(cluster):
    """
    Where nobody wants them, the cluster stays as it is; PUBLIC has no rights all the same.
    """
    url = cluster.database()
    before = cluster.execute(url, "SELECT rolname FROM pg_roles ORDER BY 1")
    cluster.execute(url, "CREATE SCHEMA pgstore")
    cluster.execute(url, "GRANT ALL ON SCHEMA pgstore TO PUBLIC")

    report = migrate.upgrade(url, roles=None)

    assert report == migrate.Report(None, HEAD, (), ())
    assert cluster.execute(url, "SELECT rolname FROM pg_roles ORDER BY 1") == before
    assert cluster.execute(url, "SELECT has_schema_privilege('public', 'pgstore', 'USAGE')") == [(False,)]


def test_one_role_may_be_reader_and_writer_and_owner(cluster):
    """
    Not everybody needs three.
    """
    url, roles = cluster.database(), cluster.roles()
    one = migrate.Roles(roles.owner, roles.owner, roles.owner)

    for _ in range(2):
        report = migrate.upgrade(url, roles=one)
        assert (report.roles_granted, report.roles_missing) == ((roles.owner,), ())

    login = member(cluster, roles.owner)
    assert not refused(cluster, url_as(url, login), "UPDATE pgstore.schema_revision SET version_num = version_num")
    assert migrate.upgrade(url_as(url, login), roles=one).before == HEAD


def test_a_dba_runs_the_grants_by_hand(cluster, next_revision):
    """
    As the head of sql/admin/roles.sql says, after somebody has changed rights by hand.
    """
    url, roles = cluster.database(), cluster.roles()
    next_revision()
    migrate.upgrade(url, roles=roles)
    granted = cluster.dump(url)
    cluster.execute(url, f'REVOKE SELECT ON pgstore.dict_entry FROM "{roles.reader}"')
    cluster.execute(url, "GRANT EXECUTE ON FUNCTION pgstore.dict_forget TO PUBLIC")
    assert granted != cluster.dump(url)

    names = [("reader", roles.reader), ("writer", roles.writer), ("owner", roles.owner)]
    settings = "".join(f"SET LOCAL pgstore.{kind} = '{name}';\n" for kind, name in names)
    cluster.psql(url, f"BEGIN;\n{settings}{(ROOT / 'sql' / 'admin' / 'roles.sql').read_text()}COMMIT;")

    # Rights are listed in the order in which they were granted.
    assert sorted(granted.splitlines()) == sorted(cluster.dump(url).splitlines())


KINDS = ["TABLES", "FUNCTIONS", "SCHEMAS", "SEQUENCES", "TYPES"]


def open_to(cluster, url, role):
    """What a role may do that only rights on pgstore let it do."""
    other = url_as(url, role)
    for relation, kind, name in cluster.execute(url, RELATIONS):
        for statement in [f"SELECT FROM {relation}", *(changes(name) if kind in "rp" else [])]:
            if not refused(cluster, other, statement):
                yield statement
    for (call,) in cluster.execute(url, CALLS):
        if not refused(cluster, other, f"SELECT {call}"):
            yield call


@pytest.mark.parametrize("to", ["a role", "PUBLIC"])
def test_default_privileges_of_the_database_let_nobody_in(each_cluster, roles, next_revision, to):
    """
    Hosted databases have them for the roles of their web interface. Neither the first migration nor a later one leaves a door open.
    """
    url, web = each_cluster.database(), each_cluster.login()
    grantee = "PUBLIC" if to == "PUBLIC" else f'"{web}"'
    for kind in KINDS:
        each_cluster.execute(url, f"ALTER DEFAULT PRIVILEGES GRANT ALL ON {kind} TO {grantee}")

    first = migrate.upgrade(url, roles=roles)
    assert list(open_to(each_cluster, url, web)) == []
    next_revision()
    second = migrate.upgrade(url, roles=roles)

    assert list(open_to(each_cluster, url, web)) == []
    assert (first.roles_else, second.roles_else) == ((), ())
    for kind in KINDS:
        each_cluster.execute(url, f"ALTER DEFAULT PRIVILEGES REVOKE ALL ON {kind} FROM {grantee}")
    for kind in ("FUNCTIONS", "TYPES"):
        each_cluster.execute(
            url, f"ALTER DEFAULT PRIVILEGES GRANT {'USAGE' if kind == 'TYPES' else 'EXECUTE'} ON {kind} TO PUBLIC"
        )


def test_default_privileges_give_a_reader_no_more_than_reading(each_cluster, roles, next_revision):
    """
    Also where the role that they are for is one of ours.
    """
    url = each_cluster.database()
    each_cluster.create(roles)
    for kind in KINDS:
        each_cluster.execute(url, f'ALTER DEFAULT PRIVILEGES GRANT ALL ON {kind} TO "{roles.reader}"')
    next_revision()

    migrate.upgrade(url, roles=roles)

    reader = url_as(url, member(each_cluster, roles.reader))
    assert not refused(each_cluster, reader, "SELECT FROM pgstore.store")
    assert not refused(each_cluster, reader, "SELECT pgstore.dict_size(1)")
    assert [refused(each_cluster, reader, change) for change in changes("store")] == [True] * 3
    assert refused(each_cluster, reader, "SELECT pgstore.dict_forget(1)")
    assert refused(each_cluster, reader, "CREATE TABLE pgstore.mine ()")
    for kind in KINDS:
        each_cluster.execute(url, f'ALTER DEFAULT PRIVILEGES REVOKE ALL ON {kind} FROM "{roles.reader}"')


def test_what_was_granted_by_hand_stays_and_is_named(each_cluster, roles, next_revision):
    """
    An administrator had a reason; whoever looks after them sees it.
    """
    url, auditor, clerk = each_cluster.database(), each_cluster.login(), each_cluster.login()
    migrate.upgrade(url, roles=roles)
    each_cluster.execute(url, f'GRANT USAGE ON SCHEMA pgstore TO "{auditor}"')
    each_cluster.execute(url, f'GRANT SELECT ON pgstore.store TO "{auditor}"')
    each_cluster.execute(url, f'GRANT SELECT (id) ON pgstore.session TO "{clerk}"')
    next_revision()

    report = migrate.upgrade(url, roles=roles)

    assert set(report.roles_else) == {auditor, clerk}
    assert not refused(each_cluster, url_as(url, auditor), "SELECT FROM pgstore.store")
    each_cluster.execute(url, f'REVOKE ALL ON SCHEMA pgstore FROM "{auditor}"')
    each_cluster.execute(url, f'REVOKE ALL ON pgstore.store FROM "{auditor}"')
    each_cluster.execute(url, f'REVOKE ALL ON pgstore.session FROM "{clerk}"')


def test_a_reader_may_keep_a_copy_of_what_it_reads(each_cluster, url, roles):
    """
    A table that is made of ours has columns of our types.
    """
    reader = url_as(url, member(each_cluster, roles.reader))

    for relation, kind, _ in each_cluster.execute(url, RELATIONS):
        if kind in "rv":
            # What secrets hold is for those who use them.
            columns = "environment, name, created_at" if relation == "pgstore.secret" else "*"
            assert not refused(each_cluster, reader, f"CREATE TEMP TABLE copy AS SELECT {columns} FROM {relation}"), (
                relation
            )
