-- Sequences behind what was drawn from them: the next number would be one that is in use, a revision or token that somebody has seen, or
-- an item's id below the watermark of its Queue. It happens when a server takes over that was fed by logical replication, which leaves
-- sequences out. `pgstore check --repair` sets all of them far ahead.
--
-- A number counts as used where it is only referred to: what gets it now would be taken for what had it. But for sessions, which own
-- nothing that outlives them. (tests/migration/test_catalog.py holds this list against the catalog.)
WITH used (sequence, number, of) AS (
     SELECT 'session_id_seq', max(id) >> 20, 'session.id' FROM pgstore.session  -- 20 random bits below the sequence's value
      UNION ALL
     SELECT 'store_id_seq', max(id) >> 20, 'store.id' FROM pgstore.store
      UNION ALL
     SELECT 'dict_revision_seq', max(revision), 'dict_entry.revision' FROM pgstore.dict_entry
      UNION ALL
     SELECT 'dict_revision_seq', max(revision), 'dict_change.revision' FROM pgstore.dict_change
      UNION ALL
     SELECT 'dict_change_id_seq', max(id), 'dict_change.id' FROM pgstore.dict_change
      UNION ALL
     SELECT 'dict_lock_token_seq', max(token), 'dict_lock.token' FROM pgstore.dict_lock
      UNION ALL
     SELECT 'queue_item_id_seq', max(id), 'queue_item.id' FROM pgstore.queue_item
      UNION ALL
     SELECT 'queue_item_id_seq', max(low) - 1, 'queue_head.low' FROM pgstore.queue_head
      UNION ALL
     SELECT 'queue_deferred_id_seq', max(id), 'queue_deferred.id' FROM pgstore.queue_deferred
      UNION ALL
     SELECT 'queue_deferred_id_seq', max(lease_id), 'spawned_call.lease_id' FROM pgstore.spawned_call
      UNION ALL
     SELECT 'call_id_seq', max(id) >> 20, 'spawned_call.id' FROM pgstore.spawned_call
      UNION ALL
     SELECT 'blob_id_seq', max(id), 'blob.id' FROM pgstore.blob
      UNION ALL
     SELECT 'blob_id_seq', max(blob_id), 'extent.blob_id' FROM pgstore.extent
      UNION ALL
     SELECT 'blob_id_seq', max(blob_id), 'inode.blob_id' FROM pgstore.inode
      UNION ALL
     SELECT 'blob_id_seq', max(blob_id), 'blob_candidate.blob_id' FROM pgstore.blob_candidate
      UNION ALL
     SELECT 'chunk_id_seq', max(id), 'chunk.id' FROM pgstore.chunk
      UNION ALL
     SELECT 'chunk_id_seq', max(chunk_id), 'extent.chunk_id' FROM pgstore.extent
      UNION ALL
     SELECT 'chunk_id_seq', max(chunk_id), 'chunk_candidate.chunk_id' FROM pgstore.chunk_candidate
      UNION ALL
     SELECT 'chunk_id_seq', max(chunk_id), 'large_object_left.chunk_id' FROM pgstore.large_object_left
      UNION ALL
     SELECT 'inode_seq', greatest(max(ino::bigint), max(parent::bigint)), 'inode.ino, inode.parent' FROM pgstore.inode
      UNION ALL
     SELECT 'inode_seq', greatest(max(ino::bigint), max(parent::bigint)), 'dirent.ino, dirent.parent' FROM pgstore.dirent
      UNION ALL
     SELECT 'inode_seq', max(ino::bigint), 'inode_pin.ino' FROM pgstore.inode_pin
      UNION ALL
     SELECT 'inode_seq', max(ino::bigint), 'file_lock.ino' FROM pgstore.file_lock
), position (sequence, next) AS (
     SELECT 'session_id_seq', last_value + is_called::integer FROM pgstore.session_id_seq
      UNION ALL
     SELECT 'store_id_seq', last_value + is_called::integer FROM pgstore.store_id_seq
      UNION ALL
     SELECT 'dict_revision_seq', last_value + is_called::integer FROM pgstore.dict_revision_seq
      UNION ALL
     SELECT 'dict_change_id_seq', last_value + is_called::integer FROM pgstore.dict_change_id_seq
      UNION ALL
     SELECT 'dict_lock_token_seq', last_value + is_called::integer FROM pgstore.dict_lock_token_seq
      UNION ALL
     SELECT 'queue_item_id_seq', last_value + is_called::integer FROM pgstore.queue_item_id_seq
      UNION ALL
     SELECT 'queue_deferred_id_seq', last_value + is_called::integer FROM pgstore.queue_deferred_id_seq
      UNION ALL
     SELECT 'call_id_seq', last_value + is_called::integer FROM pgstore.call_id_seq
      UNION ALL
     SELECT 'blob_id_seq', last_value + is_called::integer FROM pgstore.blob_id_seq
      UNION ALL
     SELECT 'chunk_id_seq', last_value + is_called::integer FROM pgstore.chunk_id_seq
      UNION ALL
     SELECT 'inode_seq', last_value + is_called::integer FROM pgstore.inode_seq
)
SELECT p.sequence, p.next, u.number AS used, u.of
  FROM position p
  JOIN used u ON u.sequence = p.sequence
 WHERE u.number >= p.next;
