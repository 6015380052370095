"""Two folders exchanged in a single step, so that neither place is ever empty.

Python has no function for it, and a folder cannot be renamed onto one that is not empty.
"""

import ctypes
import errno
import os
from pathlib import Path

# Of Linux: paths count from the working folder; a rename exchanges its two paths.
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
_IMPOSSIBLE = (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP)


def exchange(one: Path, other: Path) -> bool:
    """Exchange two paths of one file system; return False where the file system cannot (NFS).

    Raises:
        OSError: a path is missing or not writable; nothing has changed.
    """
    function = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if function is None:
        return False
    if function(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE):
        number = ctypes.get_errno()
        if number in _IMPOSSIBLE:
            return False
        raise OSError(number, os.strerror(number), str(other))
    return True
