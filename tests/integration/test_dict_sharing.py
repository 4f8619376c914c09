"""What Dict offers to processes that share it: watching, locks, results computed once."""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import gc
import multiprocessing
import sys
import threading
import time
import types
from functools import partial
from typing import Any

import pytest

import pgstore
from pgstore.dict.lock import _Hold
from pgstore.errors import LockTimeout
from tests.faults.conftest import Background


@pytest.fixture
def watched(client, store_name):
    return pgstore.Dict.from_name(store_name, create_if_missing=True, watch=True, client=client).hydrate()


@pytest.fixture
def watched_elsewhere(client_elsewhere, store_name):
    return pgstore.Dict.from_name(store_name, client=client_elsewhere)


@pytest.fixture
def store(client, store_name):
    return pgstore.Dict.persist(store_name, client=client).hydrate()


@pytest.fixture
def store_elsewhere(client_elsewhere, store_name):
    return pgstore.Dict.persist(store_name, client=client_elsewhere)


# ----------------------------------------------------------------------------------------------------------- watching


def started(watcher):
    """A watcher that has begun to watch."""
    assert list(watcher) == []
    return watcher


def seen(watcher):
    return [(change.kind, change.key) for change in watcher]


def test_every_kind_of_change_is_seen(watched, watched_elsewhere):
    watcher = started(watched.watch(timeout=0.3))

    other = watched_elsewhere
    other["a"] = 1
    other.update({"b": 2, (1, 2): 3})
    other.increment("n")
    other.setdefault("d", 1)
    other.setdefault("d", 2)
    other.put("a", 2, skip_if_exists=True)
    other.compare_and_set("a", 1, 5)
    other.pop("a")
    other.pop("a")
    other.pop_many(["b", "nope"])
    other.popitem()
    other.clear()

    assert seen(watcher) == [
        ("put", "a"),
        ("put", (1, 2)),
        ("put", "b"),
        ("put", "n"),
        ("put", "d"),
        ("put", "a"),
        ("delete", "a"),
        ("delete", "b"),
        ("delete", "n"),
        ("clear", None),
    ]
    watcher.close()


def test_to_delete_what_has_expired_is_no_change(call, watched, sql):
    """
    It was not there any more, as the KeyError says.
    """
    call(watched.put, "k", 1)
    store_id = int(watched.object_id.removeprefix("di-"))
    sql("UPDATE pgstore.dict_entry SET expires_at = now() - interval '1 s' WHERE store_id = %s", store_id)

    with pytest.raises(KeyError):
        call(watched._delitem, "k")

    assert sql("SELECT kind FROM pgstore.dict_change WHERE store_id = %s", store_id) == [("p",)]


def test_a_change_whose_key_cannot_be_loaded_hides_no_other(watched, sql):
    """
    It is an error in its place, and the watch goes on behind it.
    """
    watcher = started(watched.watch(timeout=0.3))
    watched["a"] = watched[1, 2] = watched["c"] = 1
    number = int(watched.object_id.removeprefix("di-"))
    sql("UPDATE pgstore.dict_change SET key_pickle = '\\x80' WHERE store_id = %s AND key_pickle IS NOT NULL", number)

    assert next(watcher).key == "a"
    with pytest.raises(pgstore.DeserializationError):
        next(watcher)

    assert seen(watcher) == [("put", "c")]


def test_a_change_carries_the_entrys_revision(watched):
    with watched.watch(timeout=0.2) as watcher:
        started(watcher)
        watched["k"] = 1
        (change,) = list(watcher)

    assert change.revision == watched.get_entry("k").revision


def test_a_waiting_watcher_is_woken(watched, watched_elsewhere):
    with watched.watch(timeout=20) as watcher:
        threading.Timer(0.2, watched_elsewhere.put, ["k", 1]).start()
        began = time.monotonic()
        change = next(watcher)

    assert change.key == "k"
    assert time.monotonic() - began < 10


