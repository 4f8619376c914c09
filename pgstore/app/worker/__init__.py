"""A worker: a fresh interpreter that runs inputs of one function or class, and sends their outcomes.

`start` is the program. It sets the interpreter up, and `process` does the rest: `target` loads what is to be run, `jobs` runs it,
and `parent` is who has started it all. `root` has file systems of its own, in which `mounts` are where the function wants them.
"""
