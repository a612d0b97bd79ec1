# SPDX-License-Identifier: MIT
"""Kernel modules out of an unpacked kernel package, in the order in which insmod can load them.

The package has no modules.dep (its installation would make it), so each module is asked: its .modinfo section says
"depends=a,b".
"""

import lzma
import os
import re
import subprocess


class ModuleSet:
    def __init__(self, directory):
        """directory: the package's lib/modules/VERSION"""
        self.paths = {}
        for base, _, names in os.walk(os.path.join(directory, "kernel")):
            for name in names:
                found = re.fullmatch(r"(.+)\.ko(\.xz|\.zst)?", name)
                if found:
                    self.paths[canonical(found.group(1))] = os.path.join(base, name)
        with open(os.path.join(directory, "modules.builtin")) as f:
            self.builtin = {canonical(os.path.basename(line.strip())[:-3]) for line in f}

    def load_order(self, wanted):
        """[(name, bytes)] of the wanted modules after all that they depend on; what is built in is left out."""
        ordered = {}
        for name in wanted:
            self._add(canonical(name), ordered)
        return list(ordered.items())

    def _add(self, name, ordered):
        if name in ordered or name in self.builtin:
            return
        if name not in self.paths:
            raise KeyError(f"this kernel has no module {name}")
        image = read(self.paths[name])
        for dependency in depends(image):
            self._add(canonical(dependency), ordered)
        ordered[name] = image


def canonical(name):
    return name.replace("-", "_")


def read(path):
    """The module uncompressed: busybox's insmod hands it to the kernel as it is."""
    if path.endswith(".zst"):
        return subprocess.run(["zstd", "-dcq", path], stdout=subprocess.PIPE, check=True).stdout
    with open(path, "rb") as f:
        image = f.read()
    return lzma.decompress(image) if path.endswith(".xz") else image


def depends(image):
    found = re.search(rb"\0depends=([^\0]*)\0", image)
    return found.group(1).decode().split(",") if found and found.group(1) else []
