"""An order and its e-mail: a row of one's own table and an item of a Queue, both or neither."""

import pgstore

emails = pgstore.Queue.persist("own-tables-emails")

with pgstore.transaction() as tx:
    tx.connection.execute("CREATE TEMPORARY TABLE orders (id serial PRIMARY KEY, article text NOT NULL)")

    with tx.connection.cursor() as cursor:
        cursor.execute("INSERT INTO orders (article) VALUES ('a lamp') RETURNING id")
        (order,) = cursor.fetchone()
    emails.put({"order": order, "text": "thank you for ordering a lamp"})

    try:
        with pgstore.transaction():  # nested: a savepoint
            tx.connection.execute("INSERT INTO orders (article) VALUES ('a table')")
            emails.put({"order": order + 1, "text": "thank you for ordering a table"})
            raise RuntimeError("out of tables")
    except RuntimeError as exc:
        print(exc)

    print(tx.connection.execute("SELECT id, article FROM orders").fetchall())

print(emails.get_many(10))