def test_watching_works_asynchronously(client, watched):
    async def work():
        async with watched.watch(timeout=20) as watcher:
            waiting = asyncio.ensure_future(anext(watcher))
            await asyncio.sleep(0.1)
            await watched.put.aio("k", 1)
            change = await waiting
        await client.aclose()
        return change.kind, change.key

    assert asyncio.run(work()) == ("put", "k")


def test_a_change_that_commits_late_is_not_passed_over(watched, watched_elsewhere):
    """
    The later transaction commits first: a cursor by ids would be beyond the earlier one by then.
    """
    watcher = started(watched.watch(timeout=0.3))
    with watched_elsewhere._runner.transaction():
        watched_elsewhere["early"] = 1
        watched["late"] = 1
        assert seen(watcher) == []

    assert sorted(seen(watcher)) == [("put", "early"), ("put", "late")]


def test_what_was_rolled_back_was_no_change(watched):
    watcher = started(watched.watch(timeout=0.2))
    with pytest.raises(RuntimeError), watched._runner.transaction():
        watched["k"] = 1
        raise RuntimeError

    assert seen(watcher) == []


def test_watching_goes_on_after_a_change_by_its_cursor(watched, watched_elsewhere):
    watcher = started(watched.watch(timeout=0.2))
    watched["a"] = 1
    watched["b"] = 1
    first = next(watcher)
    watcher.close()
    watched["c"] = 1

    assert seen(watched_elsewhere.watch(since=first.cursor, timeout=0.2)) == [("put", "b"), ("put", "c")]
    with pytest.raises(pgstore.InvalidError, match="cursor"):
        watched.watch(since="yesterday")


def test_after_an_hour_without_looking_there_is_a_reset(watched):
    watcher = started(watched.watch(timeout=0.2))
    watched["k"] = 1
    watcher._unread_since -= 3600

    assert [change.kind for change in watcher] == ["reset", "put"]
    watched["k"] = 2
    assert [change.kind for change in watcher] == ["put"]


def test_a_clock_of_this_machine_that_is_wrong_changes_nothing(watched, monkeypatch):
    watcher = started(watched.watch(timeout=0.2))
    watched["k"] = 1
    monkeypatch.setattr("time.time", lambda: 0.0)

    (change,) = watcher

    assert (change.kind, change.key) == ("put", "k")
    assert list(watched.watch(since=change.cursor, timeout=0)) == []


def test_there_is_a_reset_where_a_transaction_was_open_for_an_hour(watched, watched_elsewhere, monkeypatch):
    """
    The watcher has looked all the time, but could not read: meanwhile what the log held has been forgotten.
    """
    monkeypatch.setattr("pgstore.dict.watch.KEPT_SECONDS", 60.5)
    watcher = started(watched.watch(timeout=0))
    with watched_elsewhere._runner.transaction():
        watched_elsewhere["early"] = 1
        for _ in range(15):
            assert seen(watcher) == []
            time.sleep(0.1)

    assert seen(watcher)[0] == ("reset", None)
    watched["k"] = 1
    assert seen(watcher) == [("put", "k")]


def test_a_cursor_keeps_the_age_of_what_comes_after_it(watched, watched_elsewhere):
    """
    Two changes were read at once, late; who goes on after the first, later still, may find the second forgotten.
    """
    watcher = started(watched.watch(timeout=0))
    watched.update({"a": 1, "b": 1})
    watcher._unread_since -= 3000
    first, second = watcher

    ages = [watcher._unread_since - int(change.cursor.split("-")[2]) for change in (first, second)]
    assert 2990 < ages[0] < 3010
    assert ages[1] <= 1


def test_a_cursor_of_another_cluster_is_a_reset(watched):
    """
    After a restore or a failover transactions are counted anew: all that comes would lie before the cursor.
    """
    watched["k"] = 1
    watcher = watched.watch(since="999999999999-7-9999999999", timeout=0.2)

    assert [change.kind for change in watcher] == ["reset"]
    watched["k"] = 2
    assert seen(watcher) == [("put", "k")]


