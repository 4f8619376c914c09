"""Mounts: programs that know nothing of pgstore, here `sort`, open the files of a Volume and of a NetworkFileSystem."""

import io
import subprocess
import tempfile

import pgstore

volume = pgstore.Volume.persist("mount-data")
results = pgstore.Dict.persist("mount-results")
shared = pgstore.NetworkFileSystem.persist("mount-shared")

volume.put_file(io.BytesIO(b"pear\napple\nfig\n"), "/input.txt")

with tempfile.TemporaryDirectory() as directory:  # it has to be there, and empty
    with volume.mount(directory) as data:
        with open(f"{data}/input.txt") as file:
            lines = len(file.readlines())
        subprocess.run(["sort", "input.txt", "-o", "output.txt"], cwd=data, check=True)
        with pgstore.transaction():  # the file and what is known of it: both, or neither
            volume.commit()
            results["output.txt"] = lines
    print(b"".join(volume.read_file("/output.txt")), results["output.txt"])

    with shared.mount(directory, mode="fuse") as data:
        with open(f"{data}/log.txt", "w") as file:
            file.write("hello\n")
        print(b"".join(shared.read_file("/log.txt")))  # closed is committed: everybody sees it
