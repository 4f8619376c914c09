"""The daemon: a process apart, which serves all mounts of the process that has started it.

It is never a thread of the user's process: that would wait for itself when it reads from a mapped file. Nothing that it is told
can be seen by others, in arguments or an environment: all comes over a socket that it inherits.

- `messages` says what a message is.
- `caller` is the side of the caller's process: it starts the daemon, asks it, answers what it asks.
- `start` is the program: it learns from the socket where pgstore is, and calls `process`, which carries out what it is asked for
  and ends when its caller ends. `parent` watches that.
- `served` is one mount in the daemon, `backends` the `Files` that it serves, `clients` the databases of these.
- `control` is the socket by which other processes of the same user ask for mounts, `holders` finds who uses one.
"""
