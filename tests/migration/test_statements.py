"""The rules of the schema's head that statements have to keep, held against what PostgreSQL's own parser makes of them."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from pglast import ast, parse_sql
from pglast.visitors import Visitor

from pgstore.core.statement import Statement
from tests.migration.test_search_path import UTILITY, statements

# What is about all stores, and so names none.
OF_ALL_STORES = (
    "SELECT CASE WHEN pg_try_advisory_xact_lock_shared(1885827945",  # check --repair, of every Queue whose watermark is wrong
    "SELECT c.store_id, sum(c.gets)::bigint",  # a live view, of all Queues
    "SELECT s.id, s.host, s.pid, s.started_at",  # the same, of all sessions
)
# They tell the state of the server, which changes by itself.
TELLING = {
    "clock_timestamp",
    "pg_control_checkpoint",
    "pg_control_system",
    "pg_current_wal_lsn",
    "pg_is_in_recovery",
    "pg_stat_get_bgwriter_stat_reset_time",
    "pg_total_relation_size",
}


class Query:
    """One level of a statement: its tables by alias, and what its conditions and results say."""

    def __init__(self, node: Any) -> None:
        self.node = node
        self.tables: dict[str, str] = {}
        self.named: set[str] = set()
        self.joined_by_store = False
        relation = getattr(node, "relation", None)
        if relation is not None and not isinstance(node, ast.InsertStmt):
            self._table(relation)
        for item in (*(getattr(node, "fromClause", None) or ()), *(getattr(node, "usingClause", None) or ())):
            self._item(item)
        self._condition(getattr(node, "whereClause", None))

    def _item(self, item: Any) -> None:
        if isinstance(item, ast.RangeVar):
            self._table(item)
        elif isinstance(item, ast.JoinExpr):
            self._item(item.larg)
            self._item(item.rarg)
            self._condition(item.quals)
            self.joined_by_store |= any(name.sval == "store_id" for name in item.usingClause or ())

    def _table(self, table: Any) -> None:
        if table.schemaname == "pgstore":
            self.tables[table.alias.aliasname if table.alias else table.relname] = table.relname

    def _condition(self, node: Any) -> None:
        if isinstance(node, ast.ColumnRef):
            fields = [getattr(field, "sval", "*") for field in node.fields or ()]
            if fields[-1] == "store_id":
                self.named.add(fields[-2] if len(fields) > 1 else "")
        elif isinstance(node, (tuple, list)):
            for each in node:
                self._condition(each)
        elif isinstance(node, ast.SubLink):
            self._condition(node.testexpr)
        elif isinstance(node, ast.Node):
            for slot in vars(type(node))["__slots__"]:
                self._condition(getattr(node, slot))

    def without_store(self, data: set[str]) -> Iterator[str]:
        """Tables of data of which this level does not say which store is meant."""
        for alias, table in self.tables.items():
            is_named = alias in self.named or self.joined_by_store or (len(self.tables) == 1 and "" in self.named)
            if table in data and not is_named:
                yield table


class Functions(Visitor):
    """The names of the functions that a part of a statement calls."""

    def __init__(self) -> None:
        self.names: set[str] = set()

    def visit_FuncCall(self, _ancestors: Any, node: Any) -> None:
        self.names.add(node.funcname[-1].sval)


def called(*nodes: Any) -> set[str]:
    found = Functions()
    for node in nodes:
        for each in node if isinstance(node, tuple) else (node,):
            if each is not None:
                found(each)
    return found.names


class Queries(Visitor):
    """All levels of a statement."""

    def __init__(self) -> None:
        self.found: list[Query] = []

    def _note(self, _ancestors: Any, node: Any) -> None:
        self.found.append(Query(node))

    visit_SelectStmt = visit_UpdateStmt = visit_DeleteStmt = visit_InsertStmt = _note


def queries(text: str) -> list[Query]:
    visitor = Queries()
    visitor(parse_sql(text))
    return visitor.found


def written(query: Query) -> set[str]:
    """The functions that an UPDATE or DELETE calls, or what a RETURNING does."""
    node = query.node
    returning = getattr(node, "returningClause", None)
    if isinstance(node, (ast.UpdateStmt, ast.DeleteStmt)):
        return called(node.whereClause, getattr(node, "targetList", None), getattr(node, "fromClause", None), returning)
    return called(returning)


@pytest.fixture(scope="module")
def catalog(server, migrated_template):
    """The tables with a store id, and the names that only volatile functions have."""
    with psycopg.connect(server.url(migrated_template)) as connection:
        tables = connection.execute(
            "SELECT table_name FROM information_schema.columns WHERE table_schema = 'pgstore' AND column_name = 'store_id'"
        ).fetchall()
        functions = connection.execute(
            """
            SELECT proname
              FROM pg_proc
             WHERE pronamespace IN ('pgstore'::regnamespace, 'pg_catalog'::regnamespace)
             GROUP BY proname
            HAVING bool_and(provolatile = 'v')
            """
        ).fetchall()
    return {name for (name,) in tables}, {name for (name,) in functions}


@pytest.fixture(scope="module")
def parsed():
    """Every statement with its levels."""
    return [(" ".join(text.split()), queries(text)) for text, _ in statements() if not UTILITY.match(text)]


def test_every_statement_says_which_store_it_means_for_every_table(catalog, parsed):
    """
    So the tables can be distributed by it, and no mistake reaches another store.
    """
    data, _ = catalog

    breaches = {
        text: tables
        for text, levels in parsed
        if not text.startswith(OF_ALL_STORES) and (tables := {table for q in levels for table in q.without_store(data)})
    }

    assert breaches == {}
    assert len(parsed) > 300


def test_no_update_and_no_delete_calls_what_may_answer_differently_each_time(catalog, parsed):
    """
    How often it is called is the planner's choice.
    """
    _, volatile = catalog

    breaches = {text: functions for text, levels in parsed for q in levels if (functions := written(q) & volatile)}

    assert breaches == {}


def test_what_is_read_only_changes_and_locks_nothing(catalog):
    """
    It is sent again when its connection breaks, and a replica could answer it.
    """
    _, volatile = catalog
    statements()  # imports every module
    read_only = {each.sql.decode() for each in gc.get_objects() if isinstance(each, Statement) and each.read_only}
    texts = [text for text in read_only if not UTILITY.match(text)]

    breaches = {
        " ".join(text.split()): names
        for text in texts
        for q in queries(text)
        if (names := (called(q.node) & volatile) - TELLING)
        or getattr(q.node, "lockingClause", None)
        or not isinstance(q.node, ast.SelectStmt)
    }

    assert breaches == {}
    assert len(texts) > 50


@pytest.mark.parametrize(
    "careless",
    [
        "SELECT 1 FROM pgstore.dict_entry WHERE key = $1",
        "SELECT 1 FROM pgstore.queue_item q JOIN pgstore.queue_head h ON h.partition = q.partition WHERE q.store_id = $1",
        "DELETE FROM pgstore.queue_item WHERE ctid = ANY (ARRAY(SELECT ctid FROM pgstore.queue_item WHERE store_id = $1))",
        "WITH gone AS (DELETE FROM pgstore.inode WHERE ino = $1 RETURNING 1) SELECT 1 FROM gone",
    ],
)
def test_a_statement_that_names_no_store_is_found(catalog, careless):
    """
    A test that finds nothing is worth nothing.
    """
    data, _ = catalog

    assert [table for q in queries(careless) for table in q.without_store(data)]


@pytest.mark.parametrize(
    "careless",
    [
        "UPDATE pgstore.dict_entry SET revision = nextval('pgstore.dict_revision_seq') WHERE store_id = $1",
        "DELETE FROM pgstore.dict_entry WHERE store_id = $1 AND random() < 0.5",
        "INSERT INTO pgstore.dict_lock (store_id) VALUES ($1) RETURNING gen_random_uuid()",
    ],
)
def test_what_answers_differently_each_time_is_found(catalog, careless):
    """
    A test that finds nothing is worth nothing.
    """
    _, volatile = catalog

    assert any(written(q) & volatile for q in queries(careless))
