"""Stores: what every kind has.

`handle` is the base class of Dict, Queue, Volume and NetworkFileSystem, `objects` what is done with stores rather than in one,
`registry` the table that they are found in, `deletion` their end.

What the deletion of a store takes with it is said in one place, the function `pgstore.store_delete` in sql/schema.sql. In one
transaction it deletes the row in `store` and every row with the store's id in other tables. Large objects are only noted there, and
unlinked afterwards (`deletion`). When a session dies, `pgstore.session_sweep` deletes its ephemeral stores by the same function.
What stays is the name of a Dict of serializer json (`dict_json_name`). It does not matter what a client has imported.

Where a change belongs:

- A new table with rows of stores is entered in `store_delete`, and in `sql/checks/orphans.sql`, which finds rows without a store.
- An option that is fixed when a store is made is a keyword of `from_name` and `ephemeral` of its class, which leave it in
  `_options`. The column `store.options` keeps it, and `StoreRecord.options` has it. A handle that was given another is refused.
- A new kind of store is a class above this package, based on `handle.Store`: its `_kind` and names, `_created` for the rows that a
  new one has, and its operations. The kind is entered in `core.names.KIND_NAMES` and in the CHECK of `store.kind`.
- An operation that needs no store is one of `objects`.
"""
