"""Leases: items that come back unless the work is said to be done, dead letters, delays."""

from __future__ import annotations

import queue as stdlib
import threading
import time

import psycopg
import pytest

import pgstore
from pgstore.queue import take as take_module
from pgstore.queue.lease import Renewal
from tests.faults.conftest import until


@pytest.fixture
def store(client, store_name):
    return pgstore.Queue.from_name(store_name, create_if_missing=True, client=client)


@pytest.fixture
def store_elsewhere(client_elsewhere, store_name):
    return pgstore.Queue.from_name(store_name, create_if_missing=True, client=client_elsewhere)


@pytest.fixture
def mortal(client, store_name):
    """A Queue whose items die after two leases."""
    return pgstore.Queue.from_name(f"{store_name}-m", create_if_missing=True, client=client, max_attempts=2)


@pytest.fixture
def stats(sql):
    """A call that gives depth, leased, delayed and dead of a Queue."""

    def stats(store):
        (row,) = sql("SELECT depth, leased, delayed, dead FROM pgstore.queue_stats WHERE name = %s", store.name)
        return row

    return stats


@pytest.fixture
def expire(sql):
    """A call that lets the leases and delays of a Queue end now, and every handle given look at once."""

    def expire(store, *others):
        sql(
            "UPDATE pgstore.queue_deferred SET due_at = now() - interval '1 s' WHERE store_id = %s AND due_at IS NOT NULL",
            int(store.object_id.removeprefix("qu-")),
        )
        for each in (store, *others):
            each._runner.shared.clear()

    return expire


def test_an_acknowledged_item_is_gone(call, store, stats):
    store.put("work")

    lease = call(store.get, lease=60)

    assert (lease.item, lease.attempt) == ("work", 1)
    assert stats(store) == (0, 1, 0, 0)
    assert call(store.get, block=False) is None
    call(lease.ack)
    assert stats(store) == (0, 0, 0, 0)


def test_leases_are_in_the_order_of_the_items(call, store):
    store.put_many(range(5))

    leases = call(store.get_many, 3, lease=60)

    assert [lease.item for lease in leases] == [0, 1, 2]
    assert store.peek(9) == [3, 4]
    assert call(store.get_many, 3, block=False, lease=60)[0].item == 3
    assert call(store.get_many, 3, block=False, lease=60) == []
    assert call(store.get, block=False, lease=60) is None
    with pytest.raises(stdlib.Empty):
        call(store.get, timeout=0, lease=60)


def test_an_item_given_back_is_taken_again_at_the_end(call, store):
    store.put_many(["first", "second"])

    call(call(store.get, lease=60).nack, 0)

    assert call(store.get) == "second"
    again = call(store.get, lease=60)
    assert (again.item, again.attempt) == ("first", 2)


def test_an_item_given_back_wakes_a_waiting_get(call, store, store_elsewhere):
    store.put("item")
    lease = store_elsewhere.get(lease=60)
    threading.Timer(0.15, lease.nack, [0]).start()

    assert call(store.get, timeout=20) == "item"


def test_the_block_acknowledges_or_gives_back(store, stats):
    store.put_many(["done", "failed"])

    with store.get(lease=60) as lease:
        assert lease.item == "done"
    with pytest.raises(RuntimeError), store.get(lease=60):
        raise RuntimeError

    assert stats(store) == (0, 0, 1, 0)
    assert store.get() == "failed"


@pytest.mark.parametrize("call", ["aio"], indirect=True)
def test_the_asynchronous_block_acknowledges_or_gives_back(call, store, stats):
    store.put_many(["done", "failed"])

    async def work():
        async with await store.get.aio(lease=60) as lease:
            assert lease.item == "done"
        with pytest.raises(RuntimeError):
            async with await store.get.aio(lease=60):
                raise RuntimeError

    call.run(work())

    assert stats(store) == (0, 0, 1, 0)
    assert store.get() == "failed"


def test_an_item_settled_in_the_block_is_left_alone_at_its_end(store, stats):
    store.put_many(["a", "b"])

    with store.get(lease=60) as lease:
        lease.nack(0)
    with store.get(lease=60) as lease:
        lease.ack()

    assert stats(store) == (1, 0, 0, 0)


