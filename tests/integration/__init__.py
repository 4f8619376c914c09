"""On Postgres: one file per store and layer, each test blocking and through `.aio` where it uses `call`."""
