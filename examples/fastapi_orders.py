"""FastAPI: a request is one transaction, committed before its response is sent. Served by `uvicorn fastapi_orders:app`."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import Depends, FastAPI, HTTPException
from fastapi.responses import StreamingResponse
from fastapi.testclient import TestClient

import pgstore

orders = pgstore.Dict.persist("fastapi-orders")
mails = pgstore.Queue.persist("fastapi-mails")
receipts = pgstore.Volume.persist("fastapi-receipts")


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with pgstore.default_client():  # its connections are closed when the server stops
        yield


async def one_transaction() -> AsyncIterator[None]:
    async with pgstore.transaction():
        yield


app = FastAPI(lifespan=lifespan)
in_transaction = Depends(one_transaction, scope="function")  # or a client would be told 200 before the COMMIT


@app.post("/orders/{number}", dependencies=[in_transaction])
async def order(number: int, article: str) -> str:
    await orders.put.aio(number, article)
    await mails.put.aio(number)
    await receipts.write_text.aio(f"/{number}.txt", f"one {article}\n")
    if article == "nothing":
        raise HTTPException(422, "nothing was ordered")  # and nothing of the above was done
    return "ordered"


@app.delete("/orders/{number}")
def cancel(number: int) -> str:  # without `async` it runs on a thread: the block stands here, and calls block
    with pgstore.transaction():
        mails.put(f"{orders.pop(number)} was cancelled")
    return "cancelled"


@app.get("/receipts/{number}")
async def receipt(number: int) -> StreamingResponse:
    if not await receipts.exists.aio(f"/{number}.txt"):
        raise HTTPException(404, "no such receipt")
    return StreamingResponse(receipts.read_file(f"/{number}.txt"))  # no transaction is open while the client reads


if __name__ == "__main__":
    with TestClient(app) as client:
        print(client.post("/orders/1?article=lamp").json(), client.post("/orders/2?article=nothing").json())
        print(orders.items(), client.get("/receipts/1").text, client.get("/receipts/2").status_code)
        print(client.delete("/orders/1").json(), mails.get_many(10))
