"""The group `disk`: the file that is the guests' disk, the same for all peers."""

import atexit
import os
import tempfile

MIB = 1 << 20
# All of it fits into the host's page cache: it is the way there that is measured, not the host's storage.
BYTES = 256 * MIB
GROUP = "disk"


def prepare(options, known, names):
    """Sets options.disk if one of the rows needs it; gone with this process."""
    if not any(name in known and known[name][0] == GROUP for name in names):
        return
    # Not where a temporary file system may be: both of its peers would be spared the file system's work.
    with tempfile.NamedTemporaryFile(prefix="trivisor-bench.", suffix=".raw", dir="/var/tmp", delete=False) as f:
        options.disk = f.name
        atexit.register(os.unlink, f.name)
        block = bytes(i * 7 % 251 for i in range(4096))
        for i in range(BYTES // 4096):
            f.write(i.to_bytes(8, "little") + block[8:])