def test_a_watcher_that_is_closed_ends_also_while_another_thread_waits(watched):
    watcher = watched.watch()
    changes: list[object] = []
    thread = threading.Thread(target=lambda: changes.extend(watcher))
    thread.start()
    time.sleep(0.5)

    watcher.close()
    thread.join(10)

    assert not thread.is_alive()
    watched["k"] = 1
    assert changes == [] == list(watcher)


def test_what_is_older_than_an_hour_is_forgotten(watched, sql, monkeypatch):
    watched.update({"a": 1, "b": 1})
    sql("UPDATE pgstore.dict_change SET changed_at = changed_at - interval '61 minutes' WHERE key = 'a'")
    monkeypatch.setattr("pgstore.dict.base._in_passing", lambda: True)

    watched["c"] = 1

    store_id = int(watched.object_id.removeprefix("di-"))
    left = sql("SELECT key FROM pgstore.dict_change WHERE store_id = %s ORDER BY id", store_id)
    assert left == [("b",), ("c",)]


def test_nothing_is_missed_when_connections_break(watched, watched_elsewhere, sql):
    watcher = started(watched.watch(timeout=1))
    keys = [f"k{number:02}" for number in range(30)]
    found: list[str] = []
    thread = threading.Thread(target=lambda: found.extend(change.key for change in watcher))
    thread.start()
    for number, key in enumerate(keys):
        watched_elsewhere[key] = number
        if number % 10 == 5:
            sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'pgstore'")
            time.sleep(0.05)
    thread.join()

    assert found == keys


def test_only_dicts_made_for_it_can_be_watched(store):
    with pytest.raises(pgstore.InvalidError, match="watch=True"):
        next(store.watch())


# --------------------------------------------------------------------------------------------------------------- locks


def test_a_lock_has_one_holder(store, store_elsewhere):
    inside: list[int] = []
    most: list[int] = []

    def work(handle, number):
        for _ in range(5):
            with handle.lock("k"):
                inside.append(number)
                most.append(len(inside))
                time.sleep(0.001)
                inside.remove(number)

    threads = [threading.Thread(target=work, args=(handle, i)) for i, handle in enumerate((store, store_elsewhere) * 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert max(most) == 1
    assert len(most) == 30


def test_threads_that_share_a_lock_object_wait_for_each_other(store):
    """
    As with `threading.Lock`, whose form this is.
    """
    lock = store.lock("k", timeout=20)
    inside, most, tokens = 0, 0, []

    def work(_):
        nonlocal inside, most
        for _ in range(3):
            with lock:
                inside += 1
                most = max(most, inside)
                tokens.append(lock.token)
                time.sleep(0.02)
                inside -= 1

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))

    assert (most, len(set(tokens))) == (1, 12)
    assert lock.acquire(block=False) is True


def test_tasks_that_share_a_lock_object_wait_for_each_other(client, store):
    lock = store.lock("k", timeout=20)
    inside, most, runs = 0, 0, 0

    async def work():
        nonlocal inside, most, runs
        async with lock:
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0.02)
            runs += 1
            inside -= 1

    async def all_of_them():
        await asyncio.gather(*(work() for _ in range(4)))
        await client.aclose()

    asyncio.run(all_of_them())

    assert (most, runs) == (1, 4)


def test_who_has_lost_a_shared_lock_does_not_release_the_next_holder(store, store_elsewhere, sql):
    lock = store.lock("k", timeout=20)
    lock.acquire()
    sql("UPDATE pgstore.dict_lock SET expires_at = now() - interval '1 s'")
    with concurrent.futures.ThreadPoolExecutor(1) as other:
        assert other.submit(lock.acquire).result() is True

        assert lock.release() is False
        assert store_elsewhere.lock("k").acquire(block=False) is False
        assert other.submit(lock.release).result() is True


def test_a_lock_that_is_not_free_in_time_is_a_timeout_error(store, store_elsewhere):
    with store.lock("k"):
        with pytest.raises(LockTimeout, match="'k'"), store_elsewhere.lock("k", timeout=0.1):
            pass
        assert store_elsewhere.lock("k").acquire(block=False) is False
        with store_elsewhere.lock("other key"):
            pass
    with store_elsewhere.lock("k", timeout=1):
        pass