def test_an_expired_lease_comes_back_and_its_holder_learns_of_it(call, store, expire):
    """
    Else two workers would both believe that they had done it.
    """
    store.put_many(["slow", "next"])
    lease = call(store.get, lease=60)
    expire(store)

    assert call(store.get_many, 9) == ["next", "slow"]

    for operation in (lease.ack, lease.nack, lease.extend):
        with pytest.raises(pgstore.LeaseLost, match="not held"):
            call(operation)
    with pytest.raises(pgstore.LeaseLost), lease:
        pass


def test_a_late_holder_cannot_touch_the_lease_of_the_next(call, store, stats, expire):
    store.put("item")
    late = store.get(lease=60)
    expire(store)
    now = store.get(lease=60)

    with pytest.raises(pgstore.LeaseLost):
        call(late.ack)

    assert stats(store) == (0, 1, 0, 0)
    assert now.attempt == 2
    call(now.ack)


def test_an_expired_lease_that_nobody_has_taken_can_be_acknowledged(call, store, stats, expire):
    store.put("item")
    lease = call(store.get, lease=60)
    expire(store)

    call(lease.ack)

    assert stats(store) == (0, 0, 0, 0)


def test_a_waiting_get_receives_an_item_whose_lease_ends(call, store, store_elsewhere):
    store.put("item")
    store_elsewhere.get(lease=0.3)

    assert call(store.get, timeout=20) == "item"


def test_a_waiting_get_receives_an_item_when_its_delay_ends(call, store, store_elsewhere):
    """
    The waiter is told of the new item, so that it knows when to look; it would look only after seconds else.
    """
    threading.Timer(0.1, store_elsewhere.put, ["later"], {"delay": 0.5}).start()
    started = time.monotonic()

    assert call(store.get, timeout=20) == "later"
    assert 0.5 < time.monotonic() - started < 10


def test_delayed_items_are_put_at_the_end_when_they_are_due(call, store, stats, expire):
    call(store.put, "late", delay=60)
    call(store.put_many, ["later", "last"], delay=120, partition="p")
    call(store.put, "now")
    assert stats(store) == (1, 0, 3, 0)
    assert call(store.get_many, 9) == ["now"]
    expire(store)

    assert call(store.get_many, 9) == ["late"]
    assert call(store.get_many, 9, partition="p") == ["later", "last"]


def test_an_extended_lease_does_not_end(call, store, expire, sql):
    store.put("item")
    lease = call(store.get, lease=60)
    expire(store)
    call(lease.extend, 30)
    store._runner.shared.clear()

    assert call(store.get, block=False) is None

    call(lease.extend)
    ((left,),) = sql(
        "SELECT extract(epoch FROM due_at - now()) FROM pgstore.queue_deferred WHERE store_id = %s",
        int(store.object_id.removeprefix("qu-")),
    )
    assert 50 < left <= 60


def test_an_item_given_back_with_a_delay_waits_for_it(call, store, stats, expire):
    store.put("item")

    call(call(store.get, lease=60).nack, delay=30)

    assert stats(store) == (0, 0, 1, 0)
    assert call(store.get, block=False) is None
    expire(store)
    assert call(store.get, lease=60).attempt == 2


def test_an_item_dies_after_its_last_attempt(call, mortal, stats, expire):
    """
    One way by a worker that gives it back, the other by one that is never heard of again.
    """
    mortal.put_many(["given back", "forgotten"])
    call(call(mortal.get, lease=60).nack, 0)
    call(mortal.get, lease=60)
    expire(mortal)

    leases = {lease.item: lease for lease in call(mortal.get_many, 2, lease=60)}
    assert {lease.attempt for lease in leases.values()} == {2}
    call(leases["given back"].nack, reason="no such customer")
    expire(mortal)

    assert call(mortal.get, block=False) is None
    assert stats(mortal) == (0, 0, 0, 2)
    letters = {letter.item: letter for letter in call(mortal.dead_letters)}
    assert letters["given back"].reason == "no such customer"
    assert letters["forgotten"].reason == "the lease ended"
    assert {(letter.attempts, letter.partition) for letter in letters.values()} == {(2, None)}


