"""Celery: a task is sent if and only if the transaction that asks for it commits, and done once, whatever the broker delivers.

No broker takes part in a transaction: a task sent in one may run before its COMMIT, or without one. So the transaction puts it into
a Queue, from which `relay` sends it on. A task that is delivered twice finds the result of the first time.
"""

import multiprocessing
import tempfile

from celery import Celery

import pgstore

app = Celery("example", broker="filesystem://localhost")  # yours may be Redis or RabbitMQ
outbox = pgstore.Queue.persist("celery-outbox")
invoices = pgstore.Dict.persist("celery-invoices")
mails = pgstore.Queue.persist("celery-mails")


@app.task(name="invoice", acks_late=True)
def invoice(order: int, article: str) -> None:
    with pgstore.transaction():
        if invoices.put(order, f"one {article}: 5 EUR", skip_if_exists=True):
            mails.put(f"to the customer of order {order}: {invoices[order]}")


def place_order(number: int, article: str) -> None:
    """What a web process does."""
    with pgstore.transaction():
        outbox.put(("invoice", [number, article]))
        if article == "nothing":
            raise ValueError("nothing was ordered")


def relay() -> None:
    """What a process of its own does in a loop. It may be killed between the two lines: then the task is sent twice."""
    with outbox.get(lease=30) as lease:
        name, arguments = lease.item
        app.send_task(name, arguments)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        folders = dict.fromkeys(("data_folder_in", "data_folder_out", "control_folder"), folder)
        app.conf.broker_transport_options = {**folders, "polling_interval": 0.1}
        command = ["--quiet", "worker", "--concurrency=2"]  # you would say: celery -A celery_orders worker
        worker = multiprocessing.get_context("fork").Process(target=app.worker_main, args=[command])
        worker.start()
        try:
            for store in (invoices, outbox, mails):
                store.clear()
            place_order(1, "lamp")
            try:
                place_order(2, "nothing")
            except ValueError as exc:
                print(exc)
            relay()
            print(mails.get(timeout=30), "|", invoices.items(), len(outbox))
        finally:
            worker.terminate()
            worker.join()
