"""One store mounted in parts: the inputs cannot be written, and each user sees a directory of their own."""

import io
import os

import pgstore as modal

app = modal.App("example-parts")
store = modal.Volume.from_name("store", create_if_missing=True)


@app.function(
    volumes={
        "/inputs": store.with_mount_options(sub_path="inputs", read_only=True),
        "/mine": store.with_mount_options(sub_path="/users/ann"),
    }
)
def work() -> str:
    with open("/inputs/data.txt") as file:
        data = file.read()
    try:
        with open("/inputs/data.txt", "w") as file:
            file.write("mine now")
    except OSError as exc:
        print(os.strerror(exc.errno))
    with open("/mine/result.txt", "w") as file:
        file.write(data.upper())
    return " ".join(sorted(os.listdir("/mine")))


@app.local_entrypoint()
def main():
    store.put_file(io.BytesIO(b"lamp"), "/inputs/data.txt")
    print(work.remote())
    print(sorted(entry.path for entry in store.listdir("/", recursive=True)))
    print(b"".join(store.read_file("/users/ann/result.txt")))
