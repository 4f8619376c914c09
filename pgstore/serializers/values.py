"""Values as bytes: pickles that load in every process, with native columns for numbers.

The trap: plain pickle stores the functions and classes of a program's `__main__` by reference and *succeeds*; only the
reader fails, which has another `__main__`. cloudpickle stores them by value, for two microseconds more per value. So
plain pickle goes first, and what it wrote is searched for the one name it must not contain; if that is found, or pickle
fails (lambdas, local classes), cloudpickle takes over. It writes ordinary pickles: `pickle.loads` reads all of them.

Loading a pickle runs code. Whoever may write to a store may run code in its readers.
"""

from __future__ import annotations

import copyreg
import io
import json
import pickle
import sys
import threading
import time
import types
from collections.abc import Iterator
from decimal import Decimal
from typing import Any, Final

from pgstore.errors import DeserializationError, SerializationError, ValueTooLarge

# pg_dump fails on values above about 500 MiB, and takes the whole backup with it. The database CHECKs the same limit.
VALUE_BYTES_MAX: Final = 256 * 1024 * 1024

# How a Dict's value is stored: which of the columns `value`, `integer_value` and `float_value` holds it.
CODEC_PICKLE: Final = "p"
CODEC_INTEGER: Final = "i"
CODEC_FLOAT: Final = "f"

_PROTOCOL: Final = 5
_INT64_MIN: Final = -(1 << 63)
_INT64_MAX: Final = (1 << 63) - 1

# Of exactly these types nothing can be a function or a class.
_SCALARS: Final = frozenset({str, bytes, int, float, bool, type(None)})
_MAIN: Final = b"_main__"
_MAIN_MODULES: Final = frozenset({"__main__", "__mp_main__"})
# A pickle above this is worth a look at what fills it, before 0.4 ns per byte go into searching it.
_SEARCH_BYTES_MAX: Final = 8192
_BLAME_SECONDS_MAX: Final = 1.0

# Codes registered with copyreg stand in a pickle instead of names, so a search for a name would not see them.
_EXTENSION_CODES: Final[dict[Any, Any]] = getattr(copyreg, "_extension_registry", {})
_mp_main_lock = threading.RLock()

# What says that an object could not be loaded. Its own `__setstate__` can raise anything; what is left out is what a signal handler
# or an event loop raises to stop the program, wherever it is, and that must get through.
NOT_LOADED: Final = (Exception, GeneratorExit)


def dumps(value: Any, what: str = "value") -> bytes:
    """
    Pickle *value* so that any process with the same libraries can load it.

    *what* names the value in errors.

    Raises:
        SerializationError: it cannot be pickled; the message names the part that is in the way, where one can be found.
    """
    if type(value) in _SCALARS:
        return pickle.dumps(value, _PROTOCOL)
    cloudpickle = sys.modules.get("cloudpickle")
    if not _EXTENSION_CODES and (cloudpickle is None or not _has_modules_by_value(cloudpickle)):
        try:
            data = pickle.dumps(value, _PROTOCOL)
            # Part of __main__ and of __mp_main__. Found in a mere text, it costs time and does no harm.
            if _MAIN not in data if len(data) <= _SEARCH_BYTES_MAX else _stands_alone(value, data):
                return data
        except MemoryError:
            raise
        except RecursionError as exc:
            raise _refusal(value, what, exc) from exc
        except Exception:  # noqa: BLE001  # whatever it was: cloudpickle succeeds, or fails with its own reason
            pass
    try:
        return _cloudpickle_dumps(value)
    except MemoryError:
        raise
    except Exception as exc:
        raise _refusal(value, what, exc) from exc


def loads(data: bytes | memoryview, what: str, *parts: object) -> Any:
    """
    Load what `dumps` wrote. *what*, formatted with *parts*, names the value in errors.

    Raises:
        DeserializationError: this process cannot load it, for whatever reason: that is its `__cause__`. The bytes are
            in its `raw`.
    """
    try:
        return pickle.loads(data)
    except NOT_LOADED as exc:
        name = what.format(*parts) if parts else what
        message = f"{name} cannot be loaded: {_describe(exc)}: {_loading_advice(exc)}"
        raise DeserializationError(message, raw=bytes(data)) from exc


def load_json(text: str | bytes, what: str, *parts: object) -> Any:
    """
    Load JSON. *what*, formatted with *parts*, names the value in errors.

    Raises:
        DeserializationError: Python cannot hold it, for example nested as deeply as Postgres can; the text as UTF-8 is in `raw`.
    """
    try:
        return parse_json(text)
    except NOT_LOADED as exc:
        name = what.format(*parts) if parts else what
        raw = text.encode(errors="surrogatepass") if isinstance(text, str) else text
        raise DeserializationError(f"{name} cannot be loaded: {_describe(exc)}", raw=raw) from exc


