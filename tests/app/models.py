"""A program with classes, for tests of what they offer."""

from __future__ import annotations

import os
from pathlib import Path

import pgstore

app = pgstore.App("tests-models")


@app.cls(max_containers=1)
class Model:
    """A model that is loaded once."""

    LIMIT = 7
    size: int = pgstore.parameter(default=2)

    @pgstore.enter()
    def load(self):
        self.loaded = self.size * 10
        self.entered = [*getattr(self, "entered", []), "enter"]

    @pgstore.method()
    def predict(self, x):
        return self.loaded + x, os.getpid(), self.entered

    @pgstore.method()
    def chain(self, x):
        return self.predict(x)[0], self.predict.local(x)[0]

    @pgstore.method()
    def count(self, n):
        yield from range(n)

    @pgstore.method()
    async def later(self, x):
        return x

    @staticmethod
    def doubled(x):
        return 2 * x


@app.cls()
class Base:
    base: str = pgstore.parameter(default="base")

    @pgstore.enter()
    def base_first(self):
        self.entered = [*getattr(self, "entered", []), "base_first"]

    @pgstore.enter()
    def base_second(self):
        self.entered.append("base_second")

    @pgstore.exit()
    def leave(self):
        pass

    @pgstore.method()
    def describe(self):
        raise NotImplementedError


@app.cls()
class Derived(Base):
    own: int = pgstore.parameter(default=1)
    loaded: list = pgstore.parameter(init=False)

    @pgstore.enter()
    def derived(self):
        self.entered.append("derived")

    @pgstore.enter(snap=True)
    def snapped(self):
        self.entered = ["snapped"]

    @pgstore.method()
    def describe(self):
        return f"{self.base} {self.own}"


@app.cls()
class Broken:
    @pgstore.enter()
    def load(self):
        raise LookupError("no model")

    @pgstore.method()
    def run(self):
        pass


@app.cls()
class Leaving:
    path: str = pgstore.parameter()

    @pgstore.exit()
    def leave(self):
        Path(self.path).write_text("left")

    @pgstore.method()
    def run(self):
        return "ran"


@app.cls()
class Constructed:
    def __init__(self, a=1, *, b):
        self.a, self.b = a, b

    @pgstore.method()
    def total(self):
        return self.a + self.b


class Plain:
    @pgstore.method()
    def method(self):
        pass
