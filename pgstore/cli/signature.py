"""Commands whose options are not just the parameters of one function.

typer makes the arguments and options of a command from the signature of its function. Here functions are given another signature:
one to which options are added that many commands have, or from which some are taken that one of several commands does not have.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any


def with_options_of(group: Callable[..., object], function: Callable[..., None], *, into: str) -> Callable[..., None]:
    """
    *function* with the options of *group*, after its own.

    Args:
        group: a class, whose parameters are options; it is called with their values.
        into: the parameter of *function* that what *group* returns is passed as. It is no option.
    """
    added = _parameters(group)
    names = [each.name for each in added]

    @functools.wraps(function)
    def command(**given: Any) -> None:
        made = group(**{name: given.pop(name) for name in names})
        function(**given, **{into: made})

    return _signed(command, [*_parameters(function, without=[into]), *added])


def with_fixed(function: Callable[..., None], **values: object) -> Callable[..., None]:
    """*function* without the options that are named in *values*: these are what it is called with."""

    @functools.wraps(function)
    def command(**given: Any) -> None:
        function(**given, **values)

    return _signed(command, _parameters(function, without=values))


def _parameters(function: Callable[..., object], without: Iterable[str] = ()) -> list[inspect.Parameter]:
    parameters = inspect.signature(function, eval_str=True).parameters.values()
    return [each for each in parameters if each.name not in without]


def _signed(command: Callable[..., None], parameters: list[inspect.Parameter]) -> Callable[..., None]:
    # Keyword-only, as typer passes them: an option with a default may stand before one without.
    keywords = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in parameters]
    command.__signature__ = inspect.Signature(keywords)  # type: ignore[attr-defined]
    return command
