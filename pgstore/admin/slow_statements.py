"""The statements on which most time goes, where pg_stat_statements is installed and readable."""

from __future__ import annotations

from typing import Any, Final

from pgstore import errors
from pgstore.admin.live_model import SlowStatement
from pgstore.client import Client
from pgstore.core.operation import Op, Query, Rows
from pgstore.core.statement import Statement

SHOWN_MAX: Final = 5
PERIOD_SECONDS: Final = 10.0  # between two looks: the server walks over all that it remembers

# Where the extension is, and whether this login may see the statements of others.
WHERE = Statement(
    """
    SELECT n.nspname::text,
           pg_has_role('pg_read_all_stats'::name, 'USAGE'::text)
      FROM pg_extension e
      JOIN pg_namespace n ON n.oid = e.extnamespace
     WHERE e.extname = 'pg_stat_statements'
    """,
    read_only=True,
)


class SlowStatements:
    """Compares what pg_stat_statements says at two moments. Texts, which are in a file of the server's, are asked for once."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._counters: Statement | None = None
        self._texts: Statement | None = None
        self._known: dict[int, str] = {}
        self._before: dict[int, tuple[int, float]] | None = None
        self._asked_at: float | None = None
        self._shown: list[SlowStatement] = []
        self.missing: str | None = None
        """Why there is nothing to show, or not all; None: all is."""

    def busiest(self, at: float) -> list[SlowStatement]:
        """The five on which most time went between the last two looks; of the first look, since the counters were reset."""
        if self._asked_at is not None and at - self._asked_at < PERIOD_SECONDS:
            return self._shown
        seconds = None if self._asked_at is None else at - self._asked_at
        self._asked_at = at
        try:
            self._shown = self._look(seconds)
        except (errors.StoreUnavailable, errors.SchemaError):
            raise
        except errors.Error as exc:  # as where the library is not loaded, or was dropped just now
            self._shown, self._counters, self.missing = [], None, f"pg_stat_statements cannot be read: {exc}"
        return self._shown

    def _look(self, seconds: float | None) -> list[SlowStatement]:
        if self._counters is None and not self._find():
            return []
        assert self._counters is not None
        now: dict[int, tuple[int, float]] = {query: (calls, time) for query, calls, time in self._rows(self._counters)}
        before = self._before or {}
        spent = []
        for query, (calls, time) in now.items():
            calls_before, time_before = before.get(query, (0, 0.0))
            if calls < calls_before:  # they were reset
                calls_before, time_before = 0, 0.0
            if calls > calls_before:
                spent.append((time - time_before, calls - calls_before, query))
        self._before = now
        busiest = sorted(spent, reverse=True)[:SHOWN_MAX]
        self._read_texts([query for *_, query in busiest])
        return [
            SlowStatement(
                " ".join(self._known.get(query, "?").split()),
                None if seconds is None else calls / seconds,
                time / calls,
                None if seconds is None else time / 1000 / seconds,
            )
            for time, calls, query in busiest
        ]

    def _find(self) -> bool:
        found = self._rows(WHERE)
        if not found:
            self.missing = "pg_stat_statements is not installed in this database"
            return False
        ((schema, may_see_all),) = found
        self._read_from(schema, may_see_all=may_see_all)
        return True

    def _read_from(self, schema: str, *, may_see_all: bool) -> None:
        name = '"' + schema.replace('"', '""') + '".pg_stat_statements'
        self._counters = Statement(
            f"""
            SELECT s.queryid, sum(s.calls)::bigint, sum(s.total_exec_time)::float8
              FROM {name}(false) s
              JOIN pg_database d ON d.oid = s.dbid
             WHERE d.datname = current_database()
               AND s.queryid IS NOT NULL
             GROUP BY s.queryid
            """,
            read_only=True,
            once=True,
        )
        self._texts = Statement(
            f"""
            SELECT DISTINCT ON (s.queryid) s.queryid, left(s.query, 500)
              FROM {name}(true) s
              JOIN pg_database d ON d.oid = s.dbid
             WHERE d.datname = current_database()
               AND s.queryid = ANY ($1)
            """,
            "int8[]",
            read_only=True,
            once=True,
        )
        self.missing = None if may_see_all else "of this login alone: GRANT pg_read_all_stats shows those of others"

    def _read_texts(self, queries: list[int]) -> None:
        new = [query for query in queries if query not in self._known]
        if new and self._texts is not None:
            if len(self._known) > 1000:
                self._known.clear()
            self._known.update(dict.fromkeys(new, "?"))
            self._known.update(dict(self._rows(self._texts, new)))

    def _rows(self, *query: Any) -> Rows:
        return self._client.run(_rows(Query(*query)))


def _rows(query: Query) -> Op[Rows]:
    return (yield query)  # type: ignore[no-any-return]
