# SPDX-License-Identifier: MIT
"""Write an initramfs: the "newc" cpio archive that Linux unpacks at boot."""

import os
import stat


class Archive:
    """Files are added in order; a file's parent directories are added for it."""

    def __init__(self):
        self.chunks = []
        self.made = set()
        self.inode = 0

    def _entry(self, name, mode, data=b"", rdev=(0, 0)):
        self.inode += 1
        name = os.fsencode(name) + b"\0"
        fields = (self.inode, mode, 0, 0, 1, 0, len(data), 0, 0, rdev[0], rdev[1], len(name), 0)
        header = b"070701" + b"".join(b"%08X" % field for field in fields) + name
        self.chunks += [header, bytes(-len(header) % 4), data, bytes(-len(data) % 4)]

    def directory(self, name):
        name = name.strip("/")
        if name and name not in self.made:
            self.directory(os.path.dirname(name))
            self.made.add(name)
            self._entry(name, stat.S_IFDIR | 0o755)

    def _leaf(self, name):
        self.directory(os.path.dirname(name.strip("/")))
        return name.strip("/")

    def file(self, name, data, mode=0o644):
        self._entry(self._leaf(name), stat.S_IFREG | mode, data)

    def copy(self, name, source, mode=0o755):
        with open(source, "rb") as f:
            self.file(name, f.read(), mode)

    def symlink(self, name, target):
        self._entry(self._leaf(name), stat.S_IFLNK | 0o777, os.fsencode(target))

    def device(self, name, major, minor):
        self._entry(self._leaf(name), stat.S_IFCHR | 0o600, rdev=(major, minor))

    def write(self, path):
        """Replace path at once, so that a reader never sees half an archive."""
        self._entry("TRAILER!!!", 0)
        temporary = f"{path}.{os.getpid()}"
        with open(temporary, "wb") as f:
            f.writelines(self.chunks)
        os.rename(temporary, path)