def parse_json(text: str | bytes) -> Any:
    """What JSON says, integers of any length included."""
    try:
        return json.loads(text)
    except ValueError:  # an integer of more digits than Python converts from text, which SQL may have put
        return json.loads(text, parse_int=lambda digits: int(Decimal(digits)))


def check_size(nbytes: int, what: str, *parts: object) -> None:
    """Raise `ValueTooLarge` if *what*, formatted with *parts*, takes more than `VALUE_BYTES_MAX`."""
    if nbytes > VALUE_BYTES_MAX:
        name = what.format(*parts) if parts else what
        raise ValueTooLarge(
            f"{name} has {nbytes / 1024**2:,.1f} MiB ({nbytes:,} bytes), at most {VALUE_BYTES_MAX // 1024**2} MiB are "
            "allowed: store it as a file in a Volume and keep its path here, or split it"
        )


def encode_value(value: Any) -> tuple[str, bytes | None, int | None, float | None]:
    """
    Return the columns (codec, value, integer_value, float_value) that hold *value*.

    Only an exact int within 64 bits and an exact float become numbers: a bool, an IntEnum or a numpy scalar must come
    back as what it was.
    """
    kind = type(value)
    if kind is int:
        if _INT64_MIN <= value <= _INT64_MAX:
            return CODEC_INTEGER, None, value, None
    elif kind is float:
        return CODEC_FLOAT, None, None, value
    return CODEC_PICKLE, dumps(value), None, None


def decode_value(
    codec: str, data: bytes | memoryview | None, integer: int | None, real: float | None, what: str
) -> Any:
    """
    Return the value that `encode_value` turned into these columns. *what* names it in errors.

    Raises:
        DeserializationError: the value cannot be loaded here, or a newer pgstore wrote it with a codec unknown to this.
    """
    if codec == CODEC_PICKLE and data is not None:
        return loads(data, what)
    if codec == CODEC_INTEGER and integer is not None:
        return integer
    if codec == CODEC_FLOAT and real is not None:
        return real
    raise DeserializationError(
        f"{what} is stored with codec {codec!r}, which this version of pgstore does not know: update pgstore",
        raw=b"" if data is None else bytes(data),
    )


# --- which pickler --------------------------------------------------------------------------------------------------


class _ByReference(Exception):
    """A global of `__main__` would be stored as a name."""


class _Guard(pickle.Pickler):
    """The C pickler, stopping at the first object of `__main__`: function, class, instance or type variable.

    It is asked about everything but exact built-in containers and scalars, which costs an instance some 0.1 µs and a
    megabyte of bytes nothing.
    """

    def reducer_override(self, obj: Any) -> Any:
        if getattr(obj, "__module__", None) in _MAIN_MODULES:
            raise _ByReference
        return NotImplemented


def _stands_alone(value: Any, data: bytes) -> bool:
    """Whether *data*, the plain pickle of *value* and a large one, names nothing of `__main__`."""
    if _is_mostly_bytes(value, len(data)):
        # Copying a megabyte of bytes once more takes a tenth of the time of searching it (40 µs against 400).
        _Guard(io.BytesIO(), _PROTOCOL).dump(value)
        return True
    return _MAIN not in data


def _is_mostly_bytes(value: Any, nbytes: int) -> bool:
    """Whether half of a pickle of *nbytes* are texts, bytes or arrays that *value* is or directly holds."""
    if isinstance(value, dict):
        parts: Any = value.values()
    elif isinstance(value, (list, tuple)):
        parts = value
    else:
        parts = (value,)
    return len(parts) <= 64 and 2 * sum(map(_payload_bytes, parts)) >= nbytes


def _payload_bytes(part: Any) -> int:
    if isinstance(part, (str, bytes, bytearray)):
        return len(part)
    nbytes = getattr(part, "nbytes", 0)  # numpy arrays and what looks like them
    return nbytes if isinstance(nbytes, int) else 0


def _has_modules_by_value(cloudpickle: types.ModuleType) -> bool:
    """Whether the program has asked cloudpickle to store whole modules by value; plain pickle knows nothing of it."""
    try:
        return bool(cloudpickle.list_registry_pickle_by_value())
    except AttributeError:  # another thread is just importing it
        return False


