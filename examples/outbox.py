"""An order and the mail about it are one COMMIT. `pgstore worker examples/outbox.py`, on any machine, sends the mails."""

import subprocess
import sys

import pgstore

app = pgstore.App("example-outbox")


@app.function(retries=3)
def send_mail(order: int) -> str:
    return f"mail about order {order}: sent"


def handle_request(item: str) -> pgstore.FunctionCall:
    """What a web process does."""
    with pgstore.transaction() as tx:
        row = tx.connection.execute("INSERT INTO example_order (item) VALUES (%s) RETURNING id", [item]).fetchone()
        call = send_mail.spawn(row[0])
        if item == "nothing":
            raise ValueError("nothing was ordered")  # neither an order nor a mail
        return call


if __name__ == "__main__":
    with pgstore.transaction() as tx:
        tx.connection.execute("CREATE TABLE IF NOT EXISTS example_order (id serial, item text)")
    worker = subprocess.Popen([sys.executable, "-m", "pgstore", "worker", __file__], stderr=subprocess.DEVNULL)
    print(handle_request("a lamp").get())  # a web process would return call.object_id instead
    try:
        handle_request("nothing")
    except ValueError as exc:
        print(exc)
    worker.terminate()
    worker.wait()
    with pgstore.transaction() as tx:
        found = tx.connection.execute("SELECT function, state FROM pgstore.calls WHERE app = 'example-outbox'")
        print(found.fetchall())
        tx.connection.execute("DROP TABLE example_order")
