"""The table `secret`: one row a name and environment, its values encrypted."""

from __future__ import annotations

from datetime import datetime

from pgstore import errors
from pgstore.core.operation import Op, Query, atomic
from pgstore.core.statement import Statement
from pgstore.secret.encryption import decrypt, encrypt
from pgstore.secret.values import Values
from pgstore.types import SecretInfo

CREATE = Statement(
    """
    INSERT INTO pgstore.secret (environment, name, token)
    VALUES ($1, $2, $3)
    ON CONFLICT DO NOTHING
    RETURNING 1
    """,
    "text text bytea",
)
REPLACE = Statement(
    """
    INSERT INTO pgstore.secret AS s (environment, name, token)
    VALUES ($1, $2, $3)
    ON CONFLICT (environment, name) DO UPDATE
       SET token = excluded.token, updated_at = statement_timestamp()
    """,
    "text text bytea",
    repeatable=True,
)


def create(environment: str, name: str, values: Values) -> Op[bool]:
    """Store a new secret; False: there is one of this name, which stays as it is."""
    rows = yield Query(CREATE, environment, name, encrypt(values, environment, name))
    return bool(rows)


def replace(environment: str, name: str, values: Values) -> Op[None]:
    """Store a secret, in place of the one of this name if there is one."""
    yield Query(REPLACE, environment, name, encrypt(values, environment, name))


# That it is used is noted at most once a minute: a program may start many workers at once.
TAKE = Statement(
    """
    WITH used AS (
         UPDATE pgstore.secret
            SET last_used_at = statement_timestamp()
          WHERE environment = $1
            AND name = $2
            AND coalesce(last_used_at, '-infinity'::timestamptz) < statement_timestamp() - '1 minute'::interval)
    SELECT token
      FROM pgstore.secret
     WHERE environment = $1
       AND name = $2
    """,
    "text text",
    repeatable=True,
)


def take(environment: str, name: str) -> Op[Values | None]:
    """The values of a secret that a function is about to use; None: there is none of this name."""
    rows = yield Query(TAKE, environment, name)
    return decrypt(rows[0][0], environment, name) if rows else None


# Who changes a secret locks it: of two who change different variables of one, neither loses what the other has set.
LOCK = Statement(
    """
    SELECT token
      FROM pgstore.secret
     WHERE environment = $1
       AND name = $2
       FOR UPDATE
    """,
    "text text",
)


def update(environment: str, name: str, changes: Values) -> Op[None]:
    """Set variables of a stored secret; the others stay. Raises `NotFoundError`."""

    def body() -> Op[None]:
        rows = yield Query(LOCK, environment, name)
        if not rows:
            raise missing(environment, name)
        yield from replace(environment, name, Values(decrypt(rows[0][0], environment, name) | changes))

    yield from atomic(body())


DELETE = Statement(
    """
    DELETE FROM pgstore.secret
     WHERE environment = $1
       AND name = $2
    RETURNING 1
    """,
    "text text",
)


def delete(environment: str, name: str) -> Op[bool]:
    """Delete a secret; False: there is none of this name."""
    rows = yield Query(DELETE, environment, name)
    return bool(rows)


LIST = Statement(
    """
    SELECT name, created_at, created_by, last_used_at
      FROM pgstore.secret
     WHERE environment = $1
       AND name = coalesce($2, name)
       AND created_at < coalesce($3, 'infinity'::timestamptz)
     ORDER BY created_at DESC, name
     LIMIT $4
    """,
    "text text timestamptz int8",
    read_only=True,
)


def listed(
    environment: str, *, name: str | None = None, created_before: datetime | None = None, secrets_max: int | None = None
) -> Op[list[SecretInfo]]:
    """The stored secrets, newest first."""
    rows = yield Query(LIST, environment, name, created_before, secrets_max)
    return [
        SecretInfo(name, created_at.astimezone(), created_by, used_at and used_at.astimezone())
        for name, created_at, created_by, used_at in rows
    ]


# In the order of the key, as any two who rotate lock them.
LOCK_ALL = Statement(
    """
    SELECT environment, name, token
      FROM pgstore.secret
     ORDER BY environment, name
       FOR UPDATE
    """
)


def rotate() -> Op[int]:
    """Encrypt all secrets anew, with the first key. Returns how many; all or, after an error, none."""

    def body() -> Op[int]:
        rows = yield Query(LOCK_ALL)
        for environment, name, token in rows:
            yield from replace(environment, name, decrypt(token, environment, name))
        return len(rows)

    return (yield from atomic(body()))


def missing(environment: str, name: str) -> errors.NotFoundError:
    return errors.NotFoundError(f"there is no Secret named {name!r} in environment {environment!r}")