def _cloudpickle_dumps(value: Any) -> bytes:
    import cloudpickle

    main = sys.modules.get("__mp_main__")
    if main is None or getattr(main, "__name__", None) != "__mp_main__":
        return bytes(cloudpickle.dumps(value, _PROTOCOL))
    # A child of multiprocessing knows the parent's __main__ by this name, and cloudpickle takes it for a module that
    # everyone can import. Registered only meanwhile: how the program itself pickles is not ours to change.
    with _mp_main_lock:
        if "__mp_main__" in cloudpickle.list_registry_pickle_by_value():
            return bytes(cloudpickle.dumps(value, _PROTOCOL))
        cloudpickle.register_pickle_by_value(main)
        try:
            return bytes(cloudpickle.dumps(value, _PROTOCOL))
        finally:
            cloudpickle.unregister_pickle_by_value(main)


# --- saying what is wrong -------------------------------------------------------------------------------------------


def _refusal(value: Any, what: str, exc: Exception) -> SerializationError:
    """Explain *exc*, which pickling *value* raised."""
    # cloudpickle turns a RecursionError into a PicklingError.
    if isinstance(exc, RecursionError) or isinstance(exc.__cause__, RecursionError):
        return SerializationError(
            f"{what} of type {_type_name(value)!r} is nested too deeply to be pickled (the recursion limit is "
            f"{sys.getrecursionlimit()}): store it flat, for example as a list of nodes that name each other by index"
        )
    try:
        where, part = _blame(value, what)
    except Exception:  # noqa: BLE001  # a broken __repr__ or __reduce__ must not hide the error being explained
        where, part = what, value
    return SerializationError(
        f"{where} of type {_type_name(part)!r} cannot be stored: {_describe(exc)}: leave it out and make it anew after "
        "loading, or give the class that holds it a __getstate__ or __reduce__ that does"
    )


def _blame(value: Any, where: str) -> tuple[str, Any]:
    """The innermost part of *value* that cannot be pickled, and the path to it. Takes a second at most."""
    deadline = time.monotonic() + _BLAME_SECONDS_MAX
    seen = {id(value)}
    descended = True
    while descended:
        descended = False
        for step, part in _parts(value):
            if time.monotonic() > deadline:
                return where, value
            if type(part) in _SCALARS or id(part) in seen or _is_picklable(part):
                continue
            where, value, descended = where + step, part, True
            seen.add(id(part))
            break
    return where, value


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    """What pickle goes through inside *value*, each with its step of a path."""
    if isinstance(value, dict):
        for key in value:
            yield ".keys()", key
        for key, item in value.items():
            yield f"[{_short_repr(key)}]", item
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield f"[{index}]", item
    elif isinstance(value, (set, frozenset)):
        for item in value:
            yield "{element}", item
    elif isinstance(value, types.FunctionType):
        for name, cell in zip(value.__code__.co_freevars, value.__closure__ or (), strict=False):
            yield f" (its variable {name!r})", cell.cell_contents
        for name in value.__code__.co_names:
            if name in value.__globals__:
                yield f" (its global {name!r})", value.__globals__[name]
    elif not isinstance(value, type):
        yield from _parts_of_object(value)


def _parts_of_object(value: Any) -> Iterator[tuple[str, Any]]:
    try:
        reduced = value.__reduce_ex__(_PROTOCOL)
    except Exception:  # noqa: BLE001  # it refuses to be pickled at all, so it is not for one of its parts
        return
    if not isinstance(reduced, tuple):
        return
    arguments, state, items, pairs = (list(reduced[1:5]) + [None] * 4)[:4]
    for part in state if isinstance(state, tuple) else (state,):
        if isinstance(part, dict):
            yield from ((f".{name}", item) for name, item in part.items())
        else:
            yield " (in its state)", part
    yield from ((f"[{index}]", item) for index, item in enumerate(items or ()))
    yield from ((f"[{_short_repr(key)}]", item) for key, item in pairs or ())
    yield from (("", item) for item in arguments or () if not isinstance(item, type))


def _is_picklable(value: Any) -> bool:
    try:
        _cloudpickle_dumps(value)
    except Exception:  # noqa: BLE001  # the question is whether, not why
        return False
    return True


def _loading_advice(exc: BaseException) -> str:
    if isinstance(exc, ModuleNotFoundError):
        return "install the module in this environment, or load the value where it was stored"
    if isinstance(exc, (AttributeError, ImportError)):
        return "its classes and functions must exist here under the names they had where it was stored"
    if isinstance(exc, (pickle.UnpicklingError, EOFError)):
        return "the stored bytes are damaged or were not written by pgstore"
    return "the stored bytes are in this error's `raw`"


def _describe(exc: BaseException) -> str:
    try:
        return f"{type(exc).__name__}: {exc}"
    except Exception:  # noqa: BLE001  # a foreign __str__ may raise anything, and its exception still has a type
        return type(exc).__name__


def _short_repr(key: Any) -> str:
    text = repr(key)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _type_name(value: Any) -> str:
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
