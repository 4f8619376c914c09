"""What is in a backup: a script for psql, of which `restore` reads as much as it needs to run it by itself.

::

    -- pgstore backup 1
    -- {"schema_revision": …}                   the `Header`
    BEGIN;
    …                                           the tables, as pg_dump writes them, and their rows
    SELECT setval(…)                            numbers that were given out after the backup are not given out again
    -- pgstore backup: the tables are complete
    …                                           the large objects of pgstore's: rows that become objects where they are read
    COMMIT;
    -- pgstore backup: complete

It is one transaction, so that of a file that was cut off nothing is restored, whoever reads it. Large objects get new numbers:
those that they had may be another application's by now, or belong to another one where the backup is restored.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Final, Protocol

from pgstore import errors
from pgstore.admin.sequences import LEAP

FORMAT: Final = 1
_MAGIC: Final = b"-- pgstore backup "
_HEADER_BYTES_MAX: Final = 64 * 1024
BEGIN: Final = b"BEGIN;\n"
TABLES_COMPLETE: Final = b"-- pgstore backup: the tables are complete\n"
END: Final = b"COMMIT;\n-- pgstore backup: complete\n"

_BLOCK_BYTES: Final = 1 << 20
_SQL_BYTES_MAX: Final = 64 << 20  # between two tables' rows; it is a tenth of a MiB
_COPY: Final = re.compile(rb"COPY [^;]+ FROM stdin;\n")
# Of psql: no other program obeys what begins with a backslash, and nothing else may begin so here.
_RESTRICT: Final = re.compile(rb"\\(?:un)?restrict [A-Za-z0-9]+\n")
_END_OF_ROWS: Final = b"\n\\.\n"

# Programs that run on know numbers that they were given after the backup was made: of leases, of files, of revisions.
RAISE_SEQUENCES: Final = f"""
SELECT setval(c.oid::regclass, coalesce(pg_sequence_last_value(c.oid::regclass), 1) + {LEAP})
  FROM pg_class c
 WHERE c.relnamespace = 'pgstore'::regnamespace
   AND c.relkind = 'S'
 ORDER BY c.relname;
""".encode()

# The trigger keeps nothing of a row but the object that it makes of it, so that no space is taken twice. It runs with the rights of
# the owner of the tables, whose the object must be, and which `restore` has settled by then: to give an object to another owner
# takes a lock for each.
LARGE_OBJECT_FUNCTION: Final = b"""
CREATE FUNCTION pgstore.restored_large_object() RETURNS trigger
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
    made    CONSTANT oid := lo_from_bytea(0, pgstore.chunk_header(NEW.store_id, NEW.id));
    grantee text;
BEGIN
    -- As pgstore.chunk_create.
    FOR grantee IN
        SELECT DISTINCT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END
          FROM pg_largeobject_metadata m
         CROSS JOIN LATERAL aclexplode(m.lomacl) a
         WHERE m.oid = made
           AND a.grantee <> m.lomowner
    LOOP
        EXECUTE format('REVOKE ALL ON LARGE OBJECT %s FROM %s', made, grantee);
    END LOOP;
    PERFORM lo_put(made, 2048, NEW.data);
    UPDATE pgstore.chunk k
       SET large_object = made
     WHERE k.store_id = NEW.store_id
       AND k.id = NEW.id;
    RETURN NULL;
END
$function$;
REVOKE ALL ON FUNCTION pgstore.restored_large_object() FROM PUBLIC;

"""
LARGE_OBJECTS_BEGIN: Final = b"""
CREATE TEMPORARY TABLE restored_large_object (store_id bigint, id bigint, data bytea);
CREATE TRIGGER make BEFORE INSERT ON pg_temp.restored_large_object
   FOR EACH ROW EXECUTE FUNCTION pgstore.restored_large_object();
COPY pg_temp.restored_large_object (store_id, id, data) FROM stdin;
"""
LARGE_OBJECTS_END: Final = b"""\\.

DROP TABLE pg_temp.restored_large_object;
DROP FUNCTION pgstore.restored_large_object();

"""


@dataclass(frozen=True)
class Header:
    """What a backup is of."""

    schema_revision: str
    server_major: int
    """Of the server; a restore takes the same or a later one."""
    database: str
    taken_at: str
    """ISO 8601, in UTC, by the server's clock: all is as it was at this moment."""
    pgstore: str
    """The version that made it."""

    def text(self) -> bytes:
        """The first lines of the file."""
        return (
            f"-- pgstore backup {FORMAT}\n"
            f"-- {json.dumps(asdict(self))}\n"
            "-- `pgstore restore FILE` restores it; so does psql, into a database without a schema pgstore. Of FILE.zst:\n"
            "--     zstd -dc FILE.zst | psql -X -v ON_ERROR_STOP=1 DATABASE && pgstore migrate\n"
        ).encode()


class Readable(Protocol):
    """What a backup is read from: its text, whatever it was compressed with."""

    def read(self, size: int, /) -> bytes: ...


@dataclass(frozen=True)
class Statements:
    """SQL to be run."""

    text: str


