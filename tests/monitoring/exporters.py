"""The files of exporters, made of sql/admin/metrics.sql.

For sql_exporter (https://github.com/burningalchemist/sql_exporter) a collector, for postgres_exporter
(https://github.com/prometheus-community/postgres_exporter) a file for `--extend.query-path`. Metrics have the same names in both.
"""

from __future__ import annotations

import json

from tests.monitoring.queries import MetricQuery, metric_queries

_HEAD = "# Made of metrics.sql beside this file; `python -m tests.monitoring.generate` writes it anew.\n"


def sql_exporter() -> str:
    queries = metric_queries()
    lines = [_HEAD + "collector_name: pgstore", "min_interval: 10s", "metrics:"]
    for query in queries:
        for metric in query.metrics:
            lines += [
                f"  - metric_name: {query.name}_{metric.column}",
                f"    type: {metric.kind}",
                f"    help: {_quoted(metric.text)}",
                *([f"    key_labels: [{', '.join(query.labels)}]"] if query.labels else []),
                f"    values: [{metric.column}]",
                f"    query_ref: {query.name}",
            ]
    lines.append("queries:")
    for query in queries:
        lines += [f"  - query_name: {query.name}", "    query: |", _indented(query, 6)]
    return "\n".join(lines) + "\n"


def postgres_exporter() -> str:
    lines = [_HEAD.rstrip("\n")]
    for query in metric_queries():
        lines += [f"{query.name}:", "  query: |", _indented(query, 4), "  metrics:"]
        for label in query.labels:
            lines += [f"    - {label}:", "        usage: LABEL", "        description: label"]
        for metric in query.metrics:
            lines += [
                f"    - {metric.column}:",
                f"        usage: {metric.kind.upper()}",
                f"        description: {_quoted(metric.text)}",
            ]
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)  # which YAML reads as the same


def _indented(query: MetricQuery, spaces: int) -> str:
    return "\n".join(f"{' ' * spaces}{line}".rstrip() for line in query.sql.strip("\n").splitlines())
