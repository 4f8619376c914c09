"""What OpenTelemetry is told: a span and measurements for each public operation, and nothing that is stored."""

from __future__ import annotations

import io
import json
import os
import queue as queues
import subprocess
import sys
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

import pgstore
from pgstore.client import telemetry
from pgstore.core import observation

ROOT = Path(__file__).parents[2]


class Told:
    """What the SDK has been told."""

    def __init__(self) -> None:
        self.tracers = TracerProvider()
        self._spans = InMemorySpanExporter()
        self.tracers.add_span_processor(SimpleSpanProcessor(self._spans))
        self._reader = InMemoryMetricReader()
        self.meters = MeterProvider([self._reader])

    def spans(self):
        """Those that have ended since the last call."""
        found = self._spans.get_finished_spans()
        self._spans.clear()
        return found

    def span(self):
        (span,) = self.spans()
        return span

    def points(self, name):
        """What was measured by the instrument *name*: attributes and point."""
        data = self._reader.get_metrics_data()
        return [
            (dict(point.attributes or {}), point)
            for resource in (data.resource_metrics if data else [])
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == name
            for point in metric.data.data_points
        ]

    def text(self):
        """All of it, as an exporter would write it."""
        data = self._reader.get_metrics_data()
        return "\n".join(span.to_json() for span in self._spans.get_finished_spans()) + (data.to_json() if data else "")


@pytest.fixture
def told(monkeypatch):
    """An SDK that was set up, for the length of a test: a process can have only one."""
    told = Told()
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: told.tracers)
    monkeypatch.setattr(metrics, "get_meter_provider", lambda: told.meters)
    monkeypatch.setattr(observation, "observer", telemetry._Undecided())
    yield told
    monkeypatch.undo()
    telemetry.look()
    assert observation.observer is None


@pytest.fixture
def store(client, told):
    """A Dict, in use already."""
    name = f"telemetry-{uuid.uuid4().hex[:8]}"
    store = pgstore.Dict.from_name(name, create_if_missing=True, client=client)
    store.put("here", "some value")
    told.spans()
    return store


@pytest.fixture
def queue(client, told):
    queue = pgstore.Queue.from_name(f"telemetry-{uuid.uuid4().hex[:8]}", create_if_missing=True, client=client)
    queue.hydrate()
    told.spans()
    return queue


def test_an_operation_is_a_span_with_the_attributes_of_database_clients(told, store, call):
    """
    The names are those of OpenTelemetry's conventions, by which backends know a call of a database.
    """
    assert call(store.get, "here") == "some value"

    span = told.span()
    attributes = dict(span.attributes)
    assert (span.name, span.kind, span.status.status_code) == ("pgstore.Dict.get", SpanKind.CLIENT, StatusCode.UNSET)
    assert attributes.pop("db.namespace").endswith("|pgstore")
    assert attributes.pop("pgstore.bytes.received") > len("some value")
    assert isinstance(attributes.pop("server.port"), int)
    assert attributes == {
        "db.system.name": "postgresql",
        "db.operation.name": "get",
        "server.address": "127.0.0.1",
        "pgstore.store.kind": "dict",
        "pgstore.store.name": store.name,
        "pgstore.rows": 1,
        "pgstore.bytes.sent": len("here"),
        "pgstore.statements": 1,
    }
    assert span.instrumentation_scope.name == "pgstore"


def test_no_key_and_no_value_is_told(told, store, queue):
    """
    Traces go to other companies, and are read by people who may not read the database.
    """
    store.put("private key", "private value")
    with pytest.raises(KeyError, match="private missing"):
        store["private missing"]
    with pytest.raises(pgstore.errors.InvalidError, match="private partition"):
        queue.put(1, partition="private partition" * 10)
    with pytest.raises(ZeroDivisionError, match="private reason"):
        store.update(_failing())
    queue.put("private item")
    assert queue.get() == "private item"

    assert told.text().count('"pgstore.') > 10
    assert "private" not in told.text()


def _failing():
    yield "a", 1
    raise ZeroDivisionError("private " + "reason")


def test_an_error_is_the_spans_with_its_type_and_place(told, store, call):
    with pytest.raises(pgstore.errors.InvalidError):
        call(store.increment, "here", by="one")
    missing = pgstore.Dict.from_name("no-such-dict", client=store._client)
    with pytest.raises(pgstore.errors.NotFoundError):
        call(missing.get, "here")

    span = told.spans()[-1]
    (event,) = span.events
    assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, "pgstore.errors.NotFoundError")
    assert span.attributes["error.type"] == event.attributes["exception.type"] == "pgstore.errors.NotFoundError"
    assert "handle.py" in event.attributes["exception.stacktrace"]


