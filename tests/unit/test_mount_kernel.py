"""The FUSE protocol's structures and numbers, against the header of the kernel where it is installed."""

from __future__ import annotations

import fcntl
import re
from pathlib import Path

import pytest

from pgstore.mount import kernel
from pgstore.mount.kernel import Structure

HEADER = Path("/usr/include/linux/fuse.h")
WIDTHS = {"u16": 2, "u32": 4, "i32": 4, "u64": 8, "i64": 8}

# Those that the header of a distribution may be too old for; it is checked up to its own version.
LATER = {
    "BACKING_MAP",
    "COPY_FILE_RANGE_64",
    "DIRECT_IO_ALLOW_MMAP",
    "FOPEN_PASSTHROUGH",
    "NOTIFY_INC_EPOCH",
    "PASSTHROUGH",
}

# What is read of these is their beginning: what older kernels send, and what is sent where an extension is not asked for.
SHORTENED = {"INIT_IN", "SETXATTR_IN"}


SPARE = ("padding", "unused", "spare")  # in an older header also what has got a name since


def version_of(header: str) -> int:
    (version,) = map(int, re.findall(r"FUSE_KERNEL_MINOR_VERSION (\d+)", header))
    return version


def structures() -> dict[str, Structure]:
    return {name: each for name, each in vars(kernel).items() if isinstance(each, Structure)}


@pytest.fixture(scope="module")
def header() -> str:
    if not HEADER.exists():
        pytest.skip(f"{HEADER} is not installed")
    return re.sub(r"/\*.*?\*/", "", HEADER.read_text(), flags=re.DOTALL)


def declared(header: str, name: str) -> list[tuple[int, str]]:
    """The fields of a structure with their widths, those of structures within it among them."""
    body = re.search(rf"struct {name} \{{(.*?)\n\}};", header, re.DOTALL)
    assert body, f"the header has no {name}"
    fields: list[tuple[int, str]] = []
    for width, inner, field, count in re.findall(r"(?:u?int(\d+)_t|struct (\w+))\s+(\w+)(?:\[(\d*)\])?;", body[1]):
        if inner:
            fields += declared(header, inner)
        elif width:
            fields += [(int(width) // 8, field)] * int(count or 1)
    return fields


@pytest.mark.parametrize("name", sorted(set(structures()) - {"COPY_FILE_RANGE_OUT"}))
def test_structures_lie_as_the_kernel_has_them(header, name):
    if name in LATER and version_of(header) < kernel.MINOR:
        pytest.skip("the header is too old")
    ours = [(WIDTHS[width], field) for width, field in (each.split() for each in structures()[name].fields)]
    theirs = declared(header, f"fuse_{name.lower()}")
    if name in SHORTENED:
        theirs = theirs[: len(ours)]

    assert [width for width, _ in ours] == [width for width, _ in theirs]
    for (_, our_name), (_, their_name) in zip(ours, theirs, strict=True):
        assert our_name == their_name or our_name.startswith(SPARE) or their_name.startswith(SPARE)
    assert structures()[name].size == sum(width for width, _ in theirs)


def test_numbers_are_the_kernels(header):
    version = version_of(header)
    ours = {
        name: value
        for name, value in vars(kernel).items()
        if name.isupper() and isinstance(value, int) and not name.startswith("_")
    }
    own = {"MAJOR", "MINOR", "MINOR_NEEDED", "PAGE", "DATA_BYTES_MAX", "MINOR_OF_INC_EPOCH", "BACKING_ID_BYTES"}
    assert {name: ours.pop(name) for name in ("F_RDLCK", "F_WRLCK", "F_UNLCK")} == {
        "F_RDLCK": fcntl.F_RDLCK,
        "F_WRLCK": fcntl.F_WRLCK,
        "F_UNLCK": fcntl.F_UNLCK,
    }
    assert hex(ours.pop("DEV_IOC_BACKING_OPEN")) == "0x4010e501"  # as a C compiler has them
    assert hex(ours.pop("DEV_IOC_BACKING_CLOSE")) == "0x4004e502"
    checked = 0
    for name, value in ours.items():
        prefixed = name if name.startswith(("FATTR_", "FOPEN_")) else f"FUSE_{name}"
        if name in own or (name in LATER and version < kernel.MINOR):
            continue
        found = re.search(rf"\b{prefixed}\s*=?\s*(?:\((\d+)U?L*\s*<<\s*(\d+)\)|(\d+))", header)
        assert found, f"the header has no {prefixed}"
        assert value == (int(found[1]) << int(found[2]) if found[1] else int(found[3])), prefixed
        checked += 1
    assert checked > 60


def test_fields_that_mean_nothing_are_passed_over():
    structure = Structure("u32 first", "u32 padding", "i64 second")

    packed = structure.pack(1, -2)

    assert structure.size == len(packed) == 16
    assert structure.unpack_from(packed) == (1, -2)
