"""The specification's shared state: functions that were spawned work through tasks, and count in a Dict."""

import pgstore as modal


def get_tasks():
    return range(20)


def process_task(task):
    return task * task


app = modal.App()
shared_state = modal.Dict.persist("worker-state")

@app.function()
def coordinator():
    # Initialize shared state
    shared_state["active_workers"] = 0
    shared_state["total_processed"] = 0
    shared_state["status"] = "starting"
    
    # Start workers
    for i in range(5):
        worker.spawn(f"worker-{i}")

@app.function()
def worker(worker_id: str):
    # Register worker
    current_workers = shared_state.get("active_workers", 0)
    shared_state["active_workers"] = current_workers + 1
    
    try:
        # Do work
        for task in get_tasks():
            result = process_task(task)
            
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


if __name__ == "__main__":
    with app.run():
        coordinator.remote()
    print(dict(shared_state.items()))
