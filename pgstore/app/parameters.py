"""The parameters of a function as options of a command line."""

from __future__ import annotations

import datetime as dt
import inspect
import types
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pgstore import errors

if TYPE_CHECKING:
    import click

    from pgstore.app.cls import Cls


@dataclass(frozen=True)
class Parameters:
    """All parameters of a function; with *takes_rest* it has `*args` and nothing else."""

    each: tuple[inspect.Parameter, ...]
    takes_rest: bool = False

    @classmethod
    def of(cls, function: Callable[..., Any], *, bound: bool = False) -> Parameters:
        """
        Those of *function*; *bound*: without its first.

        Raises:
            ExecutionError: an annotation cannot be evaluated, or `*args` stand beside others.
        """
        name = function.__qualname__
        try:
            hints = typing.get_type_hints(function)
        except Exception as exc:
            raise errors.ExecutionError(
                f"Unable to generate command line interface for {name}: {type(exc).__name__}: {exc}"
            ) from exc
        found = list(inspect.signature(function).parameters.values())[1 if bound else 0 :]
        return cls._of([each.replace(annotation=hints.get(each.name, each.empty)) for each in found], name)

    @classmethod
    def of_class(cls, made: Cls) -> Parameters:
        """Those with which objects of a class are made."""
        raw: Any = made._definition.raw
        own = {} if raw.__init__ is object.__init__ else typing.get_type_hints(raw.__init__)
        found = made.__signature__.parameters.values()
        return cls._of([each.replace(annotation=own.get(each.name, each.annotation)) for each in found], made.name)

    @classmethod
    def _of(cls, found: Sequence[inspect.Parameter], name: str) -> Parameters:
        named = [each for each in found if each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)]
        takes_rest = any(each.kind is each.VAR_POSITIONAL for each in found)
        if takes_rest and named:
            raise errors.ExecutionError(
                "Functions with variable-length positional arguments (*args) cannot have other parameters, as "
                f"{name} has ({', '.join(each.name for each in named)})"
            )
        return cls(tuple(named), takes_rest)

    def __add__(self, other: Parameters) -> Parameters:
        return Parameters(self.each + other.each, self.takes_rest or other.takes_rest)

    @property
    def names(self) -> set[str]:
        return {each.name for each in self.each}

    def parse(self, arguments: Sequence[str], command: str, doc: str | None) -> tuple[list[str], dict[str, Any]] | None:
        """
        Positional and keyword arguments of a call; what was not given is left out. None: help was asked for, and shown.

        Args:
            command: as it was called, for messages.
            doc: of the function, for the help.

        Raises:
            click.UsageError: the arguments are not those of the function.
        """
        if self.takes_rest and not self.each:
            rest = list(arguments)
            return (rest[1:] if rest[:1] == ["--"] else rest), {}
        import click

        def call(**given: Any) -> dict[str, Any]:
            return {name: value for name, value in given.items() if value is not None}

        parser = click.Command(
            command, callback=call, params=list(map(_option, self.each)), help=inspect.cleandoc(doc or "")
        )
        given = parser.main(list(arguments), prog_name=command, standalone_mode=False)
        return None if not isinstance(given, dict) else ([], given)


def _option(parameter: inspect.Parameter) -> click.Option:
    """
    Its option. `None` stands for one that was not given, whatever the default is: that is the function's business.

    Raises:
        ExecutionError: what its annotation says cannot be read from a command line.
    """
    import click

    flag = f"--{parameter.name.replace('_', '-')}"
    kind = _optional(parameter.annotation)
    if kind is bool:
        flag = f"{flag}/--no-{flag[2:]}"
    if parameter.default is parameter.empty:
        how: dict[str, Any] = {"required": True}
    else:
        how = {"default": None, "show_default": repr(parameter.default)}
    return click.Option([parameter.name, flag], type=_click_type(kind, parameter.name), **how)


def _click_type(kind: Any, name: str) -> Any:
    import click

    if kind in (inspect.Parameter.empty, Any):
        return str
    if kind in (str, int, float, bool):
        return kind
    if kind is dt.datetime:
        return click.DateTime()
    values = typing.get_args(kind) if typing.get_origin(kind) is Literal else ()
    if values and all(isinstance(value, str) for value in values):
        return click.Choice(values)
    shown = kind.__name__ if isinstance(kind, type) else str(kind)
    raise errors.ExecutionError(
        f"Parameter `{name}` has unparseable annotation: {shown}; a command line gives str, int, float, bool, "
        "datetime.datetime and Literal, and each of them or None"
    )


def _optional(kind: Any) -> Any:
    """*T* of `T | None`; else the same."""
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        others = [each for each in typing.get_args(kind) if each is not type(None)]
        if len(others) == 1:
            return others[0]
    return kind
