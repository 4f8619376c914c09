"""Operations: store methods written once, run blocking or on an event loop.

A store method is a generator. It yields requests — what it needs from the outside — and is resumed with the result of each;
what it returns is the result of the call. `@operation` gives it two forms: `d.get(k)` blocks, `await d.get.aio(k)` awaits. The
requests below are the complete list; who carries them out is decided in `pgstore.client` (a connection of its own, the current
transaction, or a connection of the caller's that is joined).

Psycopg's `generators.py` is built the same way, one floor lower.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import (
    Any,
    Concatenate,
    Final,
    Generic,
    ParamSpec,
    Protocol,
    TypeAlias,
    TypeVar,
    overload,
)

from pgstore import errors
from pgstore.core import observation
from pgstore.core.method import AioForm, Doc, Method
from pgstore.core.statement import Statement

P = ParamSpec("P")
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
Owner = TypeVar("Owner", bound="HasRunner")

# ---------------------------------------------------------------------------------------------------------- requests


class Query:
    """Run one statement. Result: a list of tuples, or the number of rows affected where the statement returns none.

    *undo* belongs to statements that take something away: called with the rows when the caller was interrupted while the
    statement was under way, it gives the queries that put them back, all in one transaction. So an interrupted `get` loses nothing.
    Its rows are also noted in *taken* until the operation has returned: Ctrl-C may come between any two lines.
    """

    __slots__ = ("statement", "taken", "undo", "values")

    taken: Any  # not set here: no operation but one that takes pays for it

    def __init__(self, statement: Statement, *values: Any, undo: Undo | None = None) -> None:
        self.statement = statement
        self.values = values
        self.undo = undo

    @property
    def read_only(self) -> bool:
        return self.statement.read_only

    @property
    def repeatable(self) -> bool:
        return self.statement.repeatable


Rows: TypeAlias = list[tuple[Any, ...]]
Undo: TypeAlias = Callable[[Any], Sequence[Query]]


@dataclass(frozen=True, slots=True)
class Many:
    """Run several queries in one round trip, in order; outside a transaction all or none. Result: the list of their results."""

    queries: Sequence[Query]

    @property
    def read_only(self) -> bool:
        return all(query.read_only for query in self.queries)

    @property
    def repeatable(self) -> bool:
        return all(query.repeatable for query in self.queries)


def holds(request: Query | Many | PutBack) -> bool:
    """Whether something that *request* took, or is to put back, was not put back."""
    if isinstance(request, PutBack):
        return not request.is_given
    queries = request.queries if isinstance(request, Many) else (request,)
    return any(query.undo is not None and getattr(query, "taken", None) for query in queries)


def is_in_doubt(request: Query | Many | PutBack) -> bool:
    """Whether *request* may have taken something of which nothing is noted: its answer never came."""
    if isinstance(request, PutBack):
        return False
    queries = request.queries if isinstance(request, Many) else (request,)
    return any(query.undo is not None and not hasattr(query, "taken") for query in queries)


def putting_back(request: Query | Many | PutBack) -> Sequence[Query]:
    """The queries that put back what *request* took, as far as it is noted. They are given once."""
    if isinstance(request, PutBack):
        return request.give()
    undo: list[Query] = []
    for query in request.queries if isinstance(request, Many) else (request,):
        if query.undo is not None and (rows := getattr(query, "taken", None)):
            query.taken = None
            undo.extend(query.undo(rows))
    return undo


class PutBack:
    """
    Undo what an earlier statement took: run *queries*, all or none, to their end, whatever interrupts. Result: None.

    Outside a transaction they are one of their own, so that others see all of it come back at once.
    """

    __slots__ = ("_queries",)

    def __init__(self, queries: Sequence[Query]) -> None:
        self._queries = queries

    @property
    def is_given(self) -> bool:
        """Whether somebody is running the queries, or has."""
        return not self._queries

    def give(self) -> Sequence[Query]:
        """The queries. They are given once: an interrupt may have others ask again."""
        queries, self._queries = self._queries, ()
        return queries


@dataclass(frozen=True, slots=True)
class CopyIn:
    """Run `COPY … FROM STDIN (FORMAT binary)` with *data*, which `copy_rows` packed. Result: the number of rows."""

    sql: str
    data: Sequence[bytes]


@dataclass(frozen=True, slots=True)
class CopyOut:
    """Run `COPY (…) TO STDOUT`, handing each block of bytes to *consume* as it arrives, a row at a time. Result: None.

    COPY takes no parameters; numbers are written into *sql* by the caller. Where the connection breaks it begins again.
    """

    sql: str
    consume: Callable[[bytes | memoryview], object]


@dataclass(frozen=True, slots=True)
class Cursor:
    """Declare a server-side cursor over *query*, inside a transaction: one snapshot, any length. Result: an `OpenCursor`."""

    query: Query


@dataclass(frozen=True, slots=True)
class OpenCursor:
    """A declared cursor. `fetch(n)` gives the query for its next *n* rows, `close()` the one that ends it."""

    name: str
    closed: Callable[[], object]  # tells that the name is free

    def fetch(self, rows_max: int) -> Query:
        fetch = f"FETCH FORWARD {int(rows_max)} FROM {self.name}"
        return Query(Statement(fetch, read_only=True, repeatable=False, once=True))

    def close(self) -> Query:
        self.closed()
        return Query(Statement(f"CLOSE {self.name}", read_only=True, repeatable=False, once=True))


@dataclass(frozen=True, slots=True)
class Begin:
    """Open a transaction, or a savepoint in the one that is current. Result: a mark for `Commit` and `Rollback`."""


@dataclass(frozen=True, slots=True)
class Commit:
    """End the transaction or savepoint of *mark*, keeping its changes."""

    mark: Any


@dataclass(frozen=True, slots=True)
class Rollback:
    """End the transaction or savepoint of *mark*, undoing its changes."""

    mark: Any


@dataclass(frozen=True, slots=True)
class BeforeCommit:
    """Have a hook called before the commit of the current transaction: that of *key*, which *factory* makes on first use.

    Result: the `Hooked`, or None where there is no transaction.
    """

    key: object
    factory: Callable[[], CommitHook]


@dataclass(frozen=True, slots=True)
class Listen:
    """
    Register as a waiter for *topic*; do this before the first read. Result: a `Ticket`. Its `close()` must be called.

    One waiter is told of each thing; with *for_everybody* this one is told of everything. *look* asks whether there is something: a
    row of `is_there`, `is_settled` and more. *begin* begins to wait and looks at once: its first three parameters are those of the
    listener, and its row is that of `pgstore.wait_begin` and then that of a look, which is the ticket's `looked`.

    With *mask_gap* it does not wait but takes item after item, so many seconds apart, and sees to it that meanwhile nobody is told.
    """

    topic: Topic
    for_everybody: bool = False
    begin: Query | None = None
    look: Query | None = None
    mask_gap: float | None = None


@dataclass(frozen=True, slots=True)
class Wait:
    """Sleep until there is a notification of *ticket*'s topic, at most *seconds*. Result: True if there was."""

    ticket: Ticket
    seconds: float


