"""Classes whose methods run in workers."""

from __future__ import annotations

import os
import pickle
import time
from typing import Any, cast

import pytest

import pgstore
from pgstore.app.cls import hooks, instantiate
from tests.app import models
from tests.app.models import app

# To a type checker they are the classes of the program.
Model, Base, Derived, Leaving, Constructed = (
    cast("Any", kind) for kind in (models.Model, models.Base, models.Derived, models.Leaving, models.Constructed)
)


@pytest.fixture(scope="module", autouse=True)
def _run():
    with app.run():
        yield


def test_a_worker_enters_once_and_runs_methods_in_one_object(call):
    model = Model(size=2)

    first, second = call(model.predict.remote, 1), call(model.predict.remote, 1)

    assert first[0] == second[0] == 21
    assert first[1] == second[1] != os.getpid()  # one worker
    assert first[2] == second[2] == ["enter"]


def test_objects_with_equal_parameters_have_the_same_workers_and_others_have_their_own():
    assert Model(size=2).predict.remote(1)[1] == Model(size=2).predict.remote(2)[1]
    assert Model(size=2)._spec is Model()._spec
    assert Model(size=3)._spec is not Model()._spec


def test_a_method_has_all_that_a_function_has(call):
    model = Model()

    assert [each[0] for each in model.predict.map([1, 2, 3])] == [21, 22, 23]
    assert list(model.count.remote_gen(3)) == [0, 1, 2]
    assert call(model.later.remote, 4) == 4


def test_methods_call_each_other_plainly_and_in_workers():
    assert Model().chain.remote(1) == (21, 21)


def test_enter_that_raises_is_the_error_of_the_call(call):
    with pytest.raises(LookupError, match="no model"):
        call(models.Broken().run.remote)


def test_exit_methods_run_when_a_worker_ends(tmp_path):
    path = tmp_path / "left"
    own = pgstore.App()
    leaving = own.cls(scaledown_window=0.1)(Leaving._definition.raw)(path=str(path))
    assert leaving.run.remote() == "ran"

    deadline = time.monotonic() + 10
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.05)

    assert path.read_text() == "left"


def test_objects_and_methods_travel_in_arguments():
    obj = pickle.loads(pickle.dumps(Model(size=4)))

    assert obj.size == 4
    assert obj._spec is Model(size=4)._spec
    assert pickle.loads(pickle.dumps(obj.predict)).name == "Model.predict"


# ------------------------------------------------------------------------------------------------------------------- here


def test_local_runs_in_this_process_after_enter():
    value, pid, _ = Model(size=5).predict.local(1)

    assert (value, pid) == (51, os.getpid())


def test_hooks_run_base_classes_first_in_order_of_definition_and_those_for_snapshots_before_all():
    instance = instantiate(Derived, {})

    assert [hook.__name__ for hook in hooks(instance, "enter")] == ["snapped", "base_first", "base_second", "derived"]
    for hook in hooks(instance, "enter"):
        hook()
    assert instance.entered == ["snapped", "base_first", "base_second", "derived"]
    assert [hook.__name__ for hook in hooks(instance, "exit")] == ["leave"]


def test_a_class_derives_from_a_decorated_one_with_its_methods_and_parameters():
    assert issubclass(Derived._definition.raw, Base._definition.raw)
    assert Derived(base="b", own=2).describe.local() == "b 2"
    assert isinstance(instantiate(Derived, {}), Derived)


def test_a_method_needs_an_object_and_says_so():
    with pytest.raises(AttributeError, match=r"Model\(\)\.predict\.remote"):
        _ = Model.predict


def test_attributes_that_are_no_methods_are_those_of_the_class():
    assert Model.LIMIT == 7
    assert Model.doubled(3) == 6
    assert Model(size=3).size == 3


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [({"size": "2"}, "type int"), ({"size": True}, "type int"), ({"sizes": 2}, "sizes"), ({"size": None}, "type int")],
)
def test_parameters_are_checked_where_an_object_is_made(arguments, complaint):
    with pytest.raises(TypeError, match=complaint):
        Model(**arguments)


def test_parameters_are_given_by_keyword_and_those_without_a_default_are_needed():
    with pytest.raises(TypeError, match="positional"):
        Model(2)
    with pytest.raises(TypeError, match="path"):
        Leaving()


class Untyped:
    size = pgstore.parameter(default=1)


class WrongType:
    sizes: list = pgstore.parameter(default=1)


class Both:
    size: int = pgstore.parameter(default=1)

    def __init__(self):
        pass


@pytest.mark.parametrize(
    ("kind", "complaint"), [(Untyped, "annotation"), (WrongType, "annotation"), (Both, "constructor")]
)
def test_parameters_that_cannot_be_are_an_error_at_the_decorator(kind, complaint):
    with pytest.raises(pgstore.InvalidError, match=complaint):
        pgstore.App().cls()(kind)


def test_a_class_may_have_a_constructor_of_its_own():
    assert Constructed(3, b=4).total.local() == 7
    assert Constructed(b=5)._arguments == {"b": 5}
    with pytest.raises(TypeError, match="Constructed"):
        Constructed(1, 2, 3)


def test_decorators_of_classes_are_checked():
    with pytest.raises(pgstore.InvalidError, match="for methods"):
        pgstore.method()(5)  # type: ignore[call-overload]
    with pytest.raises(pgstore.InvalidError, match=r"@pgstore\.method"):
        pgstore.App().function()(models.Plain.method)
    with pytest.raises(pgstore.errors.NotOffered):
        pgstore.Cls.from_name("app", "Model")