@dataclass(frozen=True)
class Rows:
    """Rows to be copied by *statement*; *blocks* must be used up before the next part is asked for."""

    statement: str
    blocks: Iterator[bytes]


class TablesComplete:
    """All tables have their rows; what follows are large objects."""


Part = Statements | Rows | TablesComplete


class Script:
    """
    The parts of a backup, in their order.

    Raises, from its methods:
        BackupError: it is none, or it is cut off.
    """

    def __init__(self, source: Readable, shown: str) -> None:
        self._source = source
        self._shown = shown  # in messages
        self._ahead = b""

    def header(self) -> Header:
        """The first lines; to be called first, once."""
        first = self._line(_HEADER_BYTES_MAX)
        if not first.startswith(_MAGIC):
            raise errors.BackupError(f"{self._shown} {_foreign(first)}")
        if (version := first[len(_MAGIC) :].strip().decode(errors="replace")) != str(FORMAT):
            raise errors.BackupError(
                f"{self._shown} is of format {version}, this pgstore reads {FORMAT}: install the version that made it, or a "
                "later one"
            )
        try:
            said: dict[str, Any] = json.loads(self._line(_HEADER_BYTES_MAX).removeprefix(b"-- "))
            header = Header(**{name: said[name] for name in Header.__dataclass_fields__})
            if not isinstance(header.server_major, int):
                raise TypeError
        except (ValueError, KeyError, TypeError):
            raise errors.BackupError(f"{self._shown} is damaged: its second line does not say what it is of") from None
        for _ in range(16):
            if (line := self._line(_HEADER_BYTES_MAX)) == BEGIN:
                return header
            if not line.startswith(b"--"):
                break
        raise errors.BackupError(f"{self._shown} is damaged: it does not begin as a backup does")

    def parts(self) -> Iterator[Part]:
        """What follows the header. It has come to an end only if all of it was there."""
        lines: list[bytes] = []
        size = 0
        while True:
            line = self._line(_SQL_BYTES_MAX)
            if _COPY.fullmatch(line):
                yield from _statements(lines)
                yield Rows(line.decode(), self._rows())
                lines, size = [], 0
            elif line == TABLES_COMPLETE:
                yield from _statements(lines)
                yield TablesComplete()
                lines, size = [], 0
            elif line + self._peek(len(END) - len(line)) == END:
                yield from _statements(lines)
                self._ahead = self._ahead[len(END) - len(line) :]
                if self._peek(1):
                    raise errors.BackupError(f"{self._shown} is damaged: something follows its end")
                return
            elif not line.endswith(b"\n"):
                raise self._cut_off()
            elif not _RESTRICT.fullmatch(line):
                lines.append(line)
                size += len(line)
                if size > _SQL_BYTES_MAX:
                    raise errors.BackupError(f"{self._shown} is damaged: it has more SQL than the schema has")

    def _rows(self) -> Iterator[bytes]:
        """What stands before the line that ends them, in blocks."""
        ahead = b"\n" + self._ahead  # there may be no row at all
        skipped = 1
        while (end := ahead.find(_END_OF_ROWS)) < 0:
            cut = max(len(ahead) - len(_END_OF_ROWS) + 1, 0)
            if cut > skipped:
                yield ahead[skipped:cut]
                ahead, skipped = ahead[cut:], 0
            if not (more := self._source.read(_BLOCK_BYTES)):
                raise self._cut_off()
            ahead += more
        self._ahead = ahead[end + len(_END_OF_ROWS) :]
        if end + 1 > skipped:
            yield ahead[skipped : end + 1]

    def _line(self, bytes_max: int) -> bytes:
        """The next line, with its end; less where there is no end, or where it is longer than *bytes_max*."""
        pieces, size = [], 0
        while (end := self._ahead.find(b"\n")) < 0 and size <= bytes_max:
            pieces.append(self._ahead)
            size += len(self._ahead)
            self._ahead = self._source.read(_BLOCK_BYTES)
            if not self._ahead:
                return b"".join(pieces)
        pieces.append(self._ahead[: end + 1])
        self._ahead = self._ahead[end + 1 :]
        return b"".join(pieces)

    def _cut_off(self) -> errors.BackupError:
        return errors.BackupError(f"{self._shown} was cut off: it ends in the middle")

    def _peek(self, size: int) -> bytes:
        while len(self._ahead) < size and (more := self._source.read(_BLOCK_BYTES)):
            self._ahead += more
        return self._ahead[: max(size, 0)]


def _statements(lines: list[bytes]) -> Iterator[Statements]:
    text = b"".join(lines).decode()
    if text.strip():
        yield Statements(text)


def _foreign(start: bytes) -> str:
    if start.startswith(b"PGDMP"):
        return "is an archive of pg_dump, no backup of pgstore's: restore it by `pg_restore --no-owner -1 -d DATABASE FILE`"
    if b"PostgreSQL database dump" in start or start.startswith(b"--\n"):
        return "is a script of pg_dump, no backup of pgstore's: restore it by `psql -v ON_ERROR_STOP=1 -1 -f FILE DATABASE`"
    return "is no backup of pgstore's" if start else "is empty"
