"""OpenTelemetry: a span and measurements for each public operation, where the program has set OpenTelemetry up.

Only its API is used (extra `otel`), and only where the program has imported that: else no SDK can be there to be told. Whether one
is, is asked before the first operation and whenever a connection is opened, so a program may set it up late. Attributes follow the
semantic conventions for database clients (https://opentelemetry.io/docs/specs/semconv/database/). None holds a key, a value or the
text of an error, which may hold either.

What an operation does is seen from the requests that it yields (`core.operation`), by a generator around it that hands them on. It
ends the span before the operation returns: an interrupt then still finds what the operation took in the hands of the executor,
which puts it back.
"""

from __future__ import annotations

import contextlib
import os
import queue
import sys
import traceback
import weakref
from collections.abc import Generator
from importlib.metadata import version
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final, TypeVar

import psycopg
from psycopg.conninfo import conninfo_to_dict

from pgstore import errors
from pgstore.client.tally import Tally
from pgstore.core import observation

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Span, SpanKind

T = TypeVar("T")

_SCOPE: Final = "pgstore"
# Of the API itself: a provider that stands for none, or a proxy for one that is still to come.
_OF_API: Final = ("opentelemetry.trace", "opentelemetry.metrics")
_VARIABLES: Final = ("OTEL_PYTHON_TRACER_PROVIDER", "OTEL_PYTHON_METER_PROVIDER")  # name one that the API then loads
# Answers rather than failures: there is no such key, nothing has come, there is no room.
_ANSWERS: Final = (KeyError, queue.Empty, queue.Full, GeneratorExit)
# Seconds. A read takes 25 µs beside the server, and a wait minutes.
_BOUNDS: Final = (0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 60.0)

_is_wanted = False


def prepare(*, required: bool) -> None:
    """
    A client is to be observed, if there is somebody to observe.

    Raises:
        ConfigurationError: it is *required*, and the API is not installed.
    """
    global _is_wanted
    if required:
        try:
            import opentelemetry.metrics
            import opentelemetry.trace  # noqa: F401
        except ImportError as exc:
            raise errors.ConfigurationError("telemetry=True needs OpenTelemetry: pip install 'pgstore[otel]'") from exc
    _is_wanted = True
    if observation.observer is None:
        observation.observer = _Undecided()


def look() -> None:
    """Begin to observe, or stop, by what the program has set up by now."""
    if not _is_wanted:
        return
    tracers, meters = _providers()
    current = observation.observer
    if tracers is None and meters is None:
        observation.observer = None
    elif not (isinstance(current, _Telemetry) and current.providers == (tracers, meters)):
        observation.observer = _Telemetry(tracers, meters)


def _providers() -> tuple[Any, Any]:
    """The program's providers of tracers and of meters; None: there is none."""
    if not any(name in sys.modules for name in _OF_API) and not any(name in os.environ for name in _VARIABLES):
        return None, None
    try:
        from opentelemetry import metrics, trace
    except ImportError:
        return None, None
    found: tuple[Any, Any] = (trace.get_tracer_provider(), metrics.get_meter_provider())
    tracers, meters = (None if type(each).__module__.startswith(_OF_API) else each for each in found)
    if tracers is not None and isinstance(tracers.get_tracer(_SCOPE), trace.NoOpTracer):  # OTEL_SDK_DISABLED
        tracers = meters = None
    return tracers, meters


class _Undecided:
    """Looks at the first thing that is done, and has it observed by who is found."""

    def operation(
        self, op: Generator[Any, Any, T], owner: Any, name: str, runner: Any = None
    ) -> Generator[Any, Any, T]:
        look()
        return observation.observed(op, owner, name, runner)

    def block(self, transaction: Any) -> observation.Ended | None:
        look()
        return None if observation.observer is None else observation.observer.block(transaction)

    def call(self, function: str) -> tuple[dict[str, str], observation.Ended] | None:
        look()
        return None if observation.observer is None else observation.observer.call(function)

    def job(self, function: str, trace: dict[str, str] | None) -> observation.Ended | None:
        look()
        return None if observation.observer is None else observation.observer.job(function, trace)


