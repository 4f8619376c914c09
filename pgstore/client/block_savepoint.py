"""The guard of a joined block: a savepoint in the caller's transaction, by which the block alone can be undone.

It goes with the first write of the block, in one round trip, and is released at its end. With SQLAlchemy it is a nested
transaction of SQLAlchemy's, so that a Session knows which of its objects went with it; with Django an `atomic()`, from the
beginning on.
"""

from __future__ import annotations

import contextlib
import itertools
import sys
from collections.abc import Generator
from typing import Any, Final

from pgstore import errors
from pgstore.connection.joined import JoinedConnection, Source, error_of_framework
from pgstore.core.operation import Many, Query
from pgstore.core.steps import Steps

# Blocks may stand in each other, or follow each other in one transaction. Not a name for each: every text is counted by itself
# where the server counts statements.
_NAMES: Final = itertools.cycle(f"pgstore_joined_{number}" for number in range(64))
# The caller may have ended the transaction meanwhile, and the guard with it. The second savepoint goes with the first; where there
# is none, it keeps the error from spoiling a transaction that is the caller's alone.
_RELEASE: Final = "SAVEPOINT pgstore_ended; RELEASE SAVEPOINT {}"
_GO_ON: Final = "ROLLBACK TO SAVEPOINT pgstore_ended; RELEASE SAVEPOINT pgstore_ended"
_UNDO: Final = "ROLLBACK TO SAVEPOINT {0}; RELEASE SAVEPOINT {0}"
_NO_SAVEPOINT: Final = "3B001"

_BY_SQL: Final = object()  # a savepoint and nothing else


class BlockSavepoint:
    """Of one block."""

    def __init__(self, source: Source, connection: JoinedConnection) -> None:
        self._source = source
        self._connection = connection
        self._nested: Any = None  # the framework's transaction, or _BY_SQL
        self._name = next(_NAMES)

    @property
    def is_set(self) -> bool:
        """Whether it stands; not any more where the caller has ended the transaction."""
        if self._nested is _BY_SQL:
            return not self._connection.is_idle
        return self._nested is not None and self._nested.is_active

    def set(self) -> Steps[None]:
        with _mapping():
            self._nested = yield self._source.begin_nested()
        if self._nested is None:
            yield from self._connection.command(f"SAVEPOINT {self._name}")
            self._nested = _BY_SQL

    def set_with(self, request: Query | Many) -> Steps[Any]:
        """Set it and run *request*."""
        queries = request.queries if isinstance(request, Many) else [request]
        if not self._source.can_pipeline:
            yield from self.set()
            results = yield from self._connection.execute_many(Many(queries))
        else:
            self._nested = _BY_SQL
            results = [(yield from self._connection.execute_after(f"SAVEPOINT {self._name}", queries[0]))]
            results += yield from self._connection.execute_many(Many(queries[1:]))
        return results if isinstance(request, Many) else results[0]

    def release(self) -> Steps[None]:
        """The block went well: what it did is a part of the caller's transaction."""
        was_set, nested, self._nested = self.is_set, self._nested, None
        if not was_set:
            return
        if nested is not _BY_SQL:
            with _mapping():
                yield nested.commit()
            return
        try:
            yield from self._connection.command(_RELEASE.format(self._name))
        except errors.StatementFailed as exc:
            if exc.sqlstate != _NO_SAVEPOINT:
                raise
            yield from self._connection.command(_GO_ON)
        except errors.TransactionFailed:
            self._nested = nested  # to be undone
            raise

    def undo(self) -> Steps[None]:
        """The block failed: undo what it did. Where that cannot be, nothing of the caller's transaction can be committed."""
        nested, self._nested = self._nested, None
        if nested is _BY_SQL:
            if not self._connection.is_idle:
                with contextlib.suppress(errors.StatementFailed):
                    yield from self._connection.command(_UNDO.format(self._name))
        elif nested is not None:
            # A nested transaction that the caller, or a failed flush, has ended already needs no end.
            ended: Any = getattr(sys.modules.get("sqlalchemy.exc"), "InvalidRequestError", ())
            with contextlib.suppress(ended), _mapping():
                yield nested.rollback()


@contextlib.contextmanager
def _mapping() -> Generator[None, None, None]:
    try:
        yield
    except Exception as exc:
        if (error := error_of_framework(exc)) is exc:
            raise
        raise error from exc
