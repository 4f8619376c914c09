"""Counts the words of each file of a Volume, in parallel, into a NetworkFileSystem."""

import io
import json
import os

import pgstore as modal

app = modal.App("example-map")
texts = modal.Volume.from_name("texts", create_if_missing=True)
results = modal.NetworkFileSystem.from_name("word-counts", create_if_missing=True)


@app.function(volumes={"/texts/": texts}, network_file_systems={"/results": results}, max_containers=2)
def count(name: str) -> int:
    with open(f"/texts/{name}") as file:
        words = len(file.read().split())
    os.makedirs("/results/counts", exist_ok=True)
    with open(f"/results/counts/{name}.json", "w") as file:
        json.dump({"name": name, "words": words}, file)
    return words


@app.function(network_file_systems={"/results": results})
def total() -> int:
    found = 0
    for name in os.listdir("/results/counts"):
        with open(f"/results/counts/{name}") as file:
            found += json.load(file)["words"]
    return found


@app.local_entrypoint()
def main(files: int = 8):
    with texts.batch_upload(force=True) as batch:
        for number in range(files):
            batch.put_file(io.BytesIO(b"word " * number), f"/{number}.txt")
    names = sorted(entry.path for entry in texts.listdir("/"))
    print(list(count.map(names)))
    print(sorted(count.map(names, order_outputs=False)))
    print(total.remote())
    print(sorted(entry.path for entry in results.listdir("/counts"))[:2])