class _Telemetry:
    """The observer that OpenTelemetry is told by."""

    def __init__(self, tracers: Any, meters: Any) -> None:
        self.providers = (tracers, meters)
        self._tracer = None if tracers is None else tracers.get_tracer(_SCOPE, version("pgstore"))
        self._places: weakref.WeakKeyDictionary[Any, dict[str, str | int]] = weakref.WeakKeyDictionary()
        self._has_meters = meters is not None
        if meters is not None:
            meter = meters.get_meter(_SCOPE, version("pgstore"))
            self._duration = meter.create_histogram(
                "db.client.operation.duration",
                "s",
                "how long operations took, what they waited for included",
                explicit_bucket_boundaries_advisory=_BOUNDS,
            )
            self._wait = meter.create_histogram(
                "pgstore.client.wait",
                "s",
                "how long operations waited for other clients: Queue.get for an item, Lock.acquire for the lock",
                explicit_bucket_boundaries_advisory=_BOUNDS,
            )
            self._rows = meter.create_counter("pgstore.client.rows", "{row}", "rows that were read or changed")
            self._io = meter.create_counter("pgstore.client.io", "By", "bytes of what was sent and received")

    # ------------------------------------------------------------------------------------------------- operations

    def operation(
        self, op: Generator[Any, Any, T], owner: Any, name: str, runner: Any = None
    ) -> Generator[Any, Any, T]:
        runner = owner._runner if runner is None else runner
        # Not what workers ask all the time, which is no operation of the user's.
        if not getattr(runner, "is_observed", True) or getattr(owner, "_kind", None) == "app":
            return op
        return self._observed(op, owner, name.lstrip("_"), runner)

    def _observed(self, op: Generator[Any, Any, T], owner: Any, name: str, runner: Any) -> Generator[Any, Any, T]:
        label, kind, store = _described(owner)
        attributes: dict[str, str | int] = {"db.operation.name": name}
        if kind is not None:
            attributes["pgstore.store.kind"] = kind
        if kind != "bucket":
            attributes["db.system.name"] = "postgresql"
        shown = attributes if store is None else {**attributes, "pgstore.store.name": store}
        tally, begun = Tally(), perf_counter()
        span, token = self._begin(f"pgstore.{label}.{name}", shown)
        try:
            request = next(op)
            while True:
                since = perf_counter()
                try:
                    answer = yield tally.asked(request)
                    # Within the `try`: an interrupt must reach the operation, wherever it comes.
                    tally.answered(request, answer, perf_counter() - since)
                except BaseException as exc:
                    request = op.throw(exc)
                else:
                    request = op.send(answer)
        except StopIteration as done:
            self._end(span, token, begun, attributes, runner, tally, None)
            return done.value  # type: ignore[no-any-return]
        except BaseException as exc:
            self._end(span, token, begun, attributes, runner, tally, exc)
            raise

    def _begin(
        self, name: str, attributes: dict[str, str | int], parent: Context | None = None, kind: SpanKind | None = None
    ) -> tuple[Span | None, Any]:
        """A span that is the current one from now on, and what undoes that."""
        if self._tracer is None:
            return None, None
        from opentelemetry import context, trace

        span = self._tracer.start_span(name, parent, kind=kind or trace.SpanKind.CLIENT, attributes=attributes)
        return span, context.attach(trace.set_span_in_context(span, parent))

    def _end(
        self,
        span: Span | None,
        token: Any,
        begun: float,
        attributes: dict[str, str | int],
        runner: Any,
        tally: Tally | None,
        failure: BaseException | str | None,
    ) -> None:
        seconds = perf_counter() - begun
        measured = {**attributes, **self._place(runner)} if "db.system.name" in attributes else dict(attributes)
        if failure is not None:
            measured["error.type"] = failure if isinstance(failure, str) else _name_of(failure)
            if sqlstate := _sqlstate(failure):
                measured["db.response.status_code"] = sqlstate
        if span is not None:
            if span.is_recording():
                span.set_attributes(measured if tally is None else {**measured, **tally.attributes()})
                if failure is not None and not isinstance(failure, _ANSWERS):
                    _note(span, failure)
            _leave(span, token)
        if self._has_meters and tally is not None:
            self._measure(measured, seconds, tally)

    def _measure(self, attributes: dict[str, str | int], seconds: float, tally: Tally) -> None:
        self._duration.record(seconds, attributes)
        takes = attributes.get("pgstore.store.kind") == "queue" and str(attributes["db.operation.name"]).startswith(
            "get"
        )
        if tally.is_waiting or takes:
            self._wait.record(tally.waited, attributes)
        if tally.rows:
            self._rows.add(tally.rows, attributes)
        if tally.sent:
            self._io.add(tally.sent, {**attributes, "network.io.direction": "transmit"})
        if tally.received:
            self._io.add(tally.received, {**attributes, "network.io.direction": "receive"})

    def _place(self, client: Any) -> dict[str, str | int]:
        """Which database *client* leads to, as far as it is known."""
        found = self._places.get(client)
        if found is None:
            installation = getattr(client, "installation", None)
            if installation is None:
                return {}  # not connected yet
            found = {"db.namespace": f"{installation.partition('/')[2]}|pgstore", **_server(client.settings)}
            self._places[client] = found
        return found

    # --------------------------------------------------------------------------------- transactions and functions

    def block(self, transaction: Any) -> observation.Ended | None:
        client = transaction._client
        if not client.is_observed or self._tracer is None:
            return None
        attributes: dict[str, str | int] = {"db.system.name": "postgresql", "db.operation.name": "transaction"}
        span, token = self._begin("pgstore.transaction", attributes)
        begun = perf_counter()
        return lambda failure: self._end(span, token, begun, attributes, client, None, failure)

    def call(self, function: str) -> tuple[dict[str, str], observation.Ended] | None:
        if self._tracer is None:
            return None
        from opentelemetry import propagate, trace

        kind, attributes = trace.SpanKind.PRODUCER, {"pgstore.function.name": function}
        span = self._tracer.start_span("pgstore.Function.call", kind=kind, attributes=attributes)
        trace_: dict[str, str] = {}
        propagate.inject(trace_, trace.set_span_in_context(span))
        return trace_, lambda failure: _ended(span, failure)

    def job(self, function: str, trace: dict[str, str] | None) -> observation.Ended | None:
        if self._tracer is None:
            return None
        from opentelemetry import propagate
        from opentelemetry.trace import SpanKind

        parent = propagate.extract(trace or {})
        attributes: dict[str, str | int] = {"pgstore.function.name": function}
        span, token = self._begin("pgstore.Function.run", attributes, parent, SpanKind.CONSUMER)
        assert span is not None
        return lambda failure: _ended(span, failure, token)


