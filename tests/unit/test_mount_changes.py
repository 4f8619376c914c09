"""Which attributes are too old to be given to the kernel."""

from __future__ import annotations

from pgstore.mount.changes import RecentChanges


def test_what_has_changed_after_it_was_read_is_known():
    changes = RecentChanges()
    changes.note(1)
    then = changes.now
    changes.note(2)

    assert [changes.since(ino, then) for ino in (1, 2, 3)] == [False, True, False]
    assert not changes.all_since(then)
    assert not changes.since(2, changes.now)


def test_when_anything_may_have_changed_all_has():
    changes = RecentChanges()
    then = changes.now
    changes.note_all()

    assert changes.all_since(then)
    assert changes.since(7, then)
    assert not changes.since(7, changes.now)


def test_what_is_not_remembered_any_more_counts_as_changed():
    changes = RecentChanges(remembered_max=2)
    before = changes.now
    changes.note(1)
    then = changes.now
    for ino in (2, 3, 2):
        changes.note(ino)

    assert changes.since(9, before)
    assert not changes.since(9, then)
    assert changes.since(2, then)
    assert changes.since(3, then)
