"""Functions in a transaction: what they write, to stores and to mounts, is committed with the end of their call or not at all."""

from __future__ import annotations

import pickle
from dataclasses import dataclass

import pytest

from pgstore import Dict, Volume, errors
from pgstore.core.operation import Op
from tests.app.conftest import worker
from tests.app.test_worker_mounts import texts
from tests.app.work import Refused

pytestmark = pytest.mark.usefixtures("default_client")


@dataclass(frozen=True)
class Noted:
    """Ends a call by an entry of a Dict."""

    name: str
    fails: bool = False

    def complete(self, outcome) -> Op[None]:
        yield from Dict.from_name(self.name).put.op("outcome", outcome.value())
        if self.fails:
            raise errors.LeaseLost("another worker's by now")


@pytest.fixture
def counted(store_name):
    return Dict.from_name(f"{store_name}-d", create_if_missing=True).hydrate()


@pytest.fixture
def volume(store_name):
    return Volume.from_name(f"{store_name}-v", create_if_missing=True).hydrate()


def counting(volume, function="count_in_dict"):
    return worker(function, mounts=(("/data", volume),), is_transactional=True, max_workers=1)


def test_entries_files_and_the_end_of_the_call_are_one_commit(run, counted, volume):
    spec = counting(volume)

    assert [run(spec, counted.name, "/data/n", completion=pickle.dumps(Noted(counted.name))) for _ in range(2)] == [
        1,
        2,
    ]

    assert dict(counted.items()) == {"calls": 2, "outcome": 2}
    assert texts(volume) == {"n": "2"}
    assert [each.version for each in volume.versions()] == [2, 1]


def test_a_coroutine_function_is_in_a_transaction_too(run, counted, volume):
    run(counting(volume, "count_in_dict_async"), counted.name, "/data/n", completion=pickle.dumps(Noted(counted.name)))

    assert (dict(counted.items()), texts(volume)) == ({"calls": 1, "outcome": None}, {"n": "1"})


@pytest.mark.parametrize(("how", "error"), [("refuse", Refused), ("die", errors.RemoteError)])
def test_a_call_that_fails_has_written_nothing_and_the_next_one_does_not_write_it_either(
    runner, run, counted, volume, how, error
):
    spec = counting(volume)

    with pytest.raises(error):
        run(spec, counted.name, "/data/lost", how=how)
    with pytest.raises(errors.LeaseLost):
        run(spec, counted.name, "/data/lost-too", completion=pickle.dumps(Noted(counted.name, fails=True)))
    assert (dict(counted.items()), texts(volume)) == ({}, {})
    run(spec, counted.name, "/data/n")
    runner.close()

    assert (dict(counted.items()), texts(volume)) == ({"calls": 1}, {"n": "1"})
