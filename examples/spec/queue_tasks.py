"""The specification's Queue: one function makes tasks, and two kinds of others take them."""

import queue

import pgstore as modal


def expensive_operation(data):
    return data.upper()


def process_single_task(task):
    return task["id"]


app = modal.App()
task_queue = modal.Queue.persist("work-queue")

# Producer function
@app.function()
def generate_tasks():
    tasks = [{"id": i, "data": f"task_{i}"} for i in range(100)]
    task_queue.put_many(tasks)
    print(f"Added {len(tasks)} tasks to queue")

# Consumer function
@app.function()
def process_tasks():
    while True:
        try:
            # Get task with timeout
            task = task_queue.get(timeout=30)
            
            # Process the task
            result = expensive_operation(task["data"])
            print(f"Processed task {task['id']}: {result}")
            
        except queue.Empty:
            print("No more tasks, worker stopping")
            break

# Batch consumer
@app.function()
def batch_processor():
    # Process tasks in batches for efficiency
    for batch in task_queue.iterate():
        tasks = task_queue.get_many(10)  # Get up to 10 tasks
        results = [process_single_task(task) for task in tasks]
        print(f"Processed batch of {len(results)} tasks")


if __name__ == "__main__":
    with app.run():
        generate_tasks.remote()
        batch_processor.remote()
        generate_tasks.remote()
        process_tasks.remote()
