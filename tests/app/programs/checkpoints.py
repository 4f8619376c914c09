"""Training that is interrupted goes on from its last checkpoint; another function evaluates what there is."""

import json
from pathlib import Path, PurePosixPath

import pgstore as modal

app = modal.App("example-checkpoints")
image = modal.Image.debian_slim(python_version="3.11").pip_install("torch")
volume = modal.Volume.from_name("checkpoints", create_if_missing=True)
CHECKPOINTS = PurePosixPath("/vol/checkpoints")


@app.function(image=image, volumes={"/vol": volume}, timeout=60 * 60)
def train(experiment: str, epochs: int, fail_at: int | None = None) -> float:
    directory = Path(CHECKPOINTS) / experiment
    directory.mkdir(parents=True, exist_ok=True)
    done = sorted(directory.glob("epoch-*.json"))
    state = json.loads(done[-1].read_text()) if done else {"epoch": 0, "loss": 1.0}
    print(f"from epoch {state['epoch']}")
    while state["epoch"] < epochs:
        if state["epoch"] == fail_at:
            (directory / "interrupted").touch()
            raise RuntimeError(f"interrupted at epoch {fail_at}")
        state = {"epoch": state["epoch"] + 1, "loss": state["loss"] / 2}
        (directory / f"epoch-{state['epoch']:03}.json").write_text(json.dumps(state))
        volume.commit()
    return state["loss"]


@app.function(volumes={"/vol": volume})
def evaluate(experiment: str) -> list[str]:
    volume.reload()
    return sorted(path.name for path in (Path(CHECKPOINTS) / experiment).glob("*"))


@app.local_entrypoint()
def main(experiment: str = "first"):
    print(evaluate.remote(experiment))
    try:
        train.remote(experiment, 4, fail_at=2)
    except RuntimeError as exc:
        print(exc)
    print(evaluate.remote(experiment))
    print(train.remote(experiment, 4))
    print(len(evaluate.remote(experiment)))