def test_an_exception_that_cannot_say_what_it_is_gives_the_item_back(call, store, stats):
    class Mute(Exception):
        def __repr__(self):
            raise RuntimeError

    call(store.put, "item")

    with pytest.raises(Mute), call(store.get, lease=60):
        raise Mute

    assert stats(store) == (0, 0, 1, 0)


def test_the_exception_of_a_block_is_the_reason(call, mortal):
    mortal.put("item", partition="p")
    for _ in range(2):
        with pytest.raises(RuntimeError), mortal.get(partition="p", lease=60):
            raise RuntimeError("no such customer")

    (letter,) = call(mortal.dead_letters)

    assert (letter.reason, letter.partition) == ("RuntimeError('no such customer')", "p")


def test_an_item_that_cannot_be_loaded_dies_too(call, mortal, sql):
    mortal.put("item")
    sql(
        "UPDATE pgstore.queue_item SET payload = '\\x80' WHERE store_id = %s",
        int(mortal.object_id.removeprefix("qu-")),
    )
    for _ in range(2):
        with pytest.raises(pgstore.DeserializationError), call(mortal.get, lease=60) as lease:
            lease.item  # noqa: B018

    (letter,) = call(mortal.dead_letters)

    with pytest.raises(pgstore.DeserializationError):
        letter.item  # noqa: B018
    assert "DeserializationError" in letter.reason


def test_dead_letters_are_put_back_or_discarded(call, mortal, stats):
    _kill(mortal, ["a", "b", "c", "d"])
    first, second, *_ = call(mortal.dead_letters, 2)

    assert call(mortal.revive, [second]) == 1
    assert call(mortal.discard, [first]) == 1
    assert stats(mortal) == (1, 0, 0, 2)
    assert call(mortal.get, lease=60).attempt == 1

    assert call(mortal.revive) == 2
    assert call(mortal.revive) == 0
    assert call(mortal.get_many, 9) == ["c", "d"]
    assert call(mortal.discard) == 0


def test_reviving_wakes_a_waiting_get(call, mortal, client_elsewhere):
    _kill(mortal, ["item"])
    elsewhere = pgstore.Queue.from_name(mortal.name, client=client_elsewhere)
    threading.Timer(0.15, elsewhere.revive).start()

    assert call(mortal.get, timeout=20) == "item"


def test_an_item_and_its_result_are_done_together(client, store, store_name, stats, expire):
    """
    The reason for leases that take part in transactions: work that was done twice is committed once.
    """
    results = pgstore.Dict.from_name(store_name, create_if_missing=True, client=client)
    store.put("item")
    late = store.get(lease=60)
    expire(store)
    again = store.get(lease=60)

    with client.transaction():
        results["item"] = "of the second"
        again.ack()
    with pytest.raises(pgstore.LeaseLost), client.transaction():
        results["item"] = "of the first"
        late.ack()

    assert results["item"] == "of the second"
    assert stats(store) == (0, 0, 0, 0)


def test_a_lease_of_a_transaction_that_is_rolled_back_was_never_taken(client, store, stats):
    store.put_many(["first", "second"])

    with pytest.raises(RuntimeError), client.transaction():
        assert store.get(lease=60).item == "first"
        raise RuntimeError

    assert stats(store) == (2, 0, 0, 0)
    assert store.get(lease=60).attempt == 1


def test_what_is_due_comes_back_apart_from_the_transaction_that_looks(client, store, store_elsewhere, expire):
    store.put_many(["a", "b"])
    store.get_many(2, lease=60)
    expire(store)

    with client.transaction():
        assert store.get(block=False) == "a"
        assert store_elsewhere.get(block=False) == "b"


