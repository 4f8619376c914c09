"""The bytes of one file and its copies, against bytearrays: whatever is written, cut, grown, appended and copied."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fixtures.depth import examples
from tests.fixtures.live import LiveFiles, assert_sound

KIB = 1024
INLINE = 64 * KIB
CHUNK = 8 * KIB
EDGES = [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK, INLINE - 1, INLINE, INLINE + 1, 11 * CHUNK, 20 * CHUNK + 7]
places = st.one_of(st.sampled_from(EDGES), st.integers(0, 24 * CHUNK))
lengths = st.one_of(st.sampled_from([1, 7, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK]), st.integers(1, 10 * CHUNK))
fills = st.integers(0, 255)


@dataclass
class Write:
    offset: int
    length: int
    fill: int


@dataclass
class Append:
    length: int
    fill: int


@dataclass
class Truncate:
    size: int


@dataclass
class Copy:
    pass


@dataclass
class Read:
    offset: int
    length: int


steps = st.tuples(
    st.integers(0, 3),  # which file
    st.one_of(
        st.builds(Write, places, lengths, fills),
        st.builds(Append, lengths, fills),
        st.builds(Truncate, places),
        st.builds(Copy),
        st.builds(Read, places, lengths),
    ),
)


def data(fill: int, length: int) -> bytes:
    return bytes((fill + at // 100) % 256 for at in range(length))


@settings(
    max_examples=examples(30),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.lists(steps, min_size=1, max_size=12))
def test_files_hold_what_was_written_to_them(live_files: LiveFiles, script) -> None:
    files = {live_files.create(): bytearray()}

    for number, step in script:
        ino, model = list(files.items())[number % len(files)]
        match step:
            case Write(offset, length, fill):
                piece = data(fill, length)
                size = live_files.write(ino, offset, piece)
                model.extend(bytes(max(0, offset - len(model))))
                model[offset : offset + length] = piece
                assert size == len(model)
            case Append(length, fill):
                model += data(fill, length)
                assert live_files.append(ino, data(fill, length)) == len(model)
            case Truncate(size):
                live_files.truncate(ino, size)
                del model[size:]
                model.extend(bytes(size - len(model)))
            case Copy():
                files[live_files.copy(ino)] = bytearray(model)
            case Read(offset, length):
                assert live_files.read(ino, offset, length) == model[offset : offset + length]

    for ino, model in files.items():
        assert live_files.size(ino) == len(model)
        assert live_files.read(ino) == model
    assert_sound(live_files)