def test_locks_work_asynchronously(client, store):
    async def work():
        order = []

        async def hold(number):
            async with store.lock("k"):
                order.append(number)
                await asyncio.sleep(0.01)
                order.append(number)

        await asyncio.gather(*(hold(i) for i in range(4)))
        await client.aclose()
        return order

    order = asyncio.run(work())

    assert order[::2] == order[1::2]


def test_tokens_grow(store):
    tokens = []
    for _ in range(3):
        with store.lock("k") as lock:
            tokens.append(lock.token)

    assert tokens == sorted(set(tokens))


def test_a_lease_that_has_ended_is_anothers_and_release_says_so(store, store_elsewhere):
    late = store.lock("k", ttl=0.05)
    late.acquire()
    time.sleep(0.1)
    mine = store_elsewhere.lock("k", timeout=5)
    mine.acquire()

    assert late.release() is False
    assert store_elsewhere.lock("k").acquire(block=False) is False
    assert mine.release() is True


def test_a_lock_held_longer_than_its_lease_is_renewed(store, store_elsewhere):
    with store.lock("k", ttl=0.3):
        time.sleep(0.6)
        assert store_elsewhere.lock("k").acquire(block=False) is False


def test_a_lock_taken_in_a_transaction_holds_at_once(client, store, store_elsewhere):
    with client.transaction(), store.lock("k"):
        assert store_elsewhere.lock("k").acquire(block=False) is False
    assert store_elsewhere.lock("k").acquire(block=False) is True


def _hold_for_ever(url, name, held):
    with pgstore.Client(url) as client, pgstore.Dict.from_name(name, client=client).lock("k", ttl=0.5):
        held.set()
        time.sleep(60)


def test_the_lock_of_a_killed_holder_is_free_within_its_lease(store, store_name, database):
    context = multiprocessing.get_context("spawn")
    held = context.Event()
    process = context.Process(target=_hold_for_ever, args=(database, store_name, held))
    process.start()
    assert held.wait(20)
    assert store.lock("k").acquire(block=False) is False

    process.kill()
    process.join()

    with store.lock("k", timeout=20):
        pass


@pytest.mark.filterwarnings("ignore::pgstore.exception.AsyncUsageWarning")
def test_a_task_that_is_cancelled_while_it_leaves_releases_the_lock_and_stays_cancelled(client, store, store_elsewhere):
    async def main():
        left: list[str] = []
        inside = asyncio.Event()

        async def hold():
            async with store.lock("k"):
                left.append("the block")
                inside.set()
            left.append("the lock, as if nothing had been")

        for steps in range(12):
            left.clear()
            inside.clear()
            task = asyncio.ensure_future(hold())
            await inside.wait()
            for _ in range(steps):
                await asyncio.sleep(0)
            is_late = not task.cancel()
            await asyncio.wait([task])
            assert is_late or task.cancelled(), left
            other = store_elsewhere.lock("k")
            assert other.acquire(block=False) is True
            other.release()
        await client.aclose()

    asyncio.run(main())


@pytest.mark.filterwarnings("ignore::pgstore.exception.AsyncUsageWarning")
def test_a_lock_held_in_an_asynchronous_transaction_is_renewed(client, store, store_elsewhere):
    async def main():
        async with client.transaction(), store.lock("k", ttl=0.3):
            await store.put.aio("k", 1)
            await asyncio.sleep(0.6)
            is_free = store_elsewhere.lock("k").acquire(block=False)
        await client.aclose()
        return is_free

    assert asyncio.run(main()) is False


@pytest.mark.filterwarnings("ignore::pgstore.exception.AsyncUsageWarning")
def test_a_task_keeps_its_lock_while_it_gives_the_event_loop_no_turn(client, store, store_elsewhere):
    async def main():
        async with store.lock("k", ttl=0.3):
            time.sleep(0.9)  # noqa: ASYNC251 - that is what it is about
            is_free = store_elsewhere.lock("k").acquire(block=False)
        await client.aclose()
        return is_free

    assert asyncio.run(main()) is False


