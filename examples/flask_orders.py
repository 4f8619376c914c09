"""Flask: a view is one transaction, committed before its response is sent. Served by `gunicorn flask_orders:app`."""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from flask import Flask, Response, abort

import pgstore

P = ParamSpec("P")
T = TypeVar("T")

app = Flask(__name__)
orders = pgstore.Dict.persist("flask-orders")
mails = pgstore.Queue.persist("flask-mails")
receipts = pgstore.Volume.persist("flask-receipts")


def transactional(view: Callable[P, T]) -> Callable[P, T]:
    @functools.wraps(view)
    def in_transaction(*args: P.args, **kwargs: P.kwargs) -> T:
        with pgstore.transaction():
            return view(*args, **kwargs)

    return in_transaction


@app.post("/orders/<int:number>/<article>")
@transactional
def order(number: int, article: str) -> str:
    orders[number] = article
    mails.put(number)
    receipts.write_text(f"/{number}.txt", f"one {article}\n")
    if article == "nothing":
        abort(422)  # an exception: nothing of the above was done
    return "ordered"


@app.get("/receipts/<int:number>")
def receipt(number: int) -> Response:  # not in a transaction, which would have ended when the server reads on
    if not receipts.exists(f"/{number}.txt"):
        abort(404)
    return Response(receipts.read_file(f"/{number}.txt"), mimetype="text/plain")


if __name__ == "__main__":
    client = app.test_client()
    print(client.post("/orders/1/lamp").text, client.post("/orders/2/nothing").status_code)
    print(orders.items(), mails.get_many(10), client.get("/receipts/1").text, client.get("/receipts/2").status_code)
