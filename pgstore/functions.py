"""Functions and their calls, in a module of the name that Modal has it by: `modal.functions.FunctionCall`."""

from pgstore.app.calls import FunctionCall
from pgstore.app.function import Function

__all__ = ["Function", "FunctionCall"]
