# SPDX-License-Identifier: MIT
"""Control groups for tests, of either version: made at the top of the hierarchy, and removed with what was in them."""
import contextlib
import os
import signal
import tempfile

from moltvm import Skip

TOP = "/sys/fs/cgroup"
# Of each controller: a file that only version 1 has, and the limit's file in versions 1 and 2.
CONTROLLERS = {
    "memory": ("memory.limit_in_bytes", "memory.limit_in_bytes", "memory.max"),
    "pids": ("tasks", "pids.max", "pids.max"),
}


def number(path):
    with open(path) as f:
        return int(f.read())


def write(path, value):
    with open(path, "w") as f:
        f.write(str(value))


class Group:
    def __init__(self, path, controller, version):
        self.path, self.controller, self.version = path, controller, version

    def file(self, name):
        return os.path.join(self.path, name)

    def limit_file(self):
        return self.file(CONTROLLERS[self.controller][self.version])

    def set_limit(self, value):
        """None: no limit."""
        write(self.limit_file(), ("max" if self.version == 2 or self.controller == "pids" else -1)
              if value is None else value)

    def enter(self):
        """For preexec_fn."""
        write(self.file("cgroup.procs"), 0 if self.version == 2 else os.getpid())

    def used(self):
        if self.controller == "pids":
            return number(self.file("pids.current"))
        return number(self.file("memory.usage_in_bytes" if self.version == 1 else "memory.current"))

    def reclaim(self):
        """Frees page cache and the like, as far as the kernel lets us."""
        try:
            write(self.file("memory.force_empty" if self.version == 1 else "memory.reclaim"),
                  0 if self.version == 1 else "1G")
        except OSError:
            pass  # not all of it could be freed; before Linux 5.19 version 2 has no such file

    def peak(self):
        path = self.file("memory.max_usage_in_bytes" if self.version == 1 else "memory.peak")
        if not os.path.exists(path):
            raise Skip("this kernel keeps no peak (before Linux 5.19)")
        return number(path)

    def killed(self):
        """How many processes the out-of-memory killer has ended."""
        with open(self.file("memory.oom_control" if self.version == 1 else "memory.events")) as f:
            found = dict(line.split() for line in f)
        return int(found["oom_kill"])

    @contextlib.contextmanager
    def child(self):
        if self.version == 2:
            write(self.file("cgroup.subtree_control"), "+" + self.controller)
        with new_group(self.path, self.controller, self.version) as group:
            yield group


@contextlib.contextmanager
def new_group(base, controller, version):
    try:
        path = tempfile.mkdtemp(prefix="molt-test-", dir=base)
    except OSError as why:
        raise Skip("no control group can be made here: %s" % why) from why
    os.chmod(path, 0o755)  # as others are
    try:
        yield Group(path, controller, version)
    finally:
        for _ in range(200):
            try:
                os.rmdir(path)
                break
            except OSError:
                signal.sigtimedwait([], 0.05)


@contextlib.contextmanager
def control_group(controller="memory", limit=None):
    """A group with a limit of that controller."""
    if os.getuid() != 0:
        raise Skip("only root makes control groups")
    one = os.path.join(TOP, controller)
    version = 1 if os.path.exists(os.path.join(one, CONTROLLERS[controller][0])) else 2
    base = one if version == 1 else TOP
    if version == 2:
        try:
            write(os.path.join(base, "cgroup.subtree_control"), "+" + controller)
        except OSError as why:
            raise Skip("no %s controller for groups here: %s" % (controller, why)) from why
    with new_group(base, controller, version) as group:
        if limit is not None:
            group.set_limit(limit)
        yield group
