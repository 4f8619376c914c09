"""Values on the command line: how what is typed becomes one, and how one is shown.

What is shown on a terminal has no control characters, which could move the cursor or recolour it, and in tables is cut before it is
made: the text of a value may be far larger than the value. Elsewhere it is whole.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import reprlib
import sys
from collections.abc import Iterable, Iterator, Mapping
from datetime import date, datetime, time
from typing import Any, Final, NoReturn

from pgstore import errors
from pgstore.admin.contents import Unloadable
from pgstore.cli import output
from pgstore.serializers import VALUE_BYTES_MAX, key_text

CELL_CHARS: Final = 80
_LINES_BYTES_MAX: Final = 1 << 30  # of items that are put together
_LINE_CHARS: Final = 4000  # of an item on a terminal
_BRACKETS: Final[dict[type, tuple[str, str]]] = {list: ("[", "]"), tuple: ("(", ")"), dict: ("{", "}"), set: ("{", "}")}


# --- in ---------------------------------------------------------------------------------------------------------------


def typed(text: str, what: str = "VALUE", *, is_json: bool = False, is_bytes: bool = False) -> Any:
    """
    The value that an argument stands for: `-` is what comes on stdin.

    Raises:
        InvalidError: it is not UTF-8, or with *is_json* no JSON.
    """
    return of_bytes(stdin() if text == "-" else _as_bytes(text), what, is_json=is_json, is_bytes=is_bytes)


def of_bytes(data: bytes, what: str, *, is_json: bool = False, is_bytes: bool = False) -> Any:
    """The value that *data* stand for: bytes, JSON, or else a str. Raises `InvalidError` as `typed`."""
    if is_bytes:
        return data
    try:
        text = data.decode()
    except UnicodeDecodeError as exc:
        hint = ": give --bytes to store bytes" if what != "KEY" and not is_json else ""
        raise errors.InvalidError(f"{what} is not UTF-8 at byte {exc.start}{hint}") from None
    return _json_of(text, what) if is_json else text


def typed_key(text: str, is_json: bool) -> Any:
    """The key that an argument stands for; with *is_json* a number, null, or a tuple, written as a list. Raises `InvalidError`."""
    key = of_bytes(_as_bytes(text), "KEY", is_json=is_json)
    if is_json:
        key = _as_key(key)
    try:
        key_text(key)
    except TypeError as exc:
        raise errors.InvalidError(f"KEY: {exc}") from None
    return key


def check_kind(*, is_json: bool, is_bytes: bool) -> None:
    """Raise `InvalidError` if what is typed is to be both JSON and bytes."""
    if is_json and is_bytes:
        raise errors.InvalidError("give --json or --bytes, not both")


def number(text: str, what: str) -> float:
    """The number that an argument stands for, an int where it is one. Raises `InvalidError`."""
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    raise errors.InvalidError(f"{what} {reprlib.repr(text)} is not a number")


def typed_lines(*, is_json: bool = False, is_bytes: bool = False) -> list[Any]:
    """The values that the lines on stdin stand for. Raises `InvalidError` as `typed`."""
    lines = stdin(_LINES_BYTES_MAX).removesuffix(b"\n").split(b"\n")
    return [
        of_bytes(line, f"line {number}", is_json=is_json, is_bytes=is_bytes) for number, line in enumerate(lines, 1)
    ]


def stdin(bytes_max: int = VALUE_BYTES_MAX) -> bytes:
    """
    What comes on stdin, all of it.

    Raises:
        InvalidError: it is closed.
        ValueTooLarge: there is more than *bytes_max*; nobody has room for what does not end.
    """
    try:
        data = sys.stdin.buffer.read(bytes_max + 1)
        if len(data) > bytes_max:
            raise errors.ValueTooLarge(f"on stdin are more than {bytes_max // 1024**2} MiB, which is the most")
        return data
    except OSError as exc:
        if exc.errno != errno.EBADF:
            raise
        raise errors.InvalidError("- is what comes on stdin, which is closed") from None


def _as_bytes(argument: str) -> bytes:
    """The bytes of which Python made *argument*."""
    try:
        return os.fsencode(argument)
    except UnicodeEncodeError:  # a caller's in this process; it is no UTF-8 then
        return argument.encode(errors="surrogatepass")


def _json_of(text: str, what: str) -> Any:
    try:
        return json.loads(text, parse_constant=_refuse)
    except RecursionError:
        raise errors.InvalidError(f"{what} is JSON that is nested too deeply") from None
    except ValueError as exc:
        raise errors.InvalidError(f"{what} {reprlib.repr(text)} is not JSON: {exc}") from None


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number in JSON")


def _as_key(value: Any) -> Any:
    return tuple(map(_as_key, value)) if isinstance(value, list) else value


# --- out --------------------------------------------------------------------------------------------------------------


def cell(value: object, use_repr: bool = False) -> str:
    """*value* as the cell of a table: one line, cut on a terminal."""
    return line(value, use_repr, CELL_CHARS)


def line(value: object, use_repr: bool = False, chars: int | None = _LINE_CHARS) -> str:
    """*value* in one line, on a terminal of at most so many *chars*; None: whole."""
    if chars is None or not sys.stdout.isatty():
        return output.printable(_text(value, use_repr))
    beginning = _beginning(value, use_repr, chars + 1)
    shown = output.printable(beginning)
    return shown if len(shown) <= chars else f"{shown[: chars - 1]}…"


def check_form(*, use_repr: bool, as_json: bool, raw: bool) -> None:
    """Raise `InvalidError` if more than one form is asked for."""
    given = [name for name, wanted in (("--repr", use_repr), ("--json", as_json), ("--raw", raw)) if wanted]
    if len(given) > 1:
        raise errors.InvalidError(f"give {' or '.join(given)}, not both")


def write(value: object, *, use_repr: bool = False, as_json: bool = False, raw: bool = False) -> None:
    """
    Print *value*, whole, and wait until it is written.

    Bytes go out as they are where the output is no terminal; with *raw* also there, and a str too, without a newline.

    Raises:
        InvalidError: it is to be *raw*, and is neither str nor bytes.
    """
    is_bytes = isinstance(value, (bytes, bytearray)) and not use_repr and not as_json
    if raw and not isinstance(value, (str, bytes, bytearray)):
        raise errors.InvalidError(f"--raw writes str and bytes as they are, and this is of type {type(value).__name__}")
    if raw or (is_bytes and not sys.stdout.isatty()):
        data = value.encode(errors="surrogatepass") if isinstance(value, str) else value
        assert isinstance(data, (bytes, bytearray))
        sys.stdout.flush()
        sys.stdout.buffer.write(data)
    elif as_json:
        print(json_text(value))
    else:
        text = _text(value, use_repr)
        print(output.printable(text, keeping="\n\t") if sys.stdout.isatty() else text)
    sys.stdout.flush()


def json_text(value: object) -> str:
    """*value* as JSON in ASCII; what JSON does not have is there as its repr."""
    try:
        return json.dumps(value, default=_json_default, allow_nan=False)
    except (TypeError, ValueError, RecursionError):  # NaN, keys that are no str, circles
        return json.dumps(_text(value, use_repr=True))


def write_lines(values: Iterable[object], *, use_repr: bool, as_json: bool) -> None:
    """Print *values* as they come: each in one line, or a JSON list."""
    if as_json:
        write_json(map(plain, values))
        return
    for value in values:
        print(line(value, use_repr))


def write_json(values: Iterable[object]) -> None:
    """Print a JSON list of *values*, one a line, as they come."""
    _write_list(map(json_text, values))


def write_records(records: Iterable[Mapping[str, object]]) -> None:
    """Print a JSON list of objects, one a line, as they come. A field that JSON does not have is there as its repr."""
    _write_list(
        "{" + ", ".join(f"{json.dumps(name)}: {json_text(value)}" for name, value in record.items()) + "}"
        for record in records
    )


def _write_list(texts: Iterable[str]) -> None:
    separator = "["
    for text in texts:
        print(f"{separator}\n  {text}", end="")
        separator = ","
    print("[]" if separator == "[" else "\n]")


def plain(value: object) -> object:
    """*value* for JSON: what could not be loaded is told of as text."""
    return _text(value, use_repr=False) if isinstance(value, Unloadable) else value


def or_error(name: str, value: object) -> dict[str, object]:
    """*value* as a field of a JSON object; what could not be loaded is null, and a field `error` says why."""
    return {name: None, "error": _text(value, False)} if isinstance(value, Unloadable) else {name: value}


def _json_default(value: object) -> object:
    if isinstance(value, (datetime, date, time)):
        return value.isoformat()
    return _text(value, use_repr=True)


def _text(value: object, use_repr: bool) -> str:
    if isinstance(value, Unloadable):
        return f"<cannot be loaded: {value.reason}; {value.size_bytes:,} bytes>"
    try:
        return repr(value) if use_repr else str(value)
    except Exception as exc:  # noqa: BLE001 - whatever a class of the user's raises
        return f"<{type(value).__name__} that cannot be shown: {type(exc).__name__}: {exc}>"


def _beginning(value: object, use_repr: bool, chars: int) -> str:
    """The first *chars* of what `_text` returns, or some more; what is not needed of a container is not looked at."""
    if type(value) is str and not use_repr:
        return value[:chars]
    text = io.StringIO()
    for piece in _pieces(value, use_repr, chars):
        text.write(piece)
        if text.tell() >= chars:
            break
    return text.getvalue()


def _pieces(value: Any, use_repr: bool, chars: int) -> Iterator[str]:
    kind = type(value)
    if kind in (str, bytes) and len(value) > chars:
        yield repr(value[:chars])[:-1]
    elif kind in _BRACKETS and value:
        opening, closing = _BRACKETS[kind]
        yield opening
        for number, part in enumerate(value.items() if kind is dict else value):
            if number:
                yield ", "
            for index, each in enumerate(part if kind is dict else (part,)):
                if index:
                    yield ": "
                yield from _pieces(each, True, chars)
        yield f",{closing}" if kind is tuple and len(value) == 1 else closing
    else:
        yield _text(value, use_repr)
