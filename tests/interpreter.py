"""Our interpreter where every uid of this machine may start it: it may lie in somebody's closed home."""

import os
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
# In mounts of its own: the closed folder ($1) becomes an open one, with nothing in it but what is needed ($3 …).
OPEN = """
closed=$1 aside=$2; shift 2
number=0
for folder; do
    test "$folder" = -- && break
    number=$((number + 1)); mkdir "$aside/$number"; mount --bind "$folder" "$aside/$number"
done
mount -t tmpfs -o mode=755 none "$closed"
number=0
while test "$1" != --; do
    number=$((number + 1)); mkdir -p "$1"; mount --bind "$aside/$number" "$1"; shift
done
shift; exec "$@"
"""


def openly(program: list[str], aside: Path) -> list[str]:
    """The command that runs `program` so; `aside` is an empty folder. As no root, `program` itself."""
    prefix = Path(sys.base_prefix)
    closed = [folder for folder in reversed(prefix.parents) if not folder.stat().st_mode & 0o001]
    if os.geteuid() != 0 or not closed:
        return program
    needed = [str(folder) for folder in (prefix, PROJECT) if folder.is_relative_to(closed[0])]
    script = ["/bin/sh", "-ec", OPEN, "openly", str(closed[0]), str(aside), *needed, "--"]
    return ["/usr/bin/unshare", "--mount", *script, *program]
