"""Classes whose methods run in workers: `@app.cls`, `@method`, `parameter`; each worker has one object of its class.

The program's name for the class stands for a `Cls`. A call of it gives an `Obj`, which is the parameters and nothing else until a
method runs here. In a worker there is an object of the class itself (`instantiate`), whose methods are plain where they are called,
and have `.remote(…)` and the like all the same.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import threading
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass, replace
from typing import Any, Concatenate, Final, ParamSpec, Protocol, TypeVar, overload

from pgstore import errors
from pgstore.app import pickles
from pgstore.app.calls.targets import Target
from pgstore.app.definition import Defined, Definition
from pgstore.app.function import Function
from pgstore.app.marks import Marks, check_parentheses, marks_of
from pgstore.app.options import AppDefaults, Options
from pgstore.app.spec import WorkerSpec

P = ParamSpec("P")
R = TypeVar("R")

PARAMETER_TYPES: Final = (str, int, bool, bytes)
_ABSENT: Final = inspect.Parameter.empty
_OBJ: Final = "_pgstore_obj"  # of an object of the class: what it was made by


# ------------------------------------------------------------------------------------------------------------- the methods


class Method:
    """A method that can be called from elsewhere, in the body of its class."""

    _is_of_app = True

    def __init__(self, raw: Callable[..., Any], is_generator: bool | None) -> None:
        functools.update_wrapper(self, raw, updated=())  # type: ignore[arg-type]
        self.raw = raw
        self.is_generator_anyway = is_generator

    def __get__(self, instance: Any, owner: type) -> Any:
        if instance is None:
            return self
        here = self.raw.__get__(instance, owner)
        obj = vars(instance).get(_OBJ)
        # None: an object that the program has made past @app.cls.
        return here if obj is None else BoundMethod(obj, self.raw.__name__, self, here)


class MethodDecorator(Protocol):
    """What makes a method one that can be called from elsewhere."""

    @overload
    def __call__(
        self, function: Callable[Concatenate[Any, P], Coroutine[Any, Any, R]], /
    ) -> Function[P, R, Coroutine[Any, Any, R]]: ...

    @overload
    def __call__(self, function: Callable[Concatenate[Any, P], R], /) -> Function[P, R, R]: ...


def method(_warn_parentheses_missing: object = None, *, is_generator: bool | None = None) -> MethodDecorator:
    """Make a method of a class below `@app.cls()` one with `.remote(…)`, `.map(…)`, `.spawn(…)` and the like."""
    check_parentheses(_warn_parentheses_missing, "pgstore.method()")

    def decorate(raw: Any) -> Any:
        if not inspect.isfunction(raw):
            raise errors.InvalidError(f"@pgstore.method() is for methods, not for {raw!r}")
        return Method(raw, is_generator)

    return decorate


class BoundMethod(Function[..., Any, Any]):
    """A method of an object. Here it runs in that object."""

    def __init__(self, obj: Obj, name: str, method: Method, here: Callable[..., Any] | None = None) -> None:
        cls = obj._cls
        definition = Definition(
            method.raw, f"{cls.name}.{name}", cls._definition.is_serialized, method.is_generator_anyway
        )
        options = replace(cls._options, retries=None) if definition.is_generator else cls._options
        super().__init__(definition, options, cls._app)
        self._obj = obj
        self._method = name
        self._here = here

    @property
    def _spec(self) -> WorkerSpec:
        return self._obj._spec

    def _run_here(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self._here is None:
            return self._definition.raw(self._obj._local(), *args, **kwargs)
        return self._here(*args, **kwargs)

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (self._obj, self._method)


# ---------------------------------------------------------------------------------------------------------- the parameters


@dataclass(frozen=True)
class Parameter:
    """What stands in the body of a class for a parameter."""

    default: Any = _ABSENT
    init: bool = True


def parameter(*, default: Any = _ABSENT, init: bool = True) -> Any:
    """
    Make an annotated attribute of a class a keyword argument of its objects: `size: int = pgstore.parameter(default=1)`.

    Objects with other values have workers of their own. Types: str, int, bool, bytes.

    Args:
        init: False: an attribute that only has a type, and perhaps a default.
    """
    return Parameter(default, init)


def parameters_of(raw: type) -> dict[str, Parameter]:
    """The parameters of a class, those of its bases first."""
    return {
        name: value
        for base in reversed(raw.__mro__)
        for name, value in vars(base).items()
        if isinstance(value, Parameter)
    }


def _signature(raw: type, name: str) -> inspect.Signature:
    """How objects are made. Raises `InvalidError` for parameters that cannot be."""
    parameters = parameters_of(raw)
    if not parameters:
        signature = inspect.signature(raw)
        if any(it.kind in (it.VAR_POSITIONAL, it.POSITIONAL_ONLY) for it in signature.parameters.values()):
            raise errors.InvalidError(f"the constructor of {name} has to take its arguments by keyword")
        return signature
    if raw.__init__ is not object.__init__:  # type: ignore[misc]
        raise errors.InvalidError(
            f"{name} has parameters, which make a constructor, and one of its own; it can have one of both"
        )
    hints = {key: hint for base in reversed(raw.__mro__) for key, hint in inspect.get_annotations(base).items()}
    made = []
    for each, value in parameters.items():
        if not value.init:
            continue
        kind = next((kind for kind in PARAMETER_TYPES if hints.get(each) in (kind, kind.__name__)), None)
        if kind is None:
            raise errors.InvalidError(f"the parameter {each} of {name} needs an annotation: str, int, bool or bytes")
        if value.default is not _ABSENT:
            _check_parameter(name, each, value.default, kind)
        made.append(inspect.Parameter(each, inspect.Parameter.KEYWORD_ONLY, default=value.default, annotation=kind))
    return inspect.Signature(made)


def _check_parameter(class_name: str, name: str, value: object, kind: type) -> None:
    if type(value) is not kind and not (isinstance(value, kind) and not isinstance(value, bool)):
        raise TypeError(f"the parameter {name} of {class_name} is {value!r}, expected a value of type {kind.__name__}")


# -------------------------------------------------------------------------------------------------------- class and object


class Cls(Defined):
    """A class whose methods run in workers, made by `@app.cls()`. A call of it gives an object, whose methods have `.remote(…)`."""

    def __init__(self, definition: Definition, options: Options, app: AppDefaults) -> None:
        super().__init__(definition, options, app)
        raw = definition.raw
        self.__signature__ = _signature(raw, definition.name)
        self._methods = {name: value for name in dir(raw) if isinstance(value := getattr(raw, name, None), Method)}
        self._specs: dict[bytes, WorkerSpec] = {}

    def __call__(self, *args: Any, **kwargs: Any) -> Obj:
        """
        Return an object; nothing runs.

        Raises:
            TypeError: it is not made with these arguments.
        """
        try:
            bound = self.__signature__.bind(*args, **kwargs)
        except TypeError as exc:
            raise TypeError(f"{self.name}: {exc}; an object is made as {self.name}{self.__signature__}") from None
        if parameters_of(self._definition.raw):
            bound.apply_defaults()  # so that equal objects have the same workers
            for name, value in bound.arguments.items():
                _check_parameter(self.name, name, value, self.__signature__.parameters[name].annotation)
        arguments = dict(bound.arguments)
        for name, it in self.__signature__.parameters.items():
            if it.kind is it.VAR_KEYWORD:
                arguments.update(arguments.pop(name, {}))
        return Obj(self, arguments)

    def _spec_of(self, parameters: bytes | None) -> WorkerSpec:
        assert parameters is not None
        spec = self._specs.get(parameters)
        return spec or self._specs.setdefault(parameters, self._make_spec(parameters))

    def _targets(self) -> Iterable[Target]:
        for name in self._methods:
            yield Target(f"{self.name}.{name}", self._spec_of, self._options, name)

    # A class that derives from this one derives from the class itself.
    def __mro_entries__(self, bases: tuple[Any, ...]) -> tuple[type]:
        return (self._definition.raw,)

    def __instancecheck__(self, instance: object) -> bool:
        return isinstance(instance, self._definition.raw) or (isinstance(instance, Obj) and instance._cls is self)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or "_methods" not in self.__dict__:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        if name in self._methods:
            raise AttributeError(f"{self.name}.{name} is a method, and needs an object: {self.name}().{name}.remote(…)")
        return getattr(self._definition.raw, name)


class Obj:
    """An object of a class whose methods run in workers."""

    _is_of_app = True

    def __init__(self, cls: Cls, arguments: dict[str, Any]) -> None:
        self._cls = cls
        self._arguments = arguments
        self._instance: Any = None
        self._lock = threading.RLock()

    @functools.cached_property
    def _spec(self) -> WorkerSpec:
        """What its workers are like; the same for equal arguments."""
        cls = self._cls
        return cls._spec_of(pickles.dumps(self._arguments, f"the arguments of {cls.name}", cls._definition.program))

    def _local(self) -> Any:
        """The object here, for `.local(…)` and attributes: made once, with its enter methods."""
        with self._lock:
            if self._instance is None:
                instance = instantiate(self._cls, self._arguments)
                for hook in hooks(instance, "enter"):
                    _run_here(hook, self._cls.name)
                self._instance = instance
        return self._instance

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "_cls" not in self.__dict__:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        method = self._cls._methods.get(name)
        if method is not None:
            bound = self.__dict__[name] = BoundMethod(self, name, method)
            return bound
        if name in self._arguments:
            return self._arguments[name]
        return getattr(self._local(), name)

    def __repr__(self) -> str:
        return f"<pgstore object of {self._cls.name}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return Obj, (self._cls, self._arguments)


def _run_here(hook: Callable[[], Any], name: str) -> None:
    made = hook()
    if inspect.iscoroutine(made):
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            asyncio.run(made)
        else:
            made.close()
            raise errors.InvalidError(
                f"an enter method of {name} is asynchronous, and this is in an event loop; use .remote(…)"
            )


# -------------------------------------------------------------------------------------------------------------- in a worker


def instantiate(cls: Cls | type, arguments: dict[str, Any]) -> Any:
    """An object of the class itself, as a worker has one; its enter methods have not run."""
    if isinstance(cls, type):  # it was pickled by value
        cls = Cls(Definition(cls, cls.__qualname__, is_serialized=True), Options(), AppDefaults(None))
    raw = cls._definition.raw
    parameters = parameters_of(raw)
    if parameters:
        instance = raw.__new__(raw)
        defaults = {name: it.default for name, it in parameters.items() if it.default is not _ABSENT}
        vars(instance).update(defaults | arguments)
    else:
        instance = raw(**arguments)
    vars(instance)[_OBJ] = Obj(cls, arguments)
    return instance


def hooks(instance: Any, which: str) -> list[Callable[[], Any]]:
    """The enter or exit methods of an object, in the order in which they are to run."""
    found: dict[str, Marks] = {}
    for base in reversed(type(instance).__mro__):
        found.update({name: marks for name, value in vars(base).items() if (marks := marks_of(value)).hook == which})
    ordered = sorted(found, key=lambda name: not found[name].is_first)
    return [getattr(instance, name) for name in ordered]


def method_of(instance: Any, name: str) -> Callable[..., Any]:
    """What a call of the method *name* runs, in *instance*."""
    method: Method = getattr(type(instance), name)
    return functools.partial(method.raw, instance)
