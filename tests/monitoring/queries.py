"""The queries of sql/admin/metrics.sql, taken apart: what each is called, its labels and its metrics."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ADMIN = Path(__file__).parents[2] / "sql" / "admin"
_NAME = re.compile(r"(?m)^-- name: (\w+)\n")
_METRIC = re.compile(r"(\w+),?\s+-- (gauge|counter): (.+)$")
_LABEL = re.compile(r"^(?:SELECT|      ) \S.*?(\w+),$")
_COMMENT = re.compile(r"(?m)\s*-- .*$")


@dataclass(frozen=True)
class Metric:
    column: str
    kind: str
    """gauge or counter"""
    text: str


@dataclass(frozen=True)
class MetricQuery:
    name: str
    sql: str
    """Without comments and semicolon."""
    labels: tuple[str, ...]
    metrics: tuple[Metric, ...]


def metric_queries() -> list[MetricQuery]:
    """All of them, in the order of the file."""
    _, *parts = _NAME.split((ADMIN / "metrics.sql").read_text(encoding="utf-8"))
    return [_query(name, text.partition(";\n")[0]) for name, text in zip(parts[::2], parts[1::2], strict=True)]


def _query(name: str, text: str) -> MetricQuery:
    lines = text.splitlines()
    begin = next(number for number, line in enumerate(lines) if line.startswith("SELECT "))
    end = next(number for number, line in enumerate(lines) if number > begin and line.startswith("  FROM "))
    columns = lines[begin:end]
    labels = [match[1] for line in columns if (match := _LABEL.match(line))]
    metrics = [Metric(*match.groups()) for line in columns if (match := _METRIC.search(line))]
    return MetricQuery(name, _COMMENT.sub("", text), tuple(labels), tuple(metrics))
