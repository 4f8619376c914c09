"""A producer and two consumers on one event loop. A consumer that waits costs the server nothing: a put wakes it."""

import asyncio

import pgstore


async def produce(numbers: pgstore.Queue) -> None:
    for number in range(6):
        await numbers.put.aio(number)
        await asyncio.sleep(0.01)
    await numbers.put_many.aio([None, None])  # one for each consumer


async def consume(name: str, numbers: pgstore.Queue, squares: pgstore.Dict) -> None:
    while True:
        async with pgstore.transaction():  # the number is taken and its square is stored, or it stays in the queue
            number = await numbers.get.aio(timeout=10)
            if number is None:
                return
            await squares.put.aio(number, (name, number**2))


async def main() -> None:
    async with pgstore.Queue.ephemeral() as numbers, pgstore.Dict.ephemeral() as squares:
        await asyncio.gather(produce(numbers), consume("ann", numbers, squares), consume("bob", numbers, squares))
        async for number, (_, square) in squares.iterate_items():
            print(number, square)
    await pgstore.default_client().aclose()


asyncio.run(main())