@dataclass(frozen=True, slots=True)
class Look:
    """
    Run *query* on the connection on which *ticket* is told: who merely waits needs no other. It must be repeatable.

    Result: its rows; None where that connection is not to be had.
    """

    ticket: Ticket
    query: Query


@dataclass(frozen=True, slots=True)
class Call:
    """Call blocking code — local files, an SDK — off the event loop if there is one. Result: what *function* returns."""

    function: Callable[[], Any]


@dataclass(frozen=True, slots=True)
class Autonomous:
    """Run *op* outside the current transaction, whatever becomes of that. Result: what *op* returns."""

    op: Op[Any]


Request: TypeAlias = (
    Query
    | Many
    | PutBack
    | CopyIn
    | CopyOut
    | Cursor
    | Begin
    | Commit
    | Rollback
    | BeforeCommit
    | Listen
    | Look
    | Wait
    | Call
    | Autonomous
)
Op: TypeAlias = Generator[Request, Any, T]

# --------------------------------------------------------------------------------------- what requests are made with


class CommitHook:
    """
    What keeps part of a transaction's changes on the client until it commits.

    One that does not say otherwise writes nothing and remembers nothing.
    """

    def before_commit(self) -> Op[None]:
        """Write what was kept back. Whatever this locks is locked only until the commit that follows."""
        yield from ()

    def with_commit(self) -> list[Query]:
        """Queries to send in one go with COMMIT."""
        return []

    @property
    def has_changes(self) -> bool:
        """Whether there is something that the commit is to write."""
        return False

    def mark(self) -> Any:
        """The present state, for `rewind`."""
        return None

    def rewind(self, mark: Any) -> None:
        """Return to the state of *mark*: a savepoint was rolled back. None: to the beginning."""

    def committed(self) -> None:
        """The transaction has committed."""


class Hooked:
    """A hook in a transaction. *immediate*: the commit is someone else's, so changes have to be written by the operation."""

    __slots__ = ("hook", "immediate")

    def __init__(self, hook: Any, immediate: bool) -> None:
        self.hook = hook
        self.immediate = immediate


@dataclass(frozen=True, slots=True)
class Topic:
    """What can be waited for: something about one store, such as "items in partition p"."""

    store_id: int
    name: str
    for_everybody: bool = False  # what is told is for all who wait, not for one

    @property
    def payload(self) -> str:
        return f"{self.store_id}/{self.name}"


