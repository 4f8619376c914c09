"""A trigger on a table of one's own feeds a worker: whatever inserts rows, and in whatever language, needs no pgstore."""

import psycopg

import pgstore

TABLE = """
CREATE TABLE example_purchase (id bigint PRIMARY KEY, customer text NOT NULL, thanked boolean NOT NULL DEFAULT false);

CREATE FUNCTION example_enqueue_purchase() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pgstore.queue_put('example-purchases', to_jsonb(NEW));
    RETURN NULL;
END $$;

CREATE TRIGGER enqueue AFTER INSERT ON example_purchase FOR EACH ROW EXECUTE FUNCTION example_enqueue_purchase();
"""
DROP = "DROP TABLE IF EXISTS example_purchase; DROP FUNCTION IF EXISTS example_enqueue_purchase"

purchases = pgstore.Queue.persist("example-purchases")


def shop(connection: psycopg.Connection) -> None:
    """Some program, which knows its tables only."""
    connection.execute("INSERT INTO example_purchase VALUES (1, 'ann'), (2, 'bob')")
    connection.commit()
    connection.execute("INSERT INTO example_purchase VALUES (3, 'eve')")
    connection.rollback()  # no row, and nothing to do for the worker


def work_once() -> str:
    """What a worker does in a loop. It waits for the next row, and is woken by its COMMIT."""
    with pgstore.transaction() as tx:  # the row is taken from the queue and marked, or, after an exception, neither
        row = purchases.get(timeout=10)
        tx.connection.execute("UPDATE example_purchase SET thanked = true WHERE id = %s", [row["id"]])
    return f"thank you, {row['customer']}"


purchases.clear()
with psycopg.connect(pgstore.default_client().connection_url()) as connection:
    connection.execute(DROP)
    connection.execute(TABLE)
    connection.commit()
    shop(connection)

    print(work_once(), "|", work_once(), "|", len(purchases), "left")

    print(connection.execute("SELECT id, thanked FROM example_purchase ORDER BY id").fetchall())
    connection.execute(DROP)
