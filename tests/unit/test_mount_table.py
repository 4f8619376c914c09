"""What is mounted where."""

from __future__ import annotations

from pgstore.mount import mount_table
from pgstore.mount.mount_table import Mount

TABLE = (
    b"22 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n"
    b"43 22 0:40 / /tmp/a\\040b\\134c\\011d\xff rw,nosuid shared:7 master:1 - fuse.pgstore volume:x\\040y rw,user_id=0\n"
    b"44 22 0:41 / /data rw - fuse.sshfs h:/ rw\n"
)


def test_mounts_are_read_with_their_paths_as_they_are():
    """
    The kernel writes spaces, tabs, newlines and backslashes as three octal digits; optional fields stand before the dash.
    """
    found = mount_table.mounts(TABLE)

    assert found == [
        Mount(22, "254:0", "/", "ext4", "/dev/vda"),
        Mount(43, "0:40", "/tmp/a b\\c\td\udcff", "fuse.pgstore", "volume:x y"),
        Mount(44, "0:41", "/data", "fuse.sshfs", "h:/"),
    ]


def test_the_root_of_this_machine_is_found():
    assert mount_table.mounts_at("/")[0].path == "/"
    assert mount_table.mounts_at("/no/such/mount") == []
