"""The example of the README: a Dict, a Queue, a Volume, a transaction over them, SQL, and the asynchronous form."""

import asyncio

import pgstore

settings = pgstore.Dict.persist("quickstart-settings")
tasks = pgstore.Queue.persist("quickstart-tasks")
files = pgstore.Volume.persist("quickstart-files")

settings["greeting"] = "hello"
tasks.put_many(["world", "moon"])

with pgstore.transaction() as tx:  # all of it, or, after an exception, nothing
    name = tasks.get()
    size = files.write_text(f"/letters/{name}.txt", f"{settings['greeting']} {name}")
    settings["last"] = name
    rows = tx.connection.execute(
        "SELECT depth FROM pgstore.queue_stats WHERE name = 'quickstart-tasks'"
    )  # your own SQL

print(files.read_text("/letters/world.txt"), dict(settings.items()), rows.fetchall())
print(asyncio.run(tasks.get.aio()))  # every method also has a form to await
