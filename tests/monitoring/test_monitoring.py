"""What sql/admin offers to watch pgstore by: each query runs with read rights, says what it promises, and stays cheap."""

from __future__ import annotations

import json
import re

import psycopg
import pytest
import yaml
from psycopg.rows import dict_row

from pgstore import migrate
from tests.fixtures.filled import filled
from tests.monitoring.generate import FILES
from tests.monitoring.queries import ADMIN, metric_queries

QUERIES = {query.name: query for query in metric_queries()}
METRICS = {f"{query.name}_{metric.column}": query.labels for query in QUERIES.values() for metric in query.metrics}


@pytest.fixture(scope="module")
def connection(server, migrated_template):
    """A connection with the rights of a reader, to a database with something in every kind of store."""
    url = server.create_database(template=migrated_template)
    migrate.upgrade(url)
    with filled(url):
        with psycopg.connect(url, autocommit=True, row_factory=dict_row) as connection:
            connection.execute("ANALYZE")
            connection.execute("SET ROLE pgstore_reader")
            yield connection
    server.drop_database(url)


@pytest.mark.parametrize("name", QUERIES)
def test_a_query_tells_its_labels_and_metrics_to_a_reader(connection, name):
    """
    An exporter takes a missing value or label for a failure, and then tells nothing of it at all.
    """
    query = QUERIES[name]

    rows = connection.execute(query.sql.encode()).fetchall()

    assert rows
    assert query.metrics
    assert [list(row) for row in rows] == [[*query.labels, *(metric.column for metric in query.metrics)]] * len(rows)
    labels = [tuple(row[label] for label in query.labels) for row in rows]
    assert {type(value) for values in labels for value in values} <= {str}
    assert len(set(labels)) == len(rows)
    assert {type(row[metric.column]) for row in rows for metric in query.metrics} <= {int, float}


def test_what_is_told_is_so(connection):
    rows = {name: connection.execute(query.sql.encode()).fetchall() for name, query in QUERIES.items()}

    (tasks,) = (row for row in rows["pgstore_queue"] if row["name"] == "tasks")
    assert 0 < tasks.pop("oldest_age_seconds") < 60
    assert tasks == {
        "environment": "main",
        "name": "tasks",
        "depth": 4,
        "leased": 1,
        "delayed": 1,
        "dead": 1,
        "gets_total": 0,
        "cleared_total": 0,
        "puts": 7,
    }
    stores = {(row["kind"], row["environment"], row["name"]): row["rows_about"] for row in rows["pgstore_store"]}
    assert stores["dict", "main", "settings"] == 4
    assert stores["volume", "main", "models"] > 4  # directories, and old versions
    assert [(row["pending"], row["running"]) for row in rows["pgstore_app"]] == [(1, 0)]
    assert [(row["alive"], row["dead"], row["ephemeral_stores"]) for row in rows["pgstore_session"]] == [(1, 0, 1)]
    assert {row["relation"] for row in rows["pgstore_table"]} >= {"dict_entry", "inode"}


# Notes, of which at most so many are read, and what is small.
MAY_BE_SCANNED = {"blob_candidate", "chunk_candidate", "large_object_left", "store", "session", "schema_revision"}


def _scanned(connection, statement):
    """The tables that *statement* goes through, where no index serves it."""
    connection.execute("SET enable_seqscan = off")
    plan = connection.execute(f"EXPLAIN (FORMAT JSON) {statement}".encode()).fetchone()
    connection.execute("RESET enable_seqscan")
    found = set(re.findall(r"'Node Type': 'Seq Scan'.*?'Relation Name': '(\w+)'", str(plan)))
    return {name for name in found if not name.startswith("pg_")} - MAY_BE_SCANNED


@pytest.mark.parametrize("name", QUERIES)
def test_a_query_goes_through_no_table_of_data(connection, name):
    """
    It is run every few seconds, whatever has been stored.
    """
    assert _scanned(connection, QUERIES[name].sql) == set()


def test_a_query_that_goes_through_a_table_is_found(connection):
    statement = "SELECT s.name, (SELECT count(*) FROM pgstore.inode i WHERE i.uid = s.id) FROM pgstore.store s"

    assert _scanned(connection, statement) == {"inode"}


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_made_of_the_queries_is_up_to_date(name):
    assert (ADMIN / name).read_text() == FILES[name](), "run `python -m tests.monitoring.generate`"


def test_exporters_are_given_the_queries_and_the_metrics():
    """
    As their programs read the files.
    """
    collector = yaml.safe_load((ADMIN / "sql_exporter.yml").read_text())
    queries = yaml.safe_load((ADMIN / "postgres_exporter.yml").read_text())

    texts = {name: query.sql.strip() for name, query in QUERIES.items()}
    assert {each["query_name"]: each["query"].strip() for each in collector["queries"]} == texts
    assert {name: each["query"].strip() for name, each in queries.items()} == texts
    assert {each["metric_name"]: tuple(each.get("key_labels", ())) for each in collector["metrics"]} == METRICS
    assert {each["type"] for each in collector["metrics"]} == {"gauge", "counter"}
    of_postgres_exporter = {
        f"{name}_{column}"
        for name, each in queries.items()
        for metric in each["metrics"]
        for column, how in metric.items()
        if how["usage"] != "LABEL"
    }
    assert of_postgres_exporter == set(METRICS)


def test_the_dashboard_asks_for_what_there_is(connection):
    """
    A panel that asks for a metric that nobody tells stays empty, and looks as if all were well.
    """
    panels = json.loads((ADMIN / "grafana.json").read_text())["panels"]
    targets = [target for panel in panels for target in panel.get("targets", ())]
    expressions = [(target["expr"], target["legendFormat"]) for target in targets if "expr" in target]
    statements = [target["rawSql"] for target in targets if "rawSql" in target]

    for statement in statements:
        assert connection.execute(statement.encode()).fetchall()
    assert len({(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}) == len(panels)
    assert len(statements) + len(expressions) == len(targets) == 19
    for expression, legend in expressions:
        (metric,) = re.findall(r"pgstore_\w+", expression)
        assert set(re.findall(r"{{(\w+)}}", legend)) <= set(METRICS[metric])
