"""A program whose functions have stores, for tests of what functions and stores are to each other."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import pgstore

app = pgstore.App("tests-stores", volumes={"/data-of-tests": pgstore.Volume.persist("tests-app-stores")})


@app.function(max_containers=1)
def write(name: str, text: str) -> str:
    Path("/data-of-tests", name).write_text(text)
    return text


@app.function(max_containers=1)
def use(what: str, *args: Any) -> Any:
    if what == "call the other here":
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            return write("a", "plain"), write.local("b", "local")
    if what == "read":
        return Path("/data-of-tests", *args).read_text()
    if what == "put":
        store, key, value = args
        store.put(key, value)
        return store
    if what == "call":
        function, *arguments = args
        return function.remote(*arguments)
    raise ValueError(what)


# What only the program's own process knows.
SECRET = pgstore.Secret.from_dict({"OF_THE_PROGRAM": "known"} if pgstore.is_local() else {})


@app.function(max_containers=1, secrets=[SECRET], volumes={})
def variable(name: str) -> str | None:
    return os.environ.get(name)
