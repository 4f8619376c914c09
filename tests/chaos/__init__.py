"""All stores at once while everything goes wrong, and an audit of what programs were told: `python -m tests.chaos --minutes 10`.

Workers in processes of their own use the stores and write down, on disk, what they are about to do and what came of it. Meanwhile
they are killed and paused, their connections are cut, swallowed, terminated and cancelled, and the server crashes. In the end the
notes are held against the database.

- `journal`: the notes, and how they are read.
- `drills`: what workers do with one kind of store, and the audit of it, side by side.
- `worker`: a process that does drills; `hand`: one of its threads or tasks, for which drills are written once.
- `faults`: what goes wrong, each an object that knows how to bring it about.
- `run`: a server, workers, faults, recovery, audit; `report`: the table of it.
- `terminations`, `failovers`: one fault alone, many times: backends that are terminated, and a standby that takes over.
"""