class Ticket(Protocol):
    """The registration of one waiter for a topic (`client.waiters`)."""

    topic: Topic

    def close(self) -> None:
        """End the registration. Never blocks."""


def atomic(body: Op[T]) -> Op[T]:
    """Run *body* in a transaction, or in a savepoint of the current one: all of it or, after an error, nothing."""
    mark = yield Begin()
    try:
        result = yield from body
    except GeneratorExit:
        raise  # abandoned: nobody will answer, and the connection goes with whoever left us
    except BaseException:
        yield Rollback(mark)
        raise
    yield Commit(mark)
    return result


# -------------------------------------------------------------------------------------------- the two forms of a call


class Runner(Protocol):
    """What carries operations out: a `pgstore.Client`."""

    def run(self, op: Op[T], bound: Any = None) -> T: ...

    async def run_async(self, op: Op[T], bound: Any = None) -> T: ...

    def pin(self, bound: Any = None) -> Any:
        """The transaction that an iterator made now belongs to, or None."""


class HasRunner(Protocol):
    @property
    def _runner(self) -> Runner: ...

    @property
    def _bound(self) -> Any: ...


class StaleHandle(errors.NotFoundError):
    """What the operation knew is of another history of the database, where it has changed nothing: do it once more."""


class BoundOperation(Method, Generic[P, T_co]):
    __slots__ = ()
    __doc__ = Doc("A store method: call it to block, call its `aio` to get a coroutine.")

    def __init__(self, function: Callable[..., Op[T_co]], owner: Any) -> None:
        self._function = function
        self._owner = owner

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> T_co:
        owner = self._owner
        runner = owner._runner  # first: making a client may bring an observer
        op = self._function(owner, *args, **kwargs)
        if observation.observer is not None:
            op = observation.observer.operation(op, owner, self._function.__name__)
        try:
            return runner.run(op, owner._bound)  # type: ignore[no-any-return]
        except StaleHandle:
            if not _can_be_given_again(args, kwargs):
                raise
        return owner._runner.run(self._observed(args, kwargs), owner._bound)  # type: ignore[no-any-return]

    @property
    def aio(self) -> AioForm[P, T_co]:
        """The same, awaitable."""
        return AioForm(self._function, self._owner, self._start)

    def _start(self, /, *args: Any, **kwargs: Any) -> Coroutine[Any, Any, T_co]:
        # The operation is made now, so that wrong arguments are an error of the call.
        return self._run_async(self._observed(args, kwargs), args, kwargs)

    async def _run_async(self, op: Op[T_co], args: Any, kwargs: Any) -> T_co:
        owner = self._owner
        try:
            return await owner._runner.run_async(op, owner._bound)  # type: ignore[no-any-return]
        except StaleHandle:
            if not _can_be_given_again(args, kwargs):
                raise
        return await owner._runner.run_async(self._observed(args, kwargs), owner._bound)  # type: ignore[no-any-return]

    def _observed(self, args: Any, kwargs: Any) -> Op[T_co]:
        """The operation, as it is carried out when it is called by itself."""
        owner = self._owner
        op: Op[T_co] = self._function(owner, *args, **kwargs)
        if observation.observer is not None:
            owner._runner  # noqa: B018 - as in `__call__`
        return observation.observed(op, owner, self._function.__name__)

    def op(self, /, *args: P.args, **kwargs: P.kwargs) -> Op[T_co]:
        """The operation itself, for `yield from` in another."""
        operation: Op[T_co] = self._function(self._owner, *args, **kwargs)
        return operation


def _can_be_given_again(args: Sequence[Any], kwargs: dict[str, Any]) -> bool:
    """Whether the arguments still are what they were: an iterator or a file has been read."""
    given = (*args, *kwargs.values())
    return not any(isinstance(value, Iterable) and not isinstance(value, Collection) for value in given)


class UnboundOperation(Method, Generic[Owner, P, T_co]):
    __slots__ = ()
    __doc__ = Doc("A store method as found in the class, such as `Dict.get`: the store is its first argument.")

    def __init__(self, function: Callable[..., Op[T_co]]) -> None:
        self._function = function
        self._owner = None

    def __call__(self, store: Owner, /, *args: P.args, **kwargs: P.kwargs) -> T_co:
        bound: BoundOperation[P, T_co] = BoundOperation(self._function, store)
        return bound(*args, **kwargs)

    @property
    def aio(self) -> AioForm[Concatenate[Owner, P], T_co]:
        """The same, awaitable."""
        return AioForm(self._function, None, self._start)

    def _start(self, store: Owner, /, *args: Any, **kwargs: Any) -> Coroutine[Any, Any, T_co]:
        bound: BoundOperation[P, T_co] = BoundOperation(self._function, store)
        return bound._start(*args, **kwargs)


