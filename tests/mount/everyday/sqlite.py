"""Databases of SQLite, with both journals; and two processes that write to one at the same time."""

import os
import sqlite3
import subprocess
import sys

TIMES = int(os.environ["TIMES"])
WRITER = """
import sqlite3, sys
connection = sqlite3.connect("shared.db", timeout=60, isolation_level=None)
for number in range(int(sys.argv[1])):
    connection.execute("BEGIN IMMEDIATE")
    (before,) = connection.execute("SELECT n FROM counter").fetchone()
    connection.execute("UPDATE counter SET n = ?", [before + 1])
    connection.execute("COMMIT")
connection.close()
"""


def is_sound(connection: sqlite3.Connection) -> bool:
    return connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


for mode in ("delete", "truncate", "wal"):
    connection = sqlite3.connect(f"{mode}.db")
    assert connection.execute(f"PRAGMA journal_mode={mode}").fetchone() == (mode,)
    connection.execute("CREATE TABLE line (number, text)")
    for number in range(10 * TIMES):
        with connection:
            connection.execute("INSERT INTO line VALUES (?, ?)", [number, "x" * 1000])
    try:
        with connection:
            connection.execute("DELETE FROM line")
            raise ZeroDivisionError
    except ZeroDivisionError:
        pass
    connection.execute("VACUUM")
    assert is_sound(connection)
    connection.close()
    connection = sqlite3.connect(f"{mode}.db")
    assert connection.execute("SELECT count(*), sum(number) FROM line").fetchone() == (
        10 * TIMES,
        sum(range(10 * TIMES)),
    )
    connection.close()

for mode in ("delete", "wal"):
    connection = sqlite3.connect("shared.db", isolation_level=None)
    connection.execute(f"PRAGMA journal_mode={mode}")
    connection.execute("CREATE TABLE IF NOT EXISTS counter (n)")
    connection.execute("DELETE FROM counter")
    connection.execute("INSERT INTO counter VALUES (0)")
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(10 * TIMES)]) for _ in "ab"]
    assert [each.wait() for each in writers] == [0, 0]
    assert connection.execute("SELECT n FROM counter").fetchone() == (20 * TIMES,)
    assert is_sound(connection)
    connection.close()
