#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""scripts/demo.sh, and again after it was interrupted at any time. It is built here already: meson
and ninja are stand-ins that put the molt to be tested where the demo looks for it."""
import glob
import os
import shutil
import signal
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from moltvm import molt_binary, need_kvm, run_cases, write_script

DEMO = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../scripts/demo.sh")


class Tree:
    """A source tree with nothing but the script in it, deeper than a socket's path may be."""

    def __enter__(self):
        self.top = "/tmp/molt-demo-%d" % os.getpid()
        self.dir = os.path.join(self.top, "x" * 100)
        self.build = self.dir + "/build/demo"
        os.makedirs(self.dir + "/scripts")
        os.mkdir(self.dir + "/bin")
        shutil.copy(DEMO, self.dir + "/scripts/demo.sh")
        write_script(self.dir + "/scripts/install-deps.sh", "#!/bin/sh\n")
        write_script(self.dir + "/bin/ninja", "#!/bin/sh\ntest -f \"$2/build.ninja\"\n")
        # As meson: it begins with directories and fails in one that is half done.
        write_script(self.dir + "/bin/meson", '''#!/bin/sh
set -e
mkdir -p "$2"; mkdir "$2/meson-private"
if [ -e hang ]; then touch hangs; exec sleep 600; fi
ln -s "%s" "$2/molt"; touch "$2/build.ninja"
''' % molt_binary())
        return self

    def __exit__(self, *exc):
        for pid in self.molts():
            os.kill(pid, signal.SIGKILL)
        shutil.rmtree(self.top)

    def start(self):
        env = dict(os.environ, PATH=self.dir + "/bin:" + os.environ["PATH"])
        return subprocess.Popen(["sh", self.dir + "/scripts/demo.sh"], env=env,
                                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                stderr=subprocess.STDOUT, text=True, start_new_session=True)

    def molts(self):
        """Processes whose working directory is a demo's."""
        found = []
        for entry in os.listdir("/proc"):
            try:
                cwd = os.readlink("/proc/%s/cwd" % entry) if entry.isdigit() else ""
                if cwd.startswith(self.build + "/run."):
                    found.append(int(entry))
            except OSError:
                pass
        return found

    def works(self):
        demo = self.start()
        out = demo.communicate(timeout=60)[0]
        assert demo.returncode == 0 and "three updates in one process" in out, out
        assert not glob.glob(self.build + "/run.*"), out
        wait_for(lambda: not self.molts())  # a stand-in that takes memory apart outlives its molt a little


def wait_for(what):
    end = time.monotonic() + 30
    while not what():
        assert time.monotonic() < end
        time.sleep(0.02)


def interrupted(tree, ready, stop):
    demo = tree.start()
    wait_for(ready)
    stop(demo)
    status = demo.wait(30)
    demo.stdout.close()
    return status


def guest_runs(tree):
    return lambda: any(os.path.getsize(f) > 0 for f in glob.glob(tree.build + "/run.*/serial"))


def test_again_after_an_interrupted_build():
    with Tree() as tree:
        with open(tree.dir + "/hang", "w"):
            pass
        interrupted(tree, lambda: os.path.exists(tree.dir + "/hangs"),
                    lambda demo: os.killpg(demo.pid, signal.SIGINT))
        os.unlink(tree.dir + "/hang")
        tree.works()


def test_again_after_a_signal():
    """To all of the terminal's foreground (Ctrl-C) or to the script alone: nothing is left."""
    with Tree() as tree:
        for send, sig in ((os.killpg, signal.SIGINT), (os.kill, signal.SIGTERM),
                          (os.kill, signal.SIGHUP)):
            status = interrupted(tree, guest_runs(tree), lambda demo: send(demo.pid, sig))
            assert status == 128 + sig, status
            assert not tree.molts() and not glob.glob(tree.build + "/run.*")
        tree.works()


def test_again_after_a_kill():
    """The script cannot clean up: the next one does, and leaves the molt of one that runs alone."""
    with Tree() as tree:
        assert interrupted(tree, guest_runs(tree),
                           lambda demo: os.kill(demo.pid, signal.SIGKILL)) == -signal.SIGKILL
        left = tree.molts()
        assert left
        other = tree.start()
        wait_for(lambda: not set(left) & set(tree.molts()) and guest_runs(tree)())
        beside = tree.start()
        for demo in (other, beside):
            out = demo.communicate(timeout=60)[0]
            assert demo.returncode == 0 and "three updates in one process" in out, out
        assert not tree.molts() and not glob.glob(tree.build + "/run.*")


need_kvm()
run_cases(globals())