class operation(Generic[Owner, P, T_co]):  # noqa: N801 - a decorator
    """Turn a generator method into a call with two forms."""

    def __init__(self, function: Callable[Concatenate[Owner, P], Op[T_co]]) -> None:
        self._function = function
        self.__wrapped__ = function
        self.__doc__ = function.__doc__

    # Its arguments go unchecked: of a generic class they are of type variables that nobody has bound.
    @overload
    def __get__(self, owner: None, kind: type[Owner]) -> UnboundOperation[Any, ..., T_co]: ...

    @overload
    def __get__(self, owner: Owner, kind: type[Owner]) -> BoundOperation[P, T_co]: ...

    def __get__(
        self, owner: Owner | None, kind: type[Owner]
    ) -> BoundOperation[P, T_co] | UnboundOperation[Any, ..., T_co]:
        return UnboundOperation(self._function) if owner is None else BoundOperation(self._function, owner)


# ---------------------------------------------------------------------------------------------------------- iterators

_END: Final = object()
Fetch: TypeAlias = Callable[[], Op[Iterable[T] | None]]


class PagedIterator(Generic[T]):
    """Values from the database, fetched a page at a time; serves `for` and `async for`.

    *fetch* is called for each page and gives the operation that returns it, None at the end. The iterator belongs to the
    transaction that was current when it was made. *owner* and *name*: whose method has given it.
    """

    def __init__(self, owner: Any, name: str, fetch: Fetch[T]) -> None:
        self._runner: Runner = owner._runner
        self._bound = self._runner.pin(owner._bound)
        self._owner = owner
        self._name = name
        self._fetch = fetch
        self._page: Iterator[T] = iter(())

    def __iter__(self) -> Iterator[T]:
        # By iterators of C: a call of `__next__` for each value would cost as much as decoding a small one. And no generator, which
        # an exception ends: behind a value that cannot be loaded it goes on.
        last: Iterator[T] | None = None

        def following() -> Iterator[T] | None:
            nonlocal last
            if last is self._page and not self._turn():  # else `next` has gone on in between
                return None
            last = self._page
            return last

        return itertools.chain.from_iterable(iter(following, None))

    def __next__(self) -> T:
        while (value := next(self._page, _END)) is _END:
            if not self._turn():
                raise StopIteration
        return value  # type: ignore[return-value]

    def _turn(self) -> bool:
        """Go on to the next page; False: there is none."""
        page = self._runner.run(observation.observed(self._fetch(), self._owner, self._name), self._bound)
        self._page = iter(() if page is None else page)
        return page is not None

    def __aiter__(self) -> AsyncIterator[T]:
        return self

    async def __anext__(self) -> T:
        while (value := next(self._page, _END)) is _END:
            op = observation.observed(self._fetch(), self._owner, self._name)
            page = await self._runner.run_async(op, self._bound)
            if page is None:
                raise StopAsyncIteration
            self._page = iter(page)
        return value  # type: ignore[return-value]


class BoundIteration(Method, Generic[P, T]):
    __slots__ = ()
    __doc__ = Doc("A store method that gives an iterator, for `for` and `async for` alike.")

    def __init__(self, function: Callable[..., Fetch[T]], owner: Any) -> None:
        self._function = function
        self._owner = owner

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> PagedIterator[T]:
        owner = self._owner
        return PagedIterator(owner, self._function.__name__, self._function(owner, *args, **kwargs))

    def _annotations(self) -> dict[str, Any]:
        annotations = super()._annotations()
        values = annotations["return"].removeprefix("PagedIterator[").removesuffix("]")
        # The class itself: where the method stands, nobody needs to know its name.
        annotations["return"] = PagedIterator[eval(values, self._function.__globals__)]  # type: ignore[misc]
        return annotations

    def aio(self, /, *args: P.args, **kwargs: P.kwargs) -> PagedIterator[T]:
        """The same: `async for x in store.iterate.aio()`, as Modal has it."""
        return self(*args, **kwargs)


class iterated(Generic[Owner, P, T]):  # noqa: N801 - a decorator
    """Turn a method that gives the `fetch` of a `PagedIterator` into one that gives the iterator."""

    def __init__(self, function: Callable[Concatenate[Owner, P], Fetch[T]]) -> None:
        self._function = function
        self.__wrapped__ = function
        self.__doc__ = function.__doc__

    def __get__(self, owner: Owner | None, kind: type[Owner]) -> BoundIteration[P, T]:
        return BoundIteration(self._function, owner)
