"""How values and exceptions travel between a program and its workers."""

from __future__ import annotations

import pickle
import sys

import pytest

from pgstore import errors
from pgstore.app import pickles
from pgstore.app.spec import Program
from tests.app.work import Refused, Unpicklable

SCRIPT = Program("script", "program", "/program.py")
MODULE = Program("module", "tests.app.work", None)


@pytest.fixture
def of_main(monkeypatch):
    """A class of `__main__`."""
    kind = type("OfMain", (Exception,), {"__module__": "__main__"})
    monkeypatch.setattr(sys.modules["__main__"], "OfMain", kind, raising=False)
    return kind


def raised(exc, program=MODULE):
    """What a caller catches where a worker has raised *exc*."""
    try:
        raise exc
    except BaseException as caught:
        outcome = pickles.failed(caught, program, "f", caught.__traceback__)
    with pytest.raises(BaseException) as there:
        outcome.value()
    return there.value


def test_a_class_of_a_script_goes_by_reference_so_that_except_matches(of_main):
    assert type(pickles.loads(pickles.dumps(of_main(1), "it", SCRIPT), "it")) is of_main
    assert type(raised(of_main(1), SCRIPT)) is of_main


def test_a_class_of_main_goes_by_value_where_workers_have_another_main(of_main):
    data = pickles.dumps(of_main, "it", MODULE)

    assert pickle.loads(data).__name__ == "OfMain"
    assert len(data) > len(pickles.dumps(of_main, "it", SCRIPT))


def test_what_plain_pickle_cannot_do_goes_by_value():
    assert pickles.loads(pickles.dumps(lambda: 7, "it", SCRIPT), "it")() == 7


def test_what_cannot_be_pickled_is_an_error_that_says_what_it_is():
    for program in (SCRIPT, MODULE):
        with pytest.raises(errors.SerializationError, match="the result of f of type 'generator'"):
            pickles.dumps((each for each in "ab"), "the result of f", program)


def test_cause_and_context_of_an_exception_arrive_and_one_that_cannot_be_pickled_is_left_out():
    exc = Refused("outer", code=1)
    exc.__cause__ = KeyError("cause")
    exc.__cause__.__context__ = Unpicklable("no", "way")

    arrived = raised(exc)

    assert (arrived.code, arrived.__cause__.args, arrived.__cause__.__context__) == (1, ("cause",), None)


def test_a_chain_that_is_a_circle_arrives_as_far_as_it_is_sensible():
    first, second = Refused("first", code=1), Refused("second", code=2)
    first.__cause__, second.__cause__ = second, first

    assert raised(first).__cause__.code == 2


def test_an_exception_that_has_come_through_two_workers_is_the_same_and_tells_of_both():
    arrived = raised(raised(Refused("far", code=3)))

    assert (type(arrived), arrived.code) == (Refused, 3)
    assert "In the worker:" in arrived.__notes__[-1]  # that of the first, in what the second tells


@pytest.mark.parametrize("exc", [SystemExit(3), KeyboardInterrupt(), GeneratorExit()])
def test_what_would_end_the_caller_is_a_remote_error(exc):
    arrived = raised(exc)

    assert type(arrived) is errors.RemoteError
    assert type(exc).__name__ in str(arrived)