def test_eight_consumers_share_leases_without_doubles(store, store_elsewhere):
    store.put_many(range(200))
    done = []

    def consume(handle):
        while leases := handle.get_many(3, block=False, lease=60):
            for lease in leases:
                with lease:
                    done.append(lease.item)

    consumers = [threading.Thread(target=consume, args=(h,)) for h in (store, store_elsewhere) * 4]
    for consumer in consumers:
        consumer.start()
    for consumer in consumers:
        consumer.join()

    assert sorted(done) == list(range(200))


def test_one_look_a_second_for_what_is_due(client, store, monkeypatch):
    """
    Of a client, whichever handle and partition it takes from.
    """
    store.hydrate()
    looks = []
    original = pgstore.Queue._bring_back

    def bring_back(self, facts):
        looks.append(facts.id)
        return original(self, facts)

    monkeypatch.setattr(pgstore.Queue, "_bring_back", bring_back)

    for number in range(20):
        again = pgstore.Queue.from_name(store.name, client=client)
        again.get(block=False, partition=f"p{number}")

    assert len(looks) == 1


def test_leased_and_dead_items_are_not_cleared_and_delayed_ones_are(call, mortal, stats):
    _kill(mortal, ["dead"])
    mortal.put("leased")
    mortal.get(lease=60)
    mortal.put("delayed", delay=60)
    mortal.put("waiting")

    call(mortal.clear)

    assert stats(mortal) == (0, 1, 0, 1)


@pytest.mark.parametrize("lease", [0, -1, float("nan"), float("inf"), "1", True])
def test_a_bad_lease_is_refused(call, store, lease):
    with pytest.raises(pgstore.InvalidError, match="lease"):
        call(store.get, lease=lease, block=False)


@pytest.mark.parametrize("delay", [-1, float("nan"), float("inf"), "1"])
def test_a_bad_delay_is_refused(call, store, delay):
    with pytest.raises(pgstore.InvalidError, match="delay"):
        call(store.put, 1, delay=delay)
    store.put(1)
    with pytest.raises(pgstore.InvalidError, match="delay"):
        call(store.get(lease=60).nack, delay)


def _due_in(sql, store):
    """Seconds until the only item comes again, to a tenth."""
    ((seconds,),) = sql(
        "SELECT extract(epoch FROM due_at - statement_timestamp())::float8 FROM pgstore.queue_deferred WHERE store_id = %s",
        int(store.object_id.removeprefix("qu-")),
    )
    return seconds


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [1, 2, 4, 8, 16, 32, 60, 60]),
        ({"backoff": 0.5}, [0.5, 1, 2]),
        ({"backoff": 45}, [45, 60, 60]),
        ({"backoff": 300}, [300, 300]),
    ],
    ids=str,
)
@pytest.mark.parametrize("way", ["block", "nack"])
def test_what_fails_comes_again_later_each_time(call, client, store_name, sql, expire, way, options, expected):
    """
    Else an item that nobody can work off would use up its attempts, and keep its workers busy, in a moment.
    """
    store = pgstore.Queue.from_name(store_name, create_if_missing=True, client=client, **options)
    call(store.put, "poison")

    delays = []
    for _ in expected:
        lease = call(store.get, lease=600)
        if way == "nack":
            call(lease.nack)
        else:
            _fail_in_block(call, lease)
        delays.append(_due_in(sql, store))
        expire(store)

    assert delays == pytest.approx(expected, abs=0.4)


def _fail_in_block(call, lease, failure=ZeroDivisionError):
    async def work():
        async with lease:
            raise failure

    with pytest.raises(failure):
        if call.form == "aio":
            call.run(work())
        with lease:
            raise failure


def test_the_longest_delay_is_that_of_all_further_attempts(client, store_name, sql):
    store = pgstore.Queue.from_name(store_name, create_if_missing=True, client=client)
    store.put("poison")
    sql(
        "UPDATE pgstore.queue_item SET attempts = 32000 WHERE store_id = %s",
        int(store.object_id.removeprefix("qu-")),
    )

    store.get(lease=60).nack()

    assert 59 < _due_in(sql, store) <= 60