def test_an_answer_is_no_failure(told, store, queue, call):
    """
    A worker that polls an empty queue is no alarm.
    """
    with pytest.raises(KeyError):
        call(store._getitem, "missing")  # store["missing"]
    with pytest.raises(queues.Empty):
        call(queue.get, timeout=0.01)

    spans = told.spans()
    assert [(span.name, span.status.status_code, span.events) for span in spans] == [
        ("pgstore.Dict.getitem", StatusCode.UNSET, ()),
        ("pgstore.Queue.get", StatusCode.UNSET, ()),
    ]
    assert [span.attributes["error.type"] for span in spans] == [
        "pgstore.errors.MissingKeyError",
        "pgstore.errors.QueueEmpty",
    ]


def test_operations_are_children_of_their_transaction_and_that_of_the_callers_span(told, store, queue, call):
    tracer = told.tracers.get_tracer("a program")

    async def block():
        async with store._client.transaction():
            await store.put.aio("a", 1)
            await queue.put.aio(1)

    with tracer.start_as_current_span("request"):
        if call.form == "aio":
            call.run(block())
        else:
            with store._client.transaction():
                store.put("a", 1)
                queue.put(1)
        store.get("a") if call.form == "blocking" else call(store.get, "a")

    spans = {span.name: span for span in told.spans()}
    parents = {name: span.parent and span.parent.span_id for name, span in spans.items()}
    ids = {name: span.context.span_id for name, span in spans.items()}
    assert parents == {
        "pgstore.Dict.put": ids["pgstore.transaction"],
        "pgstore.Queue.put": ids["pgstore.transaction"],
        "pgstore.transaction": ids["request"],
        "pgstore.Dict.get": ids["request"],
        "request": None,
    }


def test_a_transaction_that_is_rolled_back_says_why(told, store):
    with pytest.raises(ZeroDivisionError), store._client.transaction():
        store.put("a", 1)
        raise ZeroDivisionError

    put, block = told.spans()
    assert (put.status.status_code, block.name) == (StatusCode.UNSET, "pgstore.transaction")
    assert block.attributes["error.type"] == "ZeroDivisionError"
    assert trace.get_current_span() is trace.INVALID_SPAN


def test_the_time_that_a_get_waits_is_told_apart(told, queue, client_elsewhere, sql, call):
    def put_once_it_waits():
        while not sql("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND classid = 1885827956")[0][0]:
            time.sleep(0.01)
        time.sleep(0.05)  # it is registered, and about to look
        pgstore.Queue.from_name(queue.name, client=client_elsewhere).put("late")

    with ThreadPoolExecutor(1) as threads:
        putting = threads.submit(put_once_it_waits)
        assert call(queue.get) == "late"
        putting.result()

    (span,) = [span for span in told.spans() if span.name == "pgstore.Queue.get"]
    assert 0 < span.attributes["pgstore.wait_seconds"] <= (span.end_time - span.start_time) / 1e9
    ((attributes, point),) = told.points("pgstore.client.wait")
    assert attributes["db.operation.name"] == "get"
    assert (point.count, point.sum) == (1, pytest.approx(span.attributes["pgstore.wait_seconds"]))


def test_a_loop_has_a_span_for_each_page(told, store, call):
    """
    Not one as long as the loop, which runs code of the caller's and may never come to its end.
    """
    store.update({f"key {number}": number for number in range(2500)})
    told.spans()

    assert len(call.iterate(store.iterate_keys())) == 2501

    spans = told.spans()
    assert {span.name for span in spans} == {"pgstore.Dict.iterate_keys"}
    assert len(spans) > 1
    assert sum(span.attributes["pgstore.rows"] for span in spans) >= 2501


def test_files_tell_how_many_bytes_have_moved(told, client, call):
    volume = pgstore.Volume.from_name(f"telemetry-{uuid.uuid4().hex[:8]}", create_if_missing=True, client=client)
    contents = os.urandom(3_000_000)

    call(volume.put_file, io.BytesIO(contents), "/a")
    put = told.spans()[-1]
    file = volume.open("/a", "rb")
    assert b"".join(call.iterate(volume.read_file("/a"))) == contents
    file.close()

    assert (put.name, put.attributes["pgstore.bytes.sent"] >= 3_000_000) == ("pgstore.Volume.put_file", True)
    names = [span.name for span in told.spans()]
    assert "pgstore.Volume.open" in names
    io_points = {
        (attributes["db.operation.name"], attributes["network.io.direction"]): point.value
        for attributes, point in told.points("pgstore.client.io")
    }
    assert io_points["put_file", "transmit"] >= 3_000_000
    assert io_points["read_file", "receive"] >= 3_000_000


