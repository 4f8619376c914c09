"""What a mount shows of a file, whatever is written, cut, punched, uploaded, committed and given back, in any order."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pgstore.mount.contents.open_file import FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE, ContentsFile
from pgstore.mount.contents.ranges import Ranges
from tests.fixtures.depth import examples
from tests.fixtures.staged import assert_same

SPAN = 200_000  # several chunks, and more than is kept inline

offsets = st.one_of(
    st.integers(0, SPAN), st.sampled_from([0, 8191, 8192, 8193, 65535, 65536, 65537, 131072]), st.integers(0, 300)
)
lengths = st.one_of(st.integers(1, 300), st.integers(1, 40_000), st.sampled_from([4096, 8192, 65536]))
steps = st.one_of(
    st.tuples(st.just("write"), offsets, lengths),
    st.tuples(st.just("write"), offsets, lengths),
    st.tuples(st.just("append"), lengths, st.just(0)),
    st.tuples(st.just("truncate"), offsets, st.just(0)),
    st.tuples(st.just("punch"), offsets, lengths),
    st.tuples(st.just("read"), offsets, lengths),
    st.tuples(st.sampled_from(["upload", "sync", "keep", "relieve", "again"]), st.just(0), st.just(0)),
)


@settings(
    max_examples=examples(25),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.lists(st.tuples(st.booleans(), steps), max_size=25))
def test_a_file_is_what_was_done_to_it(staged_files, script):
    """
    Two open files of one inode see each other's writes; so does the database, once it was told to keep them.
    """
    contents = staged_files.create()
    model = bytearray()
    both = [ContentsFile(contents, os.O_RDWR), ContentsFile(contents, os.O_RDWR)]
    for number, (other, (what, offset, length)) in enumerate(script):
        file = both[other]
        data = bytes([number % 255 + 1]) * length
        match what:
            case "write":
                file.write(offset, data)
                model += bytes(max(0, offset + length - len(model)))
                model[offset : offset + length] = data
            case "append":
                contents.append(bytes([number % 255 + 1]) * offset)
                model += bytes([number % 255 + 1]) * offset
            case "truncate":
                contents.truncate(offset)
                model[offset:] = bytes(max(0, offset - len(model)))
            case "punch":
                file.allocate(FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, length)
                stop = min(offset + length, len(model))
                model[offset:stop] = bytes(max(0, stop - offset))
            case "read":
                assert_same(b"".join(file.read(offset, length)), model[offset : offset + length])
            case "upload":
                contents.upload()
            case "sync":
                file.sync()
            case "keep":
                staged_files.keep(contents)
                assert_same(staged_files.stored(contents.ino), model)
            case "relieve":
                file.sync()
                contents.relieve()
            case "again":
                staged_files.keep(contents)
                contents.release()
                contents = staged_files.again(contents.ino)
                both = [ContentsFile(contents, os.O_RDWR), ContentsFile(contents, os.O_RDWR)]
        assert contents.size_bytes == len(model)

    assert_same(b"".join(both[0].read(0, SPAN * 2)), model)
    staged_files.keep(contents)
    assert_same(staged_files.stored(contents.ino), model)
    contents.release()
    assert staged_files.shared.stage.bytes == 0


bounds = st.tuples(st.integers(0, 60), st.integers(0, 60)).map(sorted)


@given(st.lists(st.tuples(st.booleans(), bounds), max_size=40), bounds)
def test_ranges_are_a_set_of_offsets(changes, asked):
    """
    Compared with a set of integers; touching ranges are one.
    """
    ranges = Ranges()
    model: set[int] = set()

    for added, (start, end) in changes:
        offsets = set(range(start, end))
        if added:
            assert ranges.add(start, end) == len(offsets - model)
            model |= offsets
        else:
            assert ranges.remove(start, end) == len(offsets & model)
            model -= offsets

    start, end = asked
    expected = [x for x in sorted(model) if x - 1 not in model]
    assert [begin for begin, _ in ranges] == expected
    assert {x for begin, stop in ranges for x in range(begin, stop)} == model
    assert ranges.total == len(model)
    assert {x for begin, stop in ranges.within(start, end) for x in range(begin, stop)} == model & set(
        range(start, end)
    )
    assert {x for begin, stop in ranges.gaps(start, end) for x in range(begin, stop)} == set(range(start, end)) - model
    assert all(begin < stop for begin, stop in ranges.within(start, end))
    assert ranges.covers(start, end) == (set(range(start, end)) <= model)
    assert ranges.overlaps(start, end) == bool(set(range(start, end)) & model)
