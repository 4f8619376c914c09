"""What values become, what loads elsewhere, and what is said about those that cannot be stored."""

from __future__ import annotations

import copyreg
import functools
import json
import os
import pickle
import subprocess
import sys
import threading
import types

import pytest

from pgstore import errors
from pgstore.serializers import (
    VALUE_BYTES_MAX,
    check_size,
    dumps,
    load_json,
    loads,
)

# Run as a program, so that all of it lives in `__main__`. A case is a value and an expression that holds for its copy.
WRITER = """
import base64, collections, dataclasses, enum, functools, json, sys, types, typing
from pgstore.serializers import dumps

class Point:
    def __init__(self, x): self.x = x
    def double(self): return 2 * self.x
class Sub(dict): pass
class Failure(Exception): pass
Color = enum.Enum("Color", "R G")
Pair = collections.namedtuple("Pair", "a b")
T = typing.TypeVar("T")
@dataclasses.dataclass
class Data:
    a: int
def increment(x): return x + 1
def local():
    class Local:
        y = 3
    return Local()
def closure(n): return lambda x: x + n

# A child of multiprocessing knows these as members of `__mp_main__`.
mp_main = sys.modules["__mp_main__"] = types.ModuleType("__mp_main__")
exec("class Child:\\n    z = 4\\ndef decrement(x): return x - 1", mp_main.__dict__)

cases = {
    "lambda": (lambda x: x + 1, "v(1) == 2"),
    "function": (increment, "v(1) == 2"),
    "class": (Point, "v(5).double() == 10"),
    "instance": (Point(1), "v.double() == 2"),
    "instance in a list": ([1, Point(2)], "v[1].x == 2"),
    "dict subclass": (Sub(a=1), "v == {'a': 1} and type(v).__name__ == 'Sub'"),
    "enum member": (Color.R, "v.name == 'R'"),
    "namedtuple": (Pair(1, 2), "v.b == 2"),
    "dataclass": (Data(1), "v.a == 1"),
    "partial": (functools.partial(increment, 1), "v() == 2"),
    "bound method": (Point(1).double, "v() == 2"),
    "exception": (Failure("x"), "v.args == ('x',)"),
    "defaultdict": (collections.defaultdict(increment, a=1), "v['a'] == 1 and v.default_factory(1) == 2"),
    "plain dict": ({"a": [1, 2.0, None]}, "v == {'a': [1, 2.0, None]}"),
    "OrderedDict": (collections.OrderedDict(a=1), "v['a'] == 1"),
    "local class": (local(), "v.y == 3"),
    "closure": (closure(2), "v(1) == 3"),
    "type variable": (T, "v.__name__ == 'T'"),
    "large, many objects": ([Point(i) for i in range(2000)], "v[-1].double() == 3998"),
    "large, one text": ({"text": "x" * 20_000, "point": Point(1)}, "v['point'].x == 1"),
    "large text, type variable": (["x" * 20_000, T], "v[1].__name__ == 'T'"),
    "class of a child": ([mp_main.Child()], "v[0].z == 4"),
    "function of a child": (mp_main.decrement, "v(1) == 0"),
    "the mere word": ("in __main__", "v == 'in __main__'"),
    "the mere word in a list": (["in __main__"], "v == ['in __main__']"),
}
print(json.dumps({name: (base64.b64encode(dumps(v)).decode(), check) for name, (v, check) in cases.items()}))
"""
READER = """
import base64, json, pickle, sys
answers = {}
for name, (data, check) in json.load(sys.stdin).items():
    try:
        answers[name] = eval(check, {"v": pickle.loads(base64.b64decode(data))})
    except Exception as exc:
        answers[name] = repr(exc)
print(json.dumps(answers))
"""


