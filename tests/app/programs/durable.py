"""An order and the call that handles it are one commit, and so are what the call does and that it was done."""

import pgstore as modal

app = modal.App("example-orders")
orders = modal.Dict.from_name("orders", create_if_missing=True)
handled = modal.Dict.from_name("handled", create_if_missing=True)


@app.function(transactional=True)
def handle(number: int) -> str:
    handled[number] = orders[number]
    return f"{orders[number]} sent"


def place(number: int, item: str, *, fail: bool = False) -> modal.FunctionCall:
    with modal.transaction():
        orders[number] = item
        call = handle.spawn(number)
        if fail:
            raise ValueError("no such item")
    return call


if __name__ == "__main__":
    with app.run():
        call = place(1, "lamp")
        try:
            place(2, "unicorn", fail=True)
        except ValueError as exc:
            print(exc)
        print(call.get(timeout=30))
    print(dict(handled.items()), sorted(orders.keys()))
