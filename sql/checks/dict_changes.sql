-- Logged changes of Dicts that are of no kind, or of a transaction that this server has not begun: after a restore into another cluster,
-- where numbers of transactions begin anew, readers would wait for them. `pgstore check --repair` deletes those; readers begin anew.
SELECT c.store_id, c.transaction_id::text AS transaction_id, c.id, c.kind, c.changed_at
  FROM pgstore.dict_change c
 WHERE c.transaction_id >= pg_snapshot_xmax(pg_current_snapshot())
    OR c.kind NOT IN ('p', 'd', 'c');