def run(program: str, stdin: str = "") -> str:
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    done = subprocess.run(
        [sys.executable, "-c", program],
        input=stdin,
        text=True,
        capture_output=True,
        env={**os.environ, "PYTHONPATH": root},
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_what_a_program_defines_loads_in_another():
    """
    Plain pickle stores a program's own functions and classes by a name that only this program knows, and does not say
    so: a worker would find out.
    """
    answers = json.loads(run(READER, stdin=run(WRITER)))

    assert answers == dict.fromkeys(answers, True)
    assert len(answers) == 25


def test_a_module_registered_by_value_is_stored_by_value(monkeypatch):
    """
    Who tells cloudpickle so has a module that the reader lacks.
    """
    cloudpickle = pytest.importorskip("cloudpickle")
    module = types.ModuleType("only_here")
    exec("def double(x): return 2 * x", module.__dict__)
    monkeypatch.setitem(sys.modules, "only_here", module)

    by_reference = dumps(module.double)
    cloudpickle.register_pickle_by_value(module)
    try:
        by_value = dumps(module.double)
    finally:
        cloudpickle.unregister_pickle_by_value(module)
    monkeypatch.delitem(sys.modules, "only_here")

    assert loads(by_value, "value")(3) == 6
    with pytest.raises(errors.DeserializationError, match="only_here"):
        loads(by_reference, "value")


def test_extension_codes_hide_no_name(monkeypatch):
    """
    A code registered with copyreg stands for `__main__.Hidden`, which a search for the name would miss.
    """
    cls = type("Hidden", (), {"__module__": "__main__"})
    monkeypatch.setattr(sys.modules["__main__"], "Hidden", cls, raising=False)
    copyreg.add_extension("__main__", "Hidden", 0x70000001)
    try:
        data = dumps([cls()])
    finally:
        copyreg.remove_extension("__main__", "Hidden", 0x70000001)
    monkeypatch.delattr(sys.modules["__main__"], "Hidden")

    assert type(loads(data, "value")[0]).__name__ == "Hidden"


def test_plain_values_are_plain_pickles():
    """
    So they load without cloudpickle, and the decoder in SQL reads them. cloudpickle is not even imported.
    """
    for value in (None, True, 7, 1.5, "text", b"bytes", [1, {"a": (2, {3})}], "x" * 100_000, [b"x" * 100_000]):
        assert dumps(value) == pickle.dumps(value, 5)
    program = "import sys, pgstore.serializers as s; s.dumps([1, {'a': (2,)}]); print('cloudpickle' in sys.modules)"
    assert run(program).strip() == "False"


# --- what cannot be stored ------------------------------------------------------------------------------------------


class Holder:
    def __init__(self, inner):
        self.inner = inner


class Raises:
    def __reduce__(self):
        raise ValueError("not today")


@pytest.mark.parametrize(
    ("wrap", "path"),
    [
        (lambda lock: lock, "value"),
        (lambda lock: {"a": [1, 2, lock]}, "value['a'][2]"),
        (lambda lock: Holder({"b": (lock,)}), "value.inner['b'][0]"),
        (lambda lock: [{lock}], "value[0]{element}"),
        (lambda lock: {"x": {lock: 1}}, "value['x'].keys()"),
        (lambda lock: functools.partial(print, lock), "value (in its state)[0]"),
        (lambda lock: lambda: lock, "value (its variable 'lock')"),
    ],
    ids=["itself", "containers", "object", "set", "dict key", "partial", "closure"],
)
def test_the_part_that_cannot_be_stored_is_named(wrap, path):
    """
    "cannot pickle '_thread.lock' object" leaves one searching a large object for it.
    """
    with pytest.raises(errors.SerializationError) as caught:
        dumps(wrap(threading.Lock()))

    assert str(caught.value).startswith(f"{path} of type '_thread.lock' cannot be stored: ")
    assert "__getstate__" in str(caught.value)
    assert isinstance(caught.value.__cause__, TypeError)


def test_an_exception_of_the_object_itself_is_the_cause():
    """
    Whatever a `__reduce__` raises is an error of ours, with the original kept.
    """
    with pytest.raises(errors.SerializationError, match=r"^value\[0\] of type '.*Raises' .*not today") as caught:
        dumps([Raises()])

    assert isinstance(caught.value.__cause__, ValueError)


def test_too_deep_nesting_is_a_serialization_error():
    """
    RecursionError would look like a bug of pgstore.
    """
    value: list = []
    for _ in range(100_000):
        value = [value]

    with pytest.raises(errors.SerializationError, match="nested too deeply"):
        dumps(value)


def test_a_cycle_can_be_stored_and_searched():
    """
    A value may refer to itself; the search for what is wrong in it must end nevertheless.
    """
    value: list = [1]
    value.append(value)
    assert loads(dumps(value), "value")[1][1][0] == 1

    value.append(threading.Lock())
    with pytest.raises(errors.SerializationError, match=r"^value\[2\] of type '_thread.lock'"):
        dumps(value)


# --- what cannot be loaded ------------------------------------------------------------------------------------------


class Unloadable:
    raises: BaseException = ValueError("bad state")

    def __getstate__(self):
        return {"a": 1}

    def __setstate__(self, state):
        raise self.raises


class Unprintable(Exception):
    def __str__(self):
        raise RuntimeError


@pytest.mark.parametrize(
    ("data", "cause"),
    [
        (b"", EOFError),
        (pickle.dumps([1, 2], 5)[:-3], pickle.UnpicklingError),
        (b"\xff\x00 no pickle", pickle.UnpicklingError),
        (b"\x80\x05cno_such_module\nname\n.", ModuleNotFoundError),
        (b"\x80\x05cos\nno_such_name\n.", AttributeError),
        (pickle.dumps(Unloadable()), ValueError),
    ],
    ids=["empty", "truncated", "garbage", "module", "attribute", "setstate"],
)
@pytest.mark.parametrize("kind", [bytes, memoryview])
def test_what_cannot_be_loaded_says_what_and_keeps_the_bytes(data, cause, kind):
    """
    One unreadable item must neither look like a bug of pgstore nor be lost.
    """
    with pytest.raises(errors.DeserializationError, match=r"^item 7 of queue 'q' cannot be loaded: ") as caught:
        loads(kind(data), "item 7 of queue 'q'")

    assert isinstance(caught.value.__cause__, cause)
    assert caught.value.raw == data
    assert type(caught.value.raw) is bytes


def test_an_exception_that_cannot_be_printed_is_mapped_too(monkeypatch):
    """
    Foreign exceptions do foreign things.
    """
    monkeypatch.setattr(Unloadable, "raises", Unprintable())

    with pytest.raises(errors.DeserializationError, match="Unprintable"):
        loads(pickle.dumps(Unloadable()), "value")


@pytest.mark.parametrize("exception", [MemoryError, RecursionError, GeneratorExit, StopIteration, AssertionError])
def test_whatever_else_loading_raises_is_a_value_that_cannot_be_loaded(monkeypatch, exception):
    """
    Also what is no Exception: the bytes are not lost over it.
    """
    monkeypatch.setattr(Unloadable, "raises", exception())
    data = pickle.dumps(Unloadable())

    with pytest.raises(errors.DeserializationError, match=exception.__name__) as caught:
        loads(data, "value")

    assert caught.value.raw == data


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a"', "", b"\xff", "nope"])
def test_json_that_cannot_be_loaded_is_one_error_with_its_text(text):
    with pytest.raises(errors.DeserializationError, match="item 7") as caught:
        load_json(text, "item {}", 7)

    assert caught.value.raw == (text.encode() if isinstance(text, str) else text)


def test_json_integers_may_be_of_any_length():
    """
    Python's limit is against text that takes long; jsonb has read it already.
    """
    assert load_json("[" + "1" * 5000 + "]", "item") == [(10**5000 - 1) // 9]


@pytest.mark.parametrize("exception", [KeyboardInterrupt, SystemExit])
def test_what_ends_a_program_passes_through(monkeypatch, exception):
    """
    Ctrl-C during a load is no damaged value.
    """
    monkeypatch.setattr(Unloadable, "raises", exception())

    with pytest.raises(exception):
        loads(pickle.dumps(Unloadable()), "value")


def test_a_value_above_the_limit_is_refused_with_the_way_out():
    """
    The limit is where pg_dump still works; large data belongs into a Volume.
    """
    check_size(VALUE_BYTES_MAX, "value of key 'a'")

    with pytest.raises(errors.ValueTooLarge, match=r"^value of key 'a' has 300\.0 MiB .* 256 MiB .* Volume"):
        check_size(300 * 1024 * 1024, "value of key 'a'")
