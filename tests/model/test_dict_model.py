"""Dict against a Python dict, under generated operations of two processes."""

from __future__ import annotations

import itertools
import multiprocessing
import operator
from typing import Any

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

import pgstore
from tests.fixtures.depth import examples

_numbers = itertools.count(1)

KEYS = st.one_of(
    st.sampled_from(
        [0, 1, 1.0, True, "1", "", "a", "a\0", "\x01", None, (1, "a"), (1.0, "a"), b"a", frozenset({1}), "x" * 1500]
    ),
    st.text(max_size=5),
    st.integers(-3, 3),
)
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.text(max_size=8),
    st.lists(st.integers(), max_size=3),
)
ABSENT = object()


def mutate(store, key, default, value):
    """Change an entry under its lock. Returns whether it existed, and what it was."""
    with store.mutate(key, default) as entry:
        before = entry.existed, entry.value
        entry.value = value
    return before


def serve(database, connection):
    """Do what comes in, on a Dict, until nothing does."""
    with pgstore.Client(database) as client:
        while call := connection.recv():
            name, function, arguments = call
            store = pgstore.Dict.persist(name, client=client)
            try:
                connection.send((True, function(store, *arguments)))
            except Exception as exc:
                connection.send((False, exc))


class Process:
    """Another process, which uses the same database."""

    def __init__(self, database):
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(database, theirs), daemon=True)
        self.process.start()

    def call(self, name, function, *arguments):
        self.connection.send((name, function, arguments))
        done, result = self.connection.recv()
        if not done:
            raise result
        return result

    def end(self):
        self.connection.send(None)
        self.process.join(20)
        assert self.process.exitcode == 0


class DictElsewhere:
    """A Dict as used by another process."""

    def __init__(self, process, name):
        self._process = process
        self._name = name

    def __getattr__(self, method):
        return lambda *arguments, **keywords: self._call(call_method, method, arguments, keywords)

    def _call(self, function, *arguments):
        return self._process.call(self._name, function, *arguments)

    def __setitem__(self, key, value):
        self._call(operator.setitem, key, value)

    def __delitem__(self, key):
        self._call(operator.delitem, key)

    def __contains__(self, key):
        return self._call(operator.contains, key)

    def __len__(self):
        return self._call(len)

    def __iter__(self):
        return iter(self._call(list))


def call_method(store, method, arguments, keywords):
    return getattr(store, method)(*arguments, **keywords)


class DictMachine(RuleBasedStateMachine):
    """Every operation happens on the Dict, through either process, and on a dict."""

    database: str
    process: Process

    @initialize()
    def start(self):
        name = f"model-{next(_numbers)}"
        self.client = pgstore.Client(self.database)
        self.stores: list[Any] = [
            pgstore.Dict.persist(name, client=self.client),
            DictElsewhere(self.process, name),
        ]
        for store in self.stores:
            store.clear()
        self.model: dict = {}
        self.transaction: Any = None
        self.before: dict = {}

    @property
    def store(self):
        # Inside a transaction only its own process sees what is going on.
        return self.stores[0] if self.transaction else self.stores[next(_numbers) % 2]

    @rule(key=KEYS, value=VALUES)
    def put(self, key, value):
        self.store[key] = value
        self.model[key] = value

    @rule(key=KEYS, value=VALUES)
    def put_if_absent(self, key, value):
        assert self.store.put(key, value, skip_if_exists=True) == (key not in self.model)
        self.model.setdefault(key, value)

    @rule(key=KEYS)
    def get(self, key):
        expected = self.model.get(key, "nothing")
        got = self.store.get(key, "nothing")
        assert (got, type(got)) == (expected, type(expected))

    @rule(key=KEYS)
    def contains(self, key):
        assert (key in self.store) == (key in self.model)

    @rule(key=KEYS)
    def pop(self, key):
        assert self.store.pop(key, "nothing") == self.model.pop(key, "nothing")

    @rule(key=KEYS)
    def delete(self, key):
        try:
            del self.store[key]
            found = True
        except KeyError:
            found = False
        assert found == (self.model.pop(key, ABSENT) is not ABSENT)

    @rule(entries=st.dictionaries(KEYS, VALUES, max_size=6))
    def update(self, entries):
        self.store.update(entries)
        self.model.update(entries)

    @rule(key=KEYS, value=VALUES)
    def set_default(self, key, value):
        assert self.store.setdefault(key, value) == self.model.setdefault(key, value)

    @rule(key=KEYS, by=st.integers(-5, 5))
    def increment(self, key, by):
        before = self.model.get(key, 0)
        if type(before) is int and -(2**62) < before < 2**62:
            assert self.store.increment(key, by) == before + by
            self.model[key] = before + by

    @rule(keys=st.lists(KEYS, max_size=4))
    def get_many(self, keys):
        assert self.store.get_many(keys) == {key: self.model[key] for key in keys if key in self.model}

    @rule(keys=st.lists(KEYS, max_size=3))
    def pop_many(self, keys):
        expected = {key: self.model[key] for key in keys if key in self.model}
        assert self.store.pop_many(keys) == expected
        for key in expected:
            del self.model[key]

    @precondition(lambda self: self.model)
    @rule()
    def pop_item(self):
        last = self.store.keys()[-1]
        assert self.store.popitem() == (last, self.model.pop(last))

    @rule(key=KEYS, value=VALUES)
    def compare_and_set(self, key, value):
        expected = self.model.get(key)
        assert self.store.compare_and_set(key, expected, value)
        assert not self.store.compare_and_set(key, object, value)
        self.model[key] = value

    @rule(key=KEYS, value=VALUES)
    def mutate(self, key, value):
        expected = key in self.model, self.model.get(key, "default")
        store = self.store
        if isinstance(store, DictElsewhere):
            assert store._call(mutate, key, "default", value) == expected
        else:
            assert mutate(store, key, "default", value) == expected
        self.model[key] = value

    @rule()
    def clear(self):
        self.store.clear()
        self.model.clear()

    @precondition(lambda self: self.transaction is None)
    @rule()
    def begin(self):
        self.transaction = self.client.transaction()
        self.transaction.__enter__()
        self.before = dict(self.model)

    @precondition(lambda self: self.transaction is not None)
    @rule()
    def commit(self):
        self.transaction.__exit__(None, None, None)
        self.transaction = None

    @precondition(lambda self: self.transaction is not None)
    @rule()
    def roll_back(self):
        self.transaction.__exit__(ValueError, ValueError(), None)
        self.transaction = None
        self.model = self.before

    @invariant()
    def agree(self):
        if not hasattr(self, "model"):
            return
        store = self.store
        assert len(store) == len(self.model)
        assert dict(store.items()) == self.model
        assert store.keys() == list(store)

    def teardown(self):
        if getattr(self, "transaction", None):
            self.transaction.__exit__(ValueError, ValueError(), None)
        if hasattr(self, "client"):
            self.client.close()


def test_a_dict_behaves_like_a_python_dict(database):
    DictMachine.database = database
    DictMachine.process = Process(database)

    run_state_machine_as_test(
        DictMachine, settings=settings(max_examples=examples(15), stateful_step_count=30, deadline=None)
    )

    DictMachine.process.end()