def test_without_a_backoff_what_fails_comes_again_at_once(call, client, store_name, stats):
    store = pgstore.Queue.from_name(store_name, create_if_missing=True, client=client, backoff=None)
    call(store.put_many, ["poison", "next"])

    _fail_in_block(call, call(store.get, lease=600))
    call(call(store.get, lease=600).nack)

    assert stats(store) == (2, 0, 0, 0)
    assert call(store.get_many, 2) == ["poison", "next"]


@pytest.mark.parametrize("end", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_an_item_whose_worker_is_told_to_end_is_another_s_at_once(call, store, stats, end):
    """
    It has not failed: the next worker need not wait.
    """
    call(store.put, "work")
    lease = call(store.get, lease=600)

    with pytest.raises(end), lease:
        raise end

    assert stats(store) == (1, 0, 0, 0)


def test_the_last_attempt_is_followed_by_no_delay(call, client, store_name, stats):
    store = pgstore.Queue.from_name(store_name, create_if_missing=True, client=client, max_attempts=1)
    call(store.put, "poison")

    _fail_in_block(call, call(store.get, lease=600))

    assert stats(store) == (0, 0, 0, 1)


@pytest.mark.parametrize("how", ["own", "joined"])
def test_the_delay_of_a_failure_is_a_part_of_its_transaction(client, database, store, stats, how):
    store.put_many(["undone", "done"])
    undone, done = store.get_many(2, lease=600)
    oops = RuntimeError()

    with psycopg.connect(database) as connection:
        joined = {"connection": connection} if how == "joined" else {}
        with pytest.raises(RuntimeError), connection.transaction(), client.transaction(**joined):
            undone.nack()
            raise oops
        with connection.transaction(), client.transaction(**joined):
            done.nack()

    assert stats(store) == (0, 1, 1, 0)


def test_the_backoff_is_fixed_at_creation(client, store_name):
    def handle(**options):
        return pgstore.Queue.from_name(store_name, create_if_missing=True, client=client, **options)

    handle().hydrate()

    assert handle(backoff=1).len() == 0
    for other in (2, 0.5, None):
        with pytest.raises(pgstore.InvalidError, match=f"backoff=1.0, not {other}"):
            handle(backoff=other).len()
    at_once = pgstore.Queue.ephemeral(client, backoff=None)
    with at_once:
        assert at_once.len() == 0
    for bad in (0, -1, True, "1", float("nan"), float("inf"), 1e10):
        with pytest.raises(pgstore.InvalidError, match="backoff"):
            handle(backoff=bad)


def test_options_are_fixed_at_creation(client, mortal):
    mortal.hydrate()

    with pytest.raises(pgstore.InvalidError, match="max_attempts=2, not 3"):
        pgstore.Queue.from_name(mortal.name, max_attempts=3, client=client).len()
    assert pgstore.Queue.from_name(mortal.name, client=client).len() == 0
    for bad in (0, -1, True, 2**31):
        with pytest.raises(pgstore.InvalidError, match="maxsize"):
            pgstore.Queue.from_name("q", maxsize=bad, client=client)


def test_a_deleted_queue_takes_everything_with_it(client, mortal, sql):
    _kill(mortal, ["dead"])
    mortal.put("delayed", delay=60, idempotency_key="k")
    store_id = int(mortal.object_id.removeprefix("qu-"))

    pgstore.Queue.objects.delete(mortal.name, client=client)

    for table in ("queue_deferred", "queue_key"):
        assert sql(f"SELECT count(*) FROM pgstore.{table} WHERE store_id = %s", store_id) == [(0,)]


def _kill(mortal, items):
    mortal.put_many(items)
    for _ in range(2):
        for lease in mortal.get_many(len(items), lease=60):
            lease.nack(0)


# ----------------------------------------------------------------------------------------------------------- renewals


@pytest.fixture
def brief(monkeypatch):
    """Leases of a fraction of a second may be renewed."""
    monkeypatch.setattr(take_module, "RENEWED_SECONDS_MIN", 0.1)


def test_a_renewed_lease_outlives_its_length(call, store, store_elsewhere, brief):
    store.put_many(["a", "b", "c"])
    first = call(store.get, lease=0.5, renew=True)
    others = call(store.get_many, 2, lease=0.5, renew=True)

    time.sleep(1.2)

    assert store_elsewhere.get(block=False) is None
    for lease in (first, *others):
        assert not lease.is_lost
        call(lease.ack)
    assert store.len() == 0


def test_renewal_ends_with_the_lease(call, store, store_elsewhere, client, brief):
    """
    Settled, or left to itself: work that nobody has any more must not be kept from others.
    """
    store.put_many(["settled", "left"])
    settled = call(store.get, lease=0.5, renew=True)
    left = call(store.get, lease=0.5, renew=True)
    call(settled.nack, 0)
    del left

    assert {store_elsewhere.get(timeout=20), store_elsewhere.get(timeout=20)} == {"settled", "left"}
    until(lambda: not any(isinstance(key, Renewal) for key in tuple(client.scheduler.urgent._left)))


def test_a_renewal_that_comes_too_late_says_so(call, store, store_elsewhere, expire, brief):
    store.put("item")
    lease = call(store.get, lease=0.5, renew=True)

    expire(store, store_elsewhere)
    assert store_elsewhere.get(timeout=20) == "item"

    until(lambda: lease.is_lost)
    with pytest.raises(pgstore.errors.LeaseLost):
        call(lease.ack)


def test_a_lease_that_a_transaction_settles_is_not_waited_for(call, client, store, store_elsewhere, brief):
    """
    Its row is locked until the commit; the renewals of all other leases go on.
    """
    store.put_many(["slow", "other"])
    slow = store.get(lease=0.4, renew=True)
    other = store.get(lease=0.4, renew=True)
    with client.transaction():
        slow.ack()
        slow._done = False  # as if a second object held it
        time.sleep(1.2)
        assert store_elsewhere.get(block=False) is None
    call(other.ack)

    assert store_elsewhere.get(block=False) is None


def test_renewals_survive_a_lost_connection(call, store, store_elsewhere, brief, sql):
    store.put("item")
    lease = call(store.get, lease=2, renew=True)
    time.sleep(0.8)
    renewing = "pid <> pg_backend_pid() AND query LIKE '%%mine AS MATERIALIZED%%'"
    assert sql(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {renewing}")

    time.sleep(2.2)

    assert store_elsewhere.get(block=False) is None
    call(lease.ack)


def test_only_leases_outside_of_transactions_are_renewed(call, client, store):
    for arguments in ({}, {"lease": 0.5}, {"lease": None}):
        with pytest.raises(pgstore.InvalidError):
            call(store.get, block=False, renew=True, **arguments)
        with pytest.raises(pgstore.InvalidError):
            call(store.get_many, 1, block=False, renew=True, **arguments)
    with client.transaction(), pytest.raises(pgstore.InvalidError, match="commit"):
        store.get(block=False, lease=5, renew=True)


# ----------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize("reason", ["\ud800", "nul\0", "x" * 5000, "ä" * 1000])
def test_any_text_may_be_the_reason(call, mortal, reason):
    mortal.put("item")
    for _ in range(2):
        call(call(mortal.get, lease=60).nack, 0, reason=reason)

    (letter,) = call(mortal.dead_letters)
    assert letter.reason
    assert len(letter.reason) <= 1000


def test_a_reason_that_is_no_text_is_refused(call, store):
    store.put("item")
    lease = call(store.get, lease=60)

    with pytest.raises(pgstore.InvalidError, match="reason"):
        call(lease.nack, reason=5)

    call(lease.ack)


def test_one_dead_letter_or_several_come_back(call, mortal):
    _kill(mortal, ["a", "b", "c"])
    letters = call(mortal.dead_letters)

    assert call(mortal.revive, letters[0]) == 1
    assert call(mortal.discard, letters[1]) == 1
    assert call(mortal.revive, letters) == 1

    assert mortal.get_many(9) == ["a", "c"]
    for operation in (mortal.revive, mortal.discard):
        with pytest.raises(pgstore.InvalidError, match="dead letter"):
            call(operation, ["a"])