def test_a_lock_that_nobody_has_any_more_is_not_renewed(client, store, store_elsewhere):
    """
    As that of a task whose event loop has ended: nothing could release it.
    """

    async def main():
        await store.lock("k", ttl=0.3).__aenter__()
        await client.aclose()

    asyncio.run(main())
    gc.collect()

    with store_elsewhere.lock("k", timeout=10):
        pass


def test_a_block_renews_its_lock_until_its_end(client, store):
    with store.lock("k", ttl=0.3):
        assert client.scheduler.urgent._left
    assert not any(isinstance(key, _Hold) for key in client.scheduler.urgent._left)


def test_a_lock_of_a_client_that_is_being_closed_is_not_taken_for_a_block(client, store, store_elsewhere):
    """
    It would not be renewed, and another could take it while the block runs.
    """
    store.hydrate()
    client.scheduler.close()

    with pytest.raises(pgstore.errors.StoreUnavailable, match="being closed"), store.lock("k"):
        pass

    assert store_elsewhere.lock("k").acquire(block=False) is True


def test_a_lock_that_is_released_is_not_held_any_more(call, store):
    lock = store.lock("k")
    call(lock.acquire)

    assert call(lock.release) is True
    with pytest.raises(pgstore.InvalidError, match="not held"):
        call(lock.release)
    with pytest.raises(pgstore.InvalidError, match="not held"):
        call(lock.renew)


def test_a_lock_needs_a_lease_that_ends(store):
    for bad in (0, -1, float("inf"), "1"):
        with pytest.raises(pgstore.InvalidError):
            store.lock("k", ttl=bad)


# ------------------------------------------------------------------------------------------------------------- memoize


computed: list[Any] = []  # not a variable of the tests': a function that closes over it could not be told from others


@pytest.fixture(autouse=True)
def _nothing_computed():
    computed.clear()


def test_of_many_callers_one_computes(store, store_elsewhere):
    def compute(x):
        computed.append(x)
        time.sleep(0.1)
        return x * 2

    functions = [handle.memoize()(compute) for handle in (store, store_elsewhere)]
    results: list[int] = []
    threads = [threading.Thread(target=lambda f=f: results.append(f(21))) for f in functions * 4]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert results == [42] * 8
    assert computed == [21]


def test_results_are_kept_by_arguments_and_for_their_time(store):
    @store.memoize(ttl=0.2)
    def compute(x, *, y=0):
        """Documented."""
        computed.append((x, y))
        return

    for _ in range(2):
        compute(1)
        compute(x=1, y=0)  # the same call
        compute(1, y=2)
        compute(2)
    assert computed == [(1, 0), (1, 2), (2, 0)]
    assert compute.__doc__ == "Documented."
    time.sleep(0.3)
    compute(1)
    assert len(computed) == 4


def test_an_error_is_not_remembered(store):
    @store.memoize()
    def compute():
        computed.append(1)
        if len(computed) == 1:
            raise RuntimeError
        return "good"

    with pytest.raises(RuntimeError):
        compute()
    assert compute() == compute() == "good"
    assert len(computed) == 2


def test_coroutine_functions_are_memoized_too(client, store):
    @store.memoize(key=lambda x: f"key of {x}")
    async def compute(x):
        computed.append(x)
        await asyncio.sleep(0.05)
        return x

    async def work():
        results = await asyncio.gather(*(compute(5) for _ in range(5)))
        await client.aclose()
        return results

    assert asyncio.run(work()) == [5] * 5
    assert computed == [5]
    assert store["key of 5"] == 5


def adder(number, default=0):
    def add(x, more=default):
        return x + number + more

    return add


class Doubling:
    def __init__(self, factor=2):
        self.factor = factor

    def __call__(self, x):
        return self.factor * x

    def times(self, x):
        return self.factor * x


