"""The example of the README: a Dict, a Queue, a Volume, a transaction over them, and the asynchronous form."""

import asyncio

import pgstore

settings = pgstore.Dict.persist("quickstart-settings")
tasks = pgstore.Queue.persist("quickstart-tasks")
files = pgstore.Volume.persist("quickstart-files")

settings["greeting"] = "hello"
tasks.put_many(["world", "moon"])

with pgstore.transaction():  # all of it, or, after an exception, nothing
    name = tasks.get()
    files.put_file(__file__, f"/scripts/{name}.py")
    settings["last"] = name

print([entry.path for entry in files.listdir("/scripts")], dict(settings.items()))


async def main() -> None:
    print(await settings.get.aio("greeting"), await tasks.get.aio())


asyncio.run(main())