def _described(owner: Any) -> tuple[str, str | None, str | None]:
    """What the class of *owner* is called, of what kind of store it is, and the store's name."""
    store = getattr(owner, "_store", owner)
    if (objects := getattr(owner, "_class", None)) is not None:  # `Dict.objects`
        return f"{objects._display_name}.objects", objects._kind, None
    label = getattr(owner, "_display_name", None) or getattr(owner, "__name__", None) or type(owner).__name__
    kind, name = getattr(store, "_kind", None), getattr(store, "_name", None)
    if kind is None and hasattr(store, "bucket_name"):
        kind, name = "bucket", store.bucket_name
    return label.lstrip("_"), kind, name if isinstance(name, str) else None


def _server(settings: Any) -> dict[str, str | int]:
    """The first server that *settings* name. What a function of the program would say is not asked for."""
    if callable(settings.url):
        return {}
    found: dict[str, str | int] = {}
    with contextlib.suppress(errors.Error, psycopg.Error, ValueError):
        given = conninfo_to_dict(settings.configured_url() or "")
        if host := str(given.get("host") or os.environ.get("PGHOST") or "").partition(",")[0]:
            found["server.address"] = host
        if port := str(given.get("port") or os.environ.get("PGPORT") or "").partition(",")[0]:
            found["server.port"] = int(port)
    return found


def _leave(span: Span, token: Any = None) -> None:
    """End *span*, and have its parent be the current one again: not where an abandoned operation ends in another context."""
    from opentelemetry import context, trace

    if token is not None and trace.get_current_span() is span:
        context.detach(token)
    span.end()


def _ended(span: Span, failure: BaseException | str | None, token: Any = None) -> None:
    if failure is not None:
        _note(span, failure)
    _leave(span, token)


def _note(span: Span, failure: BaseException | str) -> None:
    """Say that *failure* came and where; not its text."""
    from opentelemetry.trace import Status, StatusCode

    kind = failure if isinstance(failure, str) else _name_of(failure)
    event = {"exception.type": kind}
    if not isinstance(failure, str):
        event["exception.stacktrace"] = "\n".join([*_places(failure), kind])
    span.set_attribute("error.type", kind)
    span.add_event("exception", event)
    span.set_status(Status(StatusCode.ERROR, kind))


def _places(failure: BaseException) -> list[str]:
    """Where *failure* came from, the innermost last; without the lines of the program, which may have what it works with."""
    steps = traceback.walk_tb(failure.__traceback__)
    return [f'  File "{frame.f_code.co_filename}", line {line}, in {frame.f_code.co_name}' for frame, line in steps]


def _name_of(failure: BaseException) -> str:
    kind = type(failure)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _sqlstate(failure: BaseException | str) -> str | None:
    cause: Any = failure
    while isinstance(cause, BaseException):
        if isinstance(cause, psycopg.Error) and cause.sqlstate:
            return cause.sqlstate
        cause = cause.__cause__
    return None