def test_functions_that_differ_in_what_they_hold_share_no_result(store):
    """
    Both are "adder.<locals>.add", but they are not one function.
    """
    functions = [adder(1), adder(100), adder(1, 5), partial(adder(1), more=7), partial(pow, 2), partial(pow, 5)]
    functions += [lambda x: x, lambda x: -x]

    for _ in range(2):
        results = [store.memoize()(function)(10) for function in functions]
        assert results == [11, 110, 16, 18, 2**10, 5**10, 10, -10]


def test_a_function_that_is_redefined_is_another(store):
    """
    Results of a program's last version are none of this one's.
    """

    def version(one):
        if one:

            def compute(x):
                return x + 1
        else:

            def compute(x):
                return x + 2

        return store.memoize()(compute)

    assert (version(True)(1), version(False)(1), version(True)(1)) == (2, 3, 2)


def test_constants_are_told_apart_by_how_they_are_nested(store):
    def version(one):
        if one:

            def compute():
                return ((1, 2), 3)
        else:

            def compute():
                return (1, (2, 3))

        return store.memoize()(compute)

    assert (version(True)(), version(False)()) == (((1, 2), 3), (1, (2, 3)))


def test_a_decorated_function_is_told_by_what_was_decorated(store):
    def loud(function):
        @functools.wraps(function)
        def wrapper(*args):
            return f"{function(*args)}!"

        return wrapper

    one, two = store.memoize()(loud(adder(1))), store.memoize()(loud(adder(2)))

    assert (one(1), two(1), one(1)) == ("2!", "3!", "2!")


@pytest.mark.parametrize(
    "function", [Doubling(), Doubling().times, (lambda held: lambda: held)([1]), partial(print, [1]), [].append]
)
def test_what_cannot_be_told_from_others_is_refused_with_advice(store, function):
    with pytest.raises(pgstore.InvalidError, match=r"memoize\(key="):
        store.memoize()(function)

    assert store.memoize(key=lambda *args: ("mine", *args))(Doubling(3))(5) == 15


def test_a_function_that_calls_itself_is_remembered(store):
    def fibonacci(n):
        computed.append(n)
        return n if n < 2 else remembered(n - 1) + remembered(n - 2)

    remembered = store.memoize(key=lambda n: n)(fibonacci)

    assert remembered(10) == 55
    assert len(computed) == 11


def test_a_result_that_cannot_be_loaded_any_more_is_computed_anew(call, store):
    module = types.ModuleType("of_another_version")
    sys.modules[module.__name__] = module
    exec("class Result: pass", module.__dict__)

    @store.memoize()
    def compute():
        return module.Result() if "of_another_version" in sys.modules else "new"

    compute()
    del sys.modules["of_another_version"]

    assert compute() == compute() == "new"


def test_who_asks_while_a_transaction_computes_waits_for_its_end(client, store, store_elsewhere):
    """
    Before the commit there is nothing to be seen; computed again, there would be two answers.
    """
    here, elsewhere = (handle.memoize()(_count) for handle in (store, store_elsewhere))

    with client.transaction():
        first = here()
        other = Background(elsewhere)
        time.sleep(0.3)
        assert other.running
    assert other.result() == first == 1

    store.clear()
    with pytest.raises(KeyError), client.transaction():
        assert here() == 2
        other = Background(elsewhere)
        raise KeyError
    assert other.result() == here() == 3


def _count():
    computed.append(1)
    return len(computed)


def test_who_asks_while_an_asynchronous_transaction_computes_waits_too(client, store, store_elsewhere):
    async def work():
        async with client.transaction():
            assert await store.memoize()(_count_async)() == 1
            other = Background(lambda: asyncio.run(_elsewhere()))
            await asyncio.sleep(0.3)
            assert other.running
        await client.aclose()
        return await asyncio.to_thread(other.result)

    async def _elsewhere():
        try:
            return await store_elsewhere.memoize()(_count_async)()
        finally:
            await store_elsewhere._runner.aclose()

    assert asyncio.run(work()) == 1


async def _count_async():
    computed.append(1)
    return len(computed)
