"""What administrators do, as functions that return data: the command line renders it, tests and other views read it.

`status.status_of` tells what a database holds, `check.run_checks` whether it is damaged, `repair.repair` mends what has one certain
repair, `gc.collect` deletes what is not needed any more. `sequences` is a part of repairing. `mounts` has what this user has
mounted, `stores` which stores there are, `contents` what is in Dicts and Queues and `queues` how much, `secrets` what is stored for
functions, `calls` what was spawned.
`names` finds names of stores for completion.
`files` has what commands do with files beyond the methods of a store, `watching` tells what is changed, `buckets` finds a bucket by
its URL.

`backup.backup` writes all that a database holds to a file, and `restore.restore` restores it, with `replacing` in the place of what
is there. `backup_script` says what is in the file, `backup_file` how it is compressed and written. `programs` finds
PostgreSQL's own.

`roles` has who may use the stores, `psql` how psql is run. `connecting` opens connections for SQL that is no operation of a store.

`live` takes samples of what goes on, with the SQL of `live_sql` and the dataclasses of `live_model`;
`slow_statements` is a part of it.

Where a change belongs:

- A new thing to find out or to do is a module here. It returns dataclasses and prints nothing. Its command stands in `pgstore.cli`.
- A new check is a file in `sql/checks`: a query that returns a row for each damage. The comment at its head says what a row means.
- A new repair is entered in `repair.repair` and `repair.REPAIRABLE`, by the name of its check. Its SQL stands with the store that
  it repairs where that has a module for it (`queue.repair`, `fs.retention.repair`), else in `repair`.
"""
