"""A class whose workers load a model from a Volume once, and answer many questions."""

import json

import pgstore as modal

app = modal.App("example-model")
models = modal.Volume.from_name("models", create_if_missing=True)
log = modal.Queue.from_name("log", create_if_missing=True)


@app.function(volumes={"/models": models})
def download(name: str, factor: int) -> None:
    with open(f"/models/{name}.json", "w") as file:
        json.dump({"factor": factor}, file)


@app.cls(volumes={"/models": models}, gpu="A10G", scaledown_window=60)
class Model:
    name: str = modal.parameter(default="small")

    @modal.enter()
    def load(self) -> None:
        with open(f"/models/{self.name}.json") as file:
            self.factor = json.load(file)["factor"]
        log.put(f"loaded {self.name}")

    @modal.method()
    def predict(self, x: int) -> int:
        return self.factor * x

    @modal.method()
    def stream(self, n: int):
        for i in range(n):
            yield self.factor * i

    @modal.exit()
    def close(self) -> None:
        log.put(f"closed {self.name}")


@app.local_entrypoint()
def main():
    for name, factor in {"small": 2, "large": 100}.items():
        download.remote(name, factor)
    small, large = Model(), Model(name="large")
    print([small.predict.remote(n) for n in range(3)], large.predict.remote(3))
    print(sorted(small.predict.map(range(4))))
    print(list(large.stream.remote_gen(3)))


@app.local_entrypoint()
def logged():
    print(sorted(set(log.get_many(100, block=False))))
