"""Warnings of blocking calls on the thread of a running event loop, all of whose tasks stand still meanwhile.

Whatever is about to block asks `running_loop()`, which costs some 50 ns, and calls `warn_of_blocking()` where there is a loop. Each
line of a program is warned of once; the warning names the form to await instead.

There is no warning where code at the top level of a module runs on a loop: a cell of a notebook and a line of `python -m asyncio`,
which have one running and nothing else to do meanwhile, or an import by a server that starts.
"""

from __future__ import annotations

import asyncio
import inspect
import sys
import warnings
from types import FrameType
from typing import Any, Final

from pgstore.config import warns_of_blocking_calls
from pgstore.core.method import Method
from pgstore.errors import ConfigurationError
from pgstore.exception import AsyncUsageWarning

_PACKAGE: Final = __name__.partition(".")[0]
# What stands between a program and us where it says `with ExitStack()` or `store.setdefault(…)`.
_BETWEEN: Final = frozenset({"_collections_abc", "collections.abc", "contextlib"})
_ASYNCHRONOUS: Final = inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR | inspect.CO_ITERABLE_COROUTINE
# Their coroutines call what blocks on a loop that is there for it: what a person types, or, in fsspec's, file systems that are not
# asynchronous (`rsync` between URLs).
_MAY_BLOCK: Final = frozenset({"IPython", "ipykernel", "fsspec"})

_OPERATORS: Final = {
    "__getitem__": "`await ….get.aio(…)`",
    "__setitem__": "`await ….put.aio(…)`",
    "__delitem__": "`await ….pop.aio(…)`",
    "__contains__": "`await ….contains.aio(…)`",
    "__len__": "`await ….len.aio()`",
    "__bool__": "`await ….len.aio()`",
    "__enter__": "`async with`",
    "__exit__": "`async with`",
    "__iter__": "`async for`",
    "__next__": "`async for`",
    "following": "`async for`",  # of PagedIterator
    "run_transaction": "`await run_transaction_async(…)`",
}
_OTHERWISE: Final = "`await asyncio.to_thread(…)`"

running_loop: Final = asyncio._get_running_loop

_is_on: bool | None = None  # None: by the environment
_said: set[tuple[str, int]] = set()  # files and lines


def switch(on: bool | None) -> None:
    """Turn the warnings on or off; None: by `PGSTORE_ASYNC_WARNINGS`."""
    global _is_on
    given: object = on
    if given is not None and not isinstance(given, bool):
        raise ConfigurationError(f"async_warnings must be True, False or None, not {given!r}")
    _is_on = on


def warn_of_blocking() -> None:
    """Warn of the call of the program's that led here, which is to block on the thread of an event loop."""
    inside, place = sys._getframe(1), sys._getframe(1)
    while place.f_back is not None and _is_between(place):
        if _module(place) == _PACKAGE:
            inside = place
        place = place.f_back
    site = (place.f_code.co_filename, place.f_lineno)
    if site in _said or _is_at_top_level(place) or not (warns_of_blocking_calls() if _is_on is None else _is_on):
        return
    what, instead = _forms(inside)
    warnings.warn_explicit(
        f"{what} blocks the event loop that runs on this thread: use {instead}, or turn this warning off by "
        "pgstore.configure(async_warnings=False) or PGSTORE_ASYNC_WARNINGS=0",
        AsyncUsageWarning,
        *site,
        module=place.f_globals.get("__name__") or "<unknown>",
        registry={},  # not the module's: that is emptied whenever anybody changes a filter
    )
    _said.add(site)  # after it: where warnings are errors, each call is one


def _is_between(frame: FrameType) -> bool:
    return _module(frame) == _PACKAGE or frame.f_globals.get("__name__") in _BETWEEN


def _module(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", "")).partition(".")[0]


def _is_at_top_level(place: FrameType) -> bool:
    """Whether the call was made by the code of a module or cell, rather than by a coroutine or callback."""
    frame: FrameType | None = place
    while frame is not None:
        name = frame.f_code.co_name
        if name == "<module>" or name.startswith("<cell line"):
            # A program's own `asyncio.run(main())` stands in a module, too, but with the loop in between.
            return True
        if frame.f_code.co_flags & _ASYNCHRONOUS:
            return _module(frame) in _MAY_BLOCK
        if _module(frame) == "asyncio":
            return False
        frame = frame.f_back
    return False


def _forms(frame: FrameType) -> tuple[str, str]:
    """What was called, and what to write instead. *frame* is that of ours which the program called."""
    called: Any = frame.f_locals.get("self")
    name = frame.f_code.co_name
    if isinstance(called, Method):
        method = called._function.__name__
        form = f"async with ….{method}.aio(…)" if method == "open" else f"await ….{method}.aio(…)"
        return f"{_class_of(called._owner)}.{method}(…)", f"`{form}`"
    if _module_path(frame).startswith("pgstore.fs.io"):
        return f"{name}() of an open file", "`async with ….open.aio(…) as file`, and await its methods"
    what = f"{name}()" if called is None else f"{_class_of(called)}.{name}()"
    return what, _OPERATORS.get(name, _OTHERWISE)


def _module_path(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", ""))


def _class_of(owner: object) -> str:
    return (owner if isinstance(owner, type) else type(owner)).__name__
