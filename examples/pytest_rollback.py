"""pytest: each test in a transaction that is rolled back, so that none sees what another has done, nor cleans up.

The fixtures come with pgstore. Run by `pytest pytest_rollback.py`; the database is one made for the run.
"""

import os
import sys

import pytest

import pgstore

# --- the program

orders = pgstore.Dict.persist("pytest-orders")
mails = pgstore.Queue.persist("pytest-mails")


def place_order(number: int, article: str) -> None:
    with pgstore.transaction():  # in a test: a savepoint
        orders[number] = article
        mails.put(f"{article} ordered")
        if article == "nothing":
            raise ValueError("nothing was ordered")


# --- its tests


def test_an_order_is_mailed(pgstore_transaction: pgstore.Transaction) -> None:
    place_order(1, "lamp")

    assert orders.items() == [(1, "lamp")]
    assert mails.get(block=False) == "lamp ordered"


def test_an_order_of_nothing_leaves_nothing(pgstore_transaction: pgstore.Transaction) -> None:
    with pytest.raises(ValueError, match="nothing"):
        place_order(2, "nothing")

    assert not orders  # nor is there order 1 of the test above
    assert mails.empty()


def test_what_other_processes_are_to_see_needs_a_database_of_its_own(pgstore_client: pgstore.Client) -> None:
    place_order(3, "table")

    elsewhere = pgstore.Client(pgstore_client.connection_url())  # as another process would be
    assert pgstore.Queue.from_name("pytest-mails", client=elsewhere).get(timeout=5) == "table ordered"
    elsewhere.close()


if __name__ == "__main__":
    sys.exit(pytest.main(["-q", "-c", os.devnull, "-p", "no:cacheprovider", __file__]))  # no settings of a project's