def test_what_is_done_with_stores_is_told_too(told, client, store):
    client_objects = pgstore.Dict.objects
    client_objects.list(client=client)
    client_objects.delete(store.name, client=client)

    assert [span.name for span in told.spans()] == ["pgstore.Dict.objects.list", "pgstore.Dict.objects.delete"]


def test_durations_and_rows_are_measured_by_operation(told, store):
    for _ in range(3):
        store.get("here")

    ((attributes, point),) = [
        (attributes, point)
        for attributes, point in told.points("db.client.operation.duration")
        if attributes["db.operation.name"] == "get"
    ]
    assert (point.count, 0 < point.sum < 10) == (3, True)
    assert point.explicit_bounds[0] < 0.0001  # a read takes less than a tenth of a millisecond
    assert "pgstore.store.name" not in attributes  # of which there may be any number
    assert {attributes["db.operation.name"]: point.value for attributes, point in told.points("pgstore.client.rows")}[
        "get"
    ] == 3


class _Interrupting(SpanProcessor):
    """Stands for Ctrl-C while a span is exported."""

    def on_end(self, span):
        if span.name == "pgstore.Queue.get":
            raise KeyboardInterrupt


def test_ctrl_c_while_a_span_is_exported_loses_no_item(told, queue):
    """
    The item has left the database by then, and the caller does not have it. (On an event loop Ctrl-C comes at an await.)
    """
    queue.put("precious")
    told.tracers.add_span_processor(_Interrupting())

    with pytest.raises(KeyboardInterrupt):
        queue.get()

    assert queue.len() == 1


def test_a_client_can_be_left_out(told, database, monkeypatch):
    with pgstore.Client(database, telemetry=False) as quiet:
        pgstore.Dict.from_name("telemetry-quiet", create_if_missing=True, client=quiet).put("a", 1)
        with quiet.transaction():
            pass
    monkeypatch.setenv("PGSTORE_TELEMETRY", "0")
    with pgstore.Client(database) as quiet:
        pgstore.Dict.from_name("telemetry-quiet", create_if_missing=True, client=quiet).put("a", 1)

    assert told.spans() == ()


def test_an_sdk_that_is_set_up_late_is_found_with_the_next_connection(client, monkeypatch):
    store = pgstore.Dict.from_name("telemetry-late", create_if_missing=True, client=client)
    store.put("a", 1)
    assert observation.observer is None
    told = Told()
    with monkeypatch.context() as patch:
        patch.setattr(trace, "get_tracer_provider", lambda: told.tracers)
        client.close()
        store.put("a", 1)
        store.put("a", 2)
    told_then = [span.name for span in told.spans()]
    client.close()
    store.put("a", 3)

    assert told_then == ["pgstore.Dict.put"]
    assert observation.observer is None


def test_what_is_no_setting_is_refused(database, monkeypatch):
    with pytest.raises(pgstore.errors.ConfigurationError, match="telemetry is 'yes', expected True, False or None"):
        pgstore.Client(database, telemetry="yes")  # type: ignore[arg-type]
    for name in ("opentelemetry.trace", "opentelemetry.metrics"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(pgstore.errors.ConfigurationError, match=r"pip install 'pgstore\[otel\]'"):
        pgstore.Client(database, telemetry=True)


def test_a_program_without_opentelemetry_does_not_load_it(database):
    code = (
        "import sys, pgstore; d = pgstore.Dict.from_name('telemetry-none', create_if_missing=True); d['a'] = 1; print(d['a'],"
        "[name for name in sys.modules if name.startswith('opentelemetry')])"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env={"PGSTORE_URL": database, "PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout == "1 []\n"


PROGRAM = """
import json, sys
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import pgstore

exporter = InMemorySpanExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(exporter))
trace.set_tracer_provider(provider)
app = pgstore.App("telemetry")

@app.function()
def trace_id(fails=False):
    if fails:
        raise ValueError("private")
    return trace.get_current_span().get_span_context().trace_id

if __name__ == "__main__":
    with app.run():
        remote = trace_id.remote()
        try:
            trace_id.remote(fails=True)
        except ValueError:
            pass
    done = [span for span in exporter.get_finished_spans() if span.name == "pgstore.Function.call"]
    print(json.dumps([remote == done[0].context.trace_id, [span.attributes.get("error.type") for span in done]]))
"""


def test_a_call_of_a_function_continues_the_trace_in_its_worker(database, tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM)

    done = subprocess.run(
        [sys.executable, "program.py"],
        cwd=tmp_path,
        env={"PGSTORE_URL": database, "PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )

    assert json.loads(done.stdout) == [True, [None, "ValueError"]]
