"""Blocks in generators: who goes over one with a loop runs code of their own while it is suspended in its block.

The block's transaction is ambient for the thread, so what the loop's body does would silently become a part of it, and be undone
with it where the loop is left early. A generator that is a context manager (`contextlib.contextmanager`, a fixture, a framework's
dependency) is suspended as well, but there the body is meant to be inside. They differ in who resumes them: a loop, or a call.
"""

from __future__ import annotations

import dis
import inspect
import sys
from types import FrameType
from typing import Final

_SUSPENDABLE: Final = inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR
_PACKAGE: Final = __name__.partition(".")[0]
# `for`; and what compiles `async for`, `yield from` and `await`, which wait for what they resume.
_FOR: Final = "FOR_ITER"
_WAITING: Final = frozenset({"SEND", "YIELD_VALUE", "RESUME", "LOAD_CONST", "JUMP_BACKWARD_NO_INTERRUPT"})


def looped_over() -> FrameType | None:
    """The frame of the generator in which the calling block is opened, if a loop goes over it."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_globals.get("__name__", "").partition(".")[0] == _PACKAGE:
        frame = frame.f_back
    if frame is None or not frame.f_code.co_flags & _SUSPENDABLE:
        return None
    opener = frame
    while (resumer := frame.f_back) is not None:
        how = _doing(resumer)
        if how in (_FOR, "GET_ANEXT"):
            return opener
        if how != "SEND" or not resumer.f_code.co_flags & (_SUSPENDABLE | inspect.CO_COROUTINE):
            return None
        frame = resumer  # `yield from` or `await`: suspended together
    return None


def is_suspended(frame: FrameType) -> bool:
    return frame.f_back is None  # nobody has resumed it


def _doing(frame: FrameType) -> str:
    """The operation that *frame* waits in."""
    code, at = frame.f_code, frame.f_lasti
    name = dis.opname[code.co_code[at]]
    if name not in _WAITING:
        return name
    # `async for` is GET_ANEXT and then a loop of these.
    before = [step.opname for step in dis.get_instructions(code) if step.offset <= at]
    while before and before[-1] in _WAITING:
        before.pop()
    return "GET_ANEXT" if before and before[-1] == "GET_ANEXT" else "SEND"
