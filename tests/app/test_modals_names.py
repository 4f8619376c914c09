"""Names that programs written for Modal touch: those there are, and what an unknown one is answered with."""

from __future__ import annotations

import pickle
import subprocess
import sys
from typing import Any

import pytest

import pgstore
import pgstore as modal
from pgstore import errors


def test_the_errors_that_programs_name_are_in_the_module_exception():
    names = [
        *(
            "Error",
            "InvalidError",
            "NotFoundError",
            "AlreadyExistsError",
            "ConflictError",
            "ExecutionError",
            "RemoteError",
        ),
        *(
            "TimeoutError",
            "FunctionTimeoutError",
            "OutputExpiredError",
            "VolumeUploadTimeoutError",
            "DeserializationError",
        ),
        *("SerializationError", "RequestSizeError", "ResourceExhaustedError", "AuthError", "PermissionDeniedError"),
        *("ServiceError", "ConnectionError", "InternalError", "InternalFailure"),
    ]

    for name in names:
        assert issubclass(getattr(modal.exception, name), pgstore.Error), name
    assert issubclass(modal.exception.InputCancellation, BaseException)
    assert not issubclass(modal.exception.InputCancellation, Exception)
    for name in ("DeprecationError", "AsyncUsageWarning"):
        assert issubclass(getattr(modal.exception, name), UserWarning)


def test_modals_timeouts_are_not_pythons():
    """
    Programs poll: `try: call.get(timeout=0)`, `except TimeoutError: pending`.
    """
    for kind in (
        modal.exception.TimeoutError,
        modal.exception.FunctionTimeoutError,
        modal.exception.OutputExpiredError,
    ):
        assert issubclass(kind, modal.exception.TimeoutError)
        assert not issubclass(kind, TimeoutError)


def test_what_pgstore_calls_otherwise_is_caught_by_modals_name():
    assert issubclass(errors.ValueTooLarge, modal.exception.RequestSizeError)
    assert issubclass(errors.AccessDenied, modal.exception.AuthError)
    assert issubclass(errors.OutcomeUnknown, modal.exception.ConnectionError)


@pytest.mark.parametrize("kind", [errors.RemoteError, errors.FunctionTimeoutError, errors.NotOffered])
def test_errors_of_calls_survive_a_pickle(kind):
    error = pickle.loads(pickle.dumps(kind("text")))

    assert (type(error), str(error)) == (kind, "text")


def test_modules_are_attributes_and_can_be_imported():
    names = [
        *("exception.NotFoundError", "functions.Function", "volume.FileEntryType"),
        *("queue.Queue", "dict.Dict", "secret.Secret", "types.FileEntry", "app.App"),
    ]
    attributes = "; ".join(f"modal.{name}" for name in names)
    imports = "; ".join(f"from pgstore.{name.partition('.')[0]} import {name.partition('.')[2]}" for name in names)

    for program in (f"import pgstore as modal; {attributes}", imports):
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")


def test_stub_is_what_app_was_called():
    assert modal.Stub is modal.App


def test_an_unknown_name_is_answered_with_those_there_are():
    with pytest.raises(
        AttributeError, match=r"no attribute 'Volumes'; of Modal's names pgstore has App, .*Volume, asgi_app"
    ):
        _ = modal.Volumes
    assert not hasattr(modal, "_private")


@pytest.mark.parametrize(
    "name", ["Sandbox", "Proxy", "Workspace", "Environment", "Tunnel", "forward", "gpu", "experimental"]
)
def test_what_makes_no_sense_here_can_be_named_and_not_used(name):
    kind = getattr(modal, name)

    assert kind | None  # in an annotation
    for use in (lambda: kind("x"), lambda: kind.create("x"), lambda: kind.from_name("x")):
        with pytest.raises(NotImplementedError, match=f"pgstore has no {name}") as caught:
            use()
        assert isinstance(caught.value, pgstore.Error)


def test_enable_output_is_accepted():
    with modal.enable_output():
        pass


@pytest.mark.parametrize(
    ("decorator", "arguments"),
    [("asgi_app", ()), ("wsgi_app", ()), ("fastapi_endpoint", ()), ("web_endpoint", ()), ("web_server", (8000,))],
)
def test_functions_for_the_web_are_registered_and_not_called(decorator, arguments):
    app = modal.App()
    function = app.function()(getattr(modal, decorator)(*arguments)(_web))

    assert app.registered_functions == {"_web": function}
    assert function.get_web_url() is None
    with pytest.raises(pgstore.InvalidError, match=f"for the web.*{decorator}"):
        function.remote()
    assert function.local() == "page"


def _web():
    return "page"


def test_web_decorators_promise_no_isolation_and_need_parentheses():
    with pytest.raises(pgstore.InvalidError, match="requires_proxy_auth"):
        modal.asgi_app(requires_proxy_auth=True)
    decorators: list[Any] = [modal.asgi_app, modal.fastapi_endpoint, modal.enter, modal.method]
    for decorator in decorators:
        with pytest.raises(pgstore.InvalidError, match="parentheses"):
            decorator(_web)
