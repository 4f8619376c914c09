"""The dashboard for Grafana: what there is now, asked of the database itself, and its course, asked of Prometheus.

Each row works without the other: choose a data source for the one that there is.
"""

from __future__ import annotations

import itertools
import json
from typing import Any

from tests.monitoring.queries import metric_queries

SQL = {"type": "grafana-postgresql-datasource", "uid": "${postgres}"}
PROMETHEUS = {"type": "prometheus", "uid": "${prometheus}"}

# Title, query, unit of its columns.
TABLES = [
    ("Queues", "pgstore_queue", {"oldest_age_seconds": "s"}),
    ("Stores, by estimate", "pgstore_store", {"bytes_about": "bytes"}),
    ("Calls of functions", "pgstore_app", {}),
    ("Sessions", "pgstore_session", {}),
    ("Connections", "pgstore_connection", {"oldest_snapshot_seconds": "s"}),
    ("To be collected", "pgstore_leftover", {}),
    ("Tables", "pgstore_table", {"bytes": "bytes", "since_vacuum_seconds": "s"}),
]
# Title, expression, legend, unit.
SERIES = [
    ("Items that wait", "pgstore_queue_depth", "{{environment}}/{{name}}", "short"),
    ("Items taken, a second", "rate(pgstore_queue_gets_total[5m])", "{{environment}}/{{name}}", "short"),
    ("Age of the next item", "pgstore_queue_oldest_age_seconds", "{{environment}}/{{name}}", "s"),
    ("Dead letters", "pgstore_queue_dead", "{{environment}}/{{name}}", "short"),
    ("Calls that wait", "pgstore_app_pending", "{{environment}}/{{name}}", "short"),
    ("Calls that failed within the hour", "pgstore_app_failed", "{{environment}}/{{name}}", "short"),
    ("The largest stores", "topk(10, pgstore_store_bytes_about)", "{{kind}} {{environment}}/{{name}}", "bytes"),
    ("The largest tables", "topk(10, pgstore_table_bytes)", "{{relation}}", "bytes"),
    ("Dead rows", "topk(10, pgstore_table_dead_rows)", "{{relation}}", "short"),
    ("Connections", "pgstore_connection_open", "open", "short"),
    ("Who waits", "pgstore_connection_waiters", "topics", "short"),
    ("The oldest snapshot", "pgstore_connection_oldest_snapshot_seconds", "age", "s"),
]


def dashboard() -> str:
    """The text of grafana.json."""
    queries = {query.name: query.sql.strip("\n") for query in metric_queries()}
    panels = [_row("Now", 0)]
    panels += [
        _panel(
            "table", title, SQL, {"rawSql": queries[name], "format": "table", "rawQuery": True}, place, overrides=units
        )
        for place, (title, name, units) in zip(_places(1), TABLES, strict=False)
    ]
    below = 1 + 8 * -(-len(TABLES) // 2)
    panels.append(_row("Over time", below))
    panels += [
        _panel("timeseries", title, PROMETHEUS, {"expr": expression, "legendFormat": legend}, place, unit=unit)
        for place, (title, expression, legend, unit) in zip(_places(below + 1), SERIES, strict=False)
    ]
    for number, panel in enumerate(panels, 1):
        panel["id"] = number
    return (
        json.dumps(
            {
                "uid": "pgstore",
                "title": "pgstore",
                "tags": ["pgstore", "postgresql"],
                "schemaVersion": 39,
                "version": 1,
                "editable": True,
                "refresh": "30s",
                "time": {"from": "now-6h", "to": "now"},
                "templating": {
                    "list": [
                        {"type": "datasource", "name": "postgres", "label": "Database", "query": SQL["type"]},
                        {
                            "type": "datasource",
                            "name": "prometheus",
                            "label": "Prometheus",
                            "query": PROMETHEUS["type"],
                        },
                    ]
                },
                "panels": panels,
            },
            indent=2,
        )
        + "\n"
    )


def _places(top: int) -> Any:
    """Where panels stand, two beside each other."""
    return ({"x": 12 * (number % 2), "y": top + 8 * (number // 2), "w": 12, "h": 8} for number in itertools.count())


def _row(title: str, top: int) -> dict[str, Any]:
    return {
        "type": "row",
        "title": title,
        "collapsed": False,
        "panels": [],
        "gridPos": {"x": 0, "y": top, "w": 24, "h": 1},
    }


def _panel(
    kind: str,
    title: str,
    source: dict[str, str],
    target: dict[str, Any],
    place: dict[str, int],
    *,
    unit: str = "short",
    overrides: dict[str, str] | None = None,
) -> dict[str, Any]:
    return {
        "type": kind,
        "title": title,
        "datasource": source,
        "gridPos": place,
        "targets": [{"refId": "A", "datasource": source, **target}],
        "fieldConfig": {
            "defaults": {"unit": unit, "custom": {}},
            "overrides": [
                {"matcher": {"id": "byName", "options": column}, "properties": [{"id": "unit", "value": unit_}]}
                for column, unit_ in (overrides or {}).items()
            ],
        },
        "options": {},
    }
