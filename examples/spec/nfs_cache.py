"""The specification's NetworkFileSystem: what one call has worked out, the next finds."""

import json
import os

import pgstore as modal


def expensive_computation(task_id):
    print(f"computing {task_id}")
    return {"task": task_id, "letters": len(task_id)}


app = modal.App()
nfs = modal.NetworkFileSystem.persist("shared-cache")

@app.function(network_file_systems={"/cache": nfs})
def worker_function(task_id: str):
    cache_file = f"/cache/task_{task_id}.json"
    
    # Check if cached result exists
    if os.path.exists(cache_file):
        with open(cache_file, "r") as f:
            return json.load(f)
    
    # Process and cache result
    result = expensive_computation(task_id)
    with open(cache_file, "w") as f:
        json.dump(result, f)
    
    return result


if __name__ == "__main__":
    with app.run():
        print(worker_function.remote("first"))
        print(worker_function.remote("second"))
        print(worker_function.remote("first"))
