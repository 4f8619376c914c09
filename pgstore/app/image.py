"""Image: accepted with all that programs ask of one; environment and working directory are honoured, nothing is installed."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import PurePath
from typing import Any, Final, NoReturn

from pgstore.app.warn import warn_once
from pgstore.errors import InvalidError, NotOffered

_LOG: Final = logging.getLogger("pgstore")

# What a program may notice the lack of. Not what installs: an import that fails says so by itself.
_NOT_BUILT: Final = {
    "from_registry",
    "from_dockerfile",
    "from_gcp_artifact_registry",
    "from_aws_ecr",
    "from_id",
    "from_name",
}


class _ImageClass(type):
    """So that `Image` has every constructor, also those of newer versions of Modal."""

    def __getattr__(cls, name: str) -> Callable[..., Image]:
        if name.startswith("_"):
            raise AttributeError(f"Image has no attribute {name!r}")
        return lambda *args, **kwargs: Image()._with(name, args, kwargs)


class Image(metaclass=_ImageClass):
    """
    What Modal builds containers from. Functions run on this machine as it is, with what is installed here.

    Every constructor (`Image.debian_slim()` …) and every method (`pip_install` …) is accepted and gives an image. Of these `env`,
    `workdir` and `imports` have an effect. Where the program may notice what is not done there is one warning.
    """

    def __init__(self) -> None:
        self._steps: tuple[tuple[str, tuple[Any, ...], dict[str, Any]], ...] = ()
        self._environment: dict[str, str] = {}
        self._workdir: str | None = None

    @classmethod
    def debian_slim(cls, python_version: str | None = None, force_build: bool = False) -> Image:
        """Return an image. Functions run with the Python that runs the program, whatever *python_version* says."""
        here = f"{sys.version_info.major}.{sys.version_info.minor}"
        if python_version is not None and str(python_version).split(".")[:2] != here.split("."):
            warn_once(
                "image python_version",
                f"the image asks for Python {python_version}; functions run with {here}, as the program",
            )
        return cls()._with("debian_slim", (python_version,), {})

    def env(self, vars: dict[str, str]) -> Image:  # noqa: A002 - Modal's name
        """Return an image with the environment variables *vars* as well."""
        given: object = vars
        if not isinstance(given, dict) or not all(isinstance(text, str) for item in given.items() for text in item):
            raise InvalidError(f"Image.env takes a dict of str to str, not {_shape(vars)}")
        image = self._with("env", (), {})  # not its values: they may be secrets
        image._environment = {**self._environment, **vars}
        return image

    def workdir(self, path: str | os.PathLike[str]) -> Image:
        """Return an image whose functions work in the directory *path*; it has to be there when a worker starts."""
        if not isinstance(path, (str, PurePath)) or not os.fspath(path):
            raise InvalidError(f"Image.workdir takes the path of a directory, not {path!r}")
        image = self._with("workdir", (path,), {})
        image._workdir = os.fspath(path)
        return image

    @contextlib.contextmanager
    def imports(self) -> Iterator[None]:
        """Import in a `with` block what may not be installed here; the names are then missing where they are used."""
        try:
            yield
        except ImportError as exc:
            _LOG.info("not imported: %s", exc)

    def pipe(self, func: Callable[..., Image], *args: Any, **kwargs: Any) -> Image:
        """Return `func(self, *args, **kwargs)`."""
        return func(self, *args, **kwargs)

    def __getattr__(self, name: str) -> Callable[..., Image]:
        if name.startswith("_"):
            raise AttributeError(f"'Image' object has no attribute {name!r}")
        return lambda *args, **kwargs: self._with(name, args, kwargs)

    def _with(self, step: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Image:
        _note(step, args, kwargs)
        image = Image()
        image._steps = (*self._steps, (step, args, kwargs))
        image._environment, image._workdir = self._environment, self._workdir
        return image

    def __repr__(self) -> str:
        return f"<pgstore.Image {'.'.join(step for step, _, _ in self._steps)}>"


def _note(step: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Say what a *step* asks for that is not done."""
    if step in _NOT_BUILT:
        what = f"{step}({', '.join(map(repr, args))})"
        warn_once(f"image {step}", f"the image is {what}; functions run on this machine as it is")
    elif step == "run_function":
        function = args[0] if args else kwargs.get("raw_f")
        warn_once(f"image {step}", f"the image asks to run {getattr(function, '__name__', function)!r}; it is not run")
    elif step in ("add_local_dir", "add_local_file"):
        local, remote = ([*args, *kwargs.values(), None, None])[:2]
        remote = kwargs.get("remote_path", remote)
        if not (isinstance(remote, (str, PurePath)) and os.path.exists(remote)):
            warn_once(f"image {step}", f"the image asks for {local!s} at {remote!s}; functions find it where it is")
    elif step not in ("debian_slim", "env", "workdir"):
        _LOG.debug("not done for the image: %s%r", step, args)


def _shape(value: object) -> str:
    """What *value* is, without what it holds."""
    if not isinstance(value, dict):
        return type(value).__name__
    return f"a dict of {', '.join(sorted({type(item).__name__ for pair in value.items() for item in pair}))}"


class FilePatternMatcher:
    """Which files are copied into an image. Accepted, as `ignore=` of what copies; nothing is copied here."""

    def __init__(self, *pattern: str) -> None:
        self.patterns = pattern

    @classmethod
    def from_file(cls, file_path: str | os.PathLike[str]) -> FilePatternMatcher:
        """Return one whose patterns are the lines of a file, which is not read."""
        return cls()

    def __invert__(self) -> FilePatternMatcher:
        return self

    def __call__(self, path: PurePath) -> NoReturn:
        raise NotOffered(
            "pgstore matches no path by a FilePatternMatcher, for nothing is copied into images: see pathlib"
        )

    def __repr__(self) -> str:
        return f"pgstore.FilePatternMatcher({', '.join(map(repr, self.patterns))})"
