"""Jobs of several tenants, each with its partition of the queue and a function that was spawned for it."""

import pgstore as modal

app = modal.App("example-partitions")
jobs = modal.Queue.from_name("jobs", create_if_missing=True)
done = modal.Dict.from_name("done", create_if_missing=True)


@app.function()
def work(tenant: str) -> int:
    while (job := jobs.get(block=False, partition=tenant)) is not None:
        done[tenant] = [*done.get(tenant, []), job]
    return len(done[tenant])


if __name__ == "__main__":
    tenants = ["ann", "ben", "cay"]
    for number, tenant in enumerate(tenants, 1):
        jobs.put_many(list(range(number)), partition=tenant)
    with app.run():
        calls = [work.spawn(tenant) for tenant in tenants]
        again = modal.FunctionCall.from_id(calls[0].object_id)
        print(modal.FunctionCall.gather(*calls), again.get(timeout=30))
    print({tenant: done[tenant] for tenant in tenants}, jobs.len(total=True))
