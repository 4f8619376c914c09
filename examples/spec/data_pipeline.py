"""The specification's pipeline: files of a Volume, results in a NetworkFileSystem, a Dict that says how, a Queue of what is next."""

import io
import json
import os

import pgstore as modal


def process_data_file(data):
    return {"words": len(data.split())}


app = modal.App()

# Different storage for different use cases
raw_data_volume = modal.Volume.persist("raw-data")        # Large file storage
processed_cache = modal.NetworkFileSystem.persist("cache") # Fast shared access
config_dict = modal.Dict.persist("pipeline-config")       # Configuration
task_queue = modal.Queue.persist("processing-queue")      # Task coordination

@app.function(
    volumes={"/raw": raw_data_volume},
    network_file_systems={"/cache": processed_cache}
)
def data_pipeline():
    # Get configuration
    batch_size = config_dict.get("batch_size", 100)
    
    # Process raw data files
    for filename in os.listdir("/raw/input"):
        # Check cache first
        cache_key = f"/cache/processed_{filename}"
        if os.path.exists(cache_key):
            continue  # Already processed
        
        # Process file
        with open(f"/raw/input/{filename}", "r") as f:
            data = f.read()
        
        result = process_data_file(data)
        
        # Cache result
        with open(cache_key, "w") as f:
            json.dump(result, f)
        
        # Queue downstream tasks
        task_queue.put({"type": "notify", "file": filename, "result": result})


if __name__ == "__main__":
    with raw_data_volume.batch_upload(force=True) as batch:
        for name, text in {"a.txt": "one two three", "b.txt": "four five"}.items():
            batch.put_file(io.BytesIO(text.encode()), f"/input/{name}")
    with app.run():
        data_pipeline.remote()
        data_pipeline.remote()
    for task in task_queue.get_many(10, block=False):
        print(task)
