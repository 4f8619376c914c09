"""Credentials come from secrets, and what to do from the command line."""

import os
from typing import Optional

import pgstore as modal

image = modal.Image.debian_slim().env({"STAGE": "image", "REGION": "eu"}).workdir("/usr")
app = modal.App("example-secrets", image=image, secrets=[modal.Secret.from_dict({"STAGE": "app"})])


@app.function(
    secrets=[
        modal.Secret.from_name("database", required_keys=["PASSWORD"]),
        modal.Secret.from_dict({"HOST": "db.example.org", "NOTHING": None}),
    ]
)
def connect(user: str) -> str:
    assert "NOTHING" not in os.environ
    return f"{user}:{'*' * len(os.environ['PASSWORD'])}@{os.environ['HOST']} {os.environ['STAGE']} {os.getcwd()}"


@app.local_entrypoint()
def main(user: str, times: int = 1, ratio: float = 0.5, loud: bool = False, tag: Optional[str] = None):  # noqa: UP045 - as many write it
    print(os.environ.get("HOST"), repr((times, ratio, loud, tag)))
    for _ in range(times):
        print(connect.remote(user).upper() if loud else connect.remote(user))
