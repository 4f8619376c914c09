"""The specification's Volume: a function reads and writes its files, the program uploads and lists them.

What it uploads has to be in the current directory: the file local_data.txt and the folder datasets.
"""

import pgstore as modal


app = modal.App()

# Create a persistent volume
volume = modal.Volume.persist("my-data-volume")

@app.function(volumes={"/data": volume})
def process_data():
    # Files are accessible at /data mount point
    with open("/data/input.txt", "r") as f:
        content = f.read()
    
    # Process data and save results
    with open("/data/output.txt", "w") as f:
        f.write(f"Processed: {content}")

# Upload files to volume from local machine
@app.local_entrypoint()
def upload_data():
    volume.put_file("local_data.txt", "/input.txt")
    volume.put_directory("./datasets", "/datasets")
    
    # List volume contents
    for entry in volume.listdir("/"):
        print(f"{entry.path}: {entry.type.name}, {entry.size} bytes")


if __name__ == "__main__":
    with app.run():
        upload_data()
        process_data.remote()
        print(b"".join(volume.read_file("/output.txt")).decode())
