"""`python -m tests.monitoring.generate`: write the files in sql/admin that are made of metrics.sql anew."""

from __future__ import annotations

from tests.monitoring.dashboard import dashboard
from tests.monitoring.exporters import postgres_exporter, sql_exporter
from tests.monitoring.queries import ADMIN

FILES = {"sql_exporter.yml": sql_exporter, "postgres_exporter.yml": postgres_exporter, "grafana.json": dashboard}


if __name__ == "__main__":
    for name, content in FILES.items():
        (ADMIN / name).write_text(content(), encoding="utf-8")
