"""The specification's Queue programs as they stand there, without decorators, with the helpers it leaves out."""

from __future__ import annotations

import queue
import uuid

import pytest

import pgstore as modal


@pytest.fixture
def task_queue(database, monkeypatch):
    client = modal.Client(database)
    monkeypatch.setattr("pgstore.client.default._default", client)
    name = f"work-queue-{uuid.uuid4().hex[:8]}"
    yield modal.Queue.persist(name)
    modal.Queue.objects.delete(name)
    client.close()


@pytest.fixture
def generate_tasks(task_queue):
    def generate_tasks():
        tasks = [{"id": i, "data": f"task_{i}"} for i in range(100)]
        task_queue.put_many(tasks)
        print(f"Added {len(tasks)} tasks to queue")

    return generate_tasks


def test_the_producer_adds_a_hundred_tasks(task_queue, generate_tasks, capsys):
    generate_tasks()

    assert capsys.readouterr().out == "Added 100 tasks to queue\n"
    assert len(task_queue) == 100
    assert task_queue.get() == {"id": 0, "data": "task_0"}


def test_the_consumer_stops_when_nothing_is_left(task_queue, generate_tasks, capsys):
    def expensive_operation(data):
        return data.upper()

    def process_tasks():
        while True:
            try:
                # Get task with timeout
                task = task_queue.get(timeout=0.1)  # 30 in the specification

                # Process the task
                result = expensive_operation(task["data"])
                print(f"Processed task {task['id']}: {result}")

            except queue.Empty:
                print("No more tasks, worker stopping")
                break

    generate_tasks()
    process_tasks()

    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "Processed task 0: TASK_0"
    assert lines[100:] == ["Processed task 99: TASK_99", "No more tasks, worker stopping"]


def test_the_batch_consumer_ends_after_ten_batches(task_queue, generate_tasks, capsys):
    """
    It iterates over what it takes away: were items looked up ahead, its eleventh get_many would wait for ever.
    """

    def process_single_task(task):
        return task["id"]

    def batch_processor():
        # Process tasks in batches for efficiency
        for _batch in task_queue.iterate():
            tasks = task_queue.get_many(10)  # Get up to 10 tasks
            results = [process_single_task(task) for task in tasks]
            print(f"Processed batch of {len(results)} tasks")

    generate_tasks()
    batch_processor()

    assert capsys.readouterr().out.splitlines()[1:] == ["Processed batch of 10 tasks"] * 10
    assert len(task_queue) == 0
