"""The specification's CloudBucketMounts: an object of one bucket is read, and another is written; a second bucket is read-only.

A directory of a bucket is there while there is an object in it: `output/` of the first needs one, or `os.mkdir`.
"""

import json
import os
import shutil

import pgstore as modal


def analyze_data(data):
    return {"lines": len(data.splitlines())}


app = modal.App()

# Mount S3 bucket
s3_mount = modal.CloudBucketMount.from_s3_bucket(
    "my-data-bucket",
    secret=modal.Secret.from_name("aws-credentials"),
    read_only=False
)

@app.function(cloud_bucket_mounts={"/s3-data": s3_mount})
def process_s3_data():
    # Access S3 files as local files
    with open("/s3-data/input/data.csv", "r") as f:
        data = f.read()
    
    # Process data
    result = analyze_data(data)
    
    # Write results back to S3
    with open("/s3-data/output/results.json", "w") as f:
        json.dump(result, f)

# Mount GCS bucket
gcs_mount = modal.CloudBucketMount.from_gcs_bucket(
    "my-gcs-bucket",
    secret=modal.Secret.from_name("gcp-credentials")
)

@app.function(cloud_bucket_mounts={"/gcs-data": gcs_mount})
def backup_to_gcs():
    # Read local data
    local_files = os.listdir("/tmp/data")
    
    # Copy to GCS through mount
    for filename in local_files:
        shutil.copy(f"/tmp/data/{filename}", f"/gcs-data/backup/{filename}")


if __name__ == "__main__":
    with app.run():
        process_s3_data.remote()
