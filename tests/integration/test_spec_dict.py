"""The specification's Dict and shared-state programs as they stand there, without decorators, with the helpers it leaves out."""

from __future__ import annotations

import threading
import time

import pytest

import pgstore as modal


@pytest.fixture(autouse=True)
def _default_client(database, monkeypatch):
    client = modal.Client(database)
    monkeypatch.setattr("pgstore.client.default._default", client)
    yield
    client.close()


def test_configuration_is_shared_and_metrics_add_up():
    shared_dict = modal.Dict.persist("config-store")

    def setup_config():
        # Store configuration data
        shared_dict["database_url"] = "postgresql://..."
        shared_dict["api_keys"] = {"service_a": "key1", "service_b": "key2"}
        shared_dict["feature_flags"] = {"new_feature": True, "beta_mode": False}

    def use_new_algorithm():
        return "new"

    def use_legacy_algorithm():
        return "legacy"

    def worker_task():
        # Access shared configuration
        db_url = shared_dict["database_url"]
        api_keys = shared_dict.get("api_keys", {})
        assert (db_url, api_keys["service_b"]) == ("postgresql://...", "key2")

        # Check feature flag
        if shared_dict.get("feature_flags", {}).get("new_feature", False):
            return use_new_algorithm()
        return use_legacy_algorithm()

    def analytics_function():
        # Update metrics
        current_count = shared_dict.get("request_count", 0)
        shared_dict["request_count"] = current_count + 1

        # Store processing results
        results = shared_dict.get("daily_results", [])
        results.append({"timestamp": time.time(), "processed": 100})
        shared_dict["daily_results"] = results

    shared_dict.clear()
    setup_config()
    assert worker_task() == "new"
    for _ in range(3):
        analytics_function()

    assert shared_dict["request_count"] == 3
    assert [result["processed"] for result in shared_dict["daily_results"]] == [100] * 3


def test_workers_share_their_state():
    shared_state = modal.Dict.persist("worker-state")
    threads = []

    def process_task(task):
        return task

    def get_tasks():
        return range(4)

    def worker(worker_id: str):
        # Register worker
        current_workers = shared_state.get("active_workers", 0)
        shared_state["active_workers"] = current_workers + 1

        try:
            # Do work
            for task in get_tasks():
                process_task(task)

                # Update shared counters
                total = shared_state.get("total_processed", 0)
                shared_state["total_processed"] = total + 1

        finally:
            # Unregister worker
            current_workers = shared_state.get("active_workers", 0)
            shared_state["active_workers"] = max(0, current_workers - 1)

            # Check if all workers done
            if shared_state["active_workers"] == 0:
                shared_state["status"] = "completed"

    def spawn(worker_id: str):
        # One after the other: the program's read-then-write loses counts when two do it at once.
        thread = threading.Thread(target=worker, args=(worker_id,))
        thread.start()
        thread.join()
        threads.append(thread)

    def coordinator():
        # Initialize shared state
        shared_state["active_workers"] = 0
        shared_state["total_processed"] = 0
        shared_state["status"] = "starting"

        # Start workers
        for i in range(5):
            spawn(f"worker-{i}")

    coordinator()

    assert dict(shared_state.items()) == {"active_workers": 0, "total_processed": 20, "status": "completed"}


def test_every_name_of_the_specification_is_there():
    store = modal.Dict.persist("spec-names")
    store.clear()
    store.put("k", 1)

    assert store.get("k") == store["k"] == 1
    assert store.contains("k")
    assert "k" in store
    assert store.len() == len(store) == 1
    assert store.keys() == ["k"] == list(store.iterate_keys())
    assert store.values() == [1] == list(store.iterate_values())
    assert store.items() == [("k", 1)] == list(store.iterate_items())
    store.update({"a": 2})
    assert store.pop("a") == 2
    assert store.pop("a") is None
    del store["k"]
    info = store.info()
    assert isinstance(info, modal.DictInfo)
    assert (info.name, info.created_by) == ("spec-names", "postgres")
    assert modal.Dict.from_name("spec-names").len() == 0
    modal.Dict.ephemeral()["x"] = 1
