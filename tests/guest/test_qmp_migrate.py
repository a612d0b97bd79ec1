#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""
QEMU's own sequence for cpr-exec, as its docs/devel/migration/CPR.rst tells it and as a controller
written for QEMU sends it: molt is updated by it, and nothing in it had to be changed.
"""
import os
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from moltvm import Qmp, Vm, expect_error, molt_binary, need_kvm, run_cases, write_script

FINAL = ("completed", "failed", "cancelled")


def ticker(*args, **kw):
    return Vm("--memory", "32M", *args, cmdline="period_ms=20", **kw)


def file_channel(path):
    return [{"channel-type": "main", "addr": {"transport": "file", "filename": path, "offset": 0}}]


def set_up(qmp, *command):
    qmp.command("migrate-set-capabilities",
                capabilities=[{"capability": "events", "state": True}])
    qmp.command("migrate-set-parameters", mode="cpr-exec")
    qmp.command("migrate-set-parameters", cpr_exec_command=list(command))


def wait_for_the_end(qmp, timeout=60):
    """As controllers do that poll."""
    end = time.monotonic() + timeout
    while True:
        query = qmp.command("query-migrate")
        if query.get("status") in FINAL:
            return query
        assert time.monotonic() < end, query
        time.sleep(0.01)


def migration_states(qmp):
    qmp.command("query-status")
    return [ev["data"]["status"] for ev in qmp.events if ev["event"] == "MIGRATION"]


def names(qmp):
    return [ev["event"] for ev in qmp.events
            if ev["event"] in ("STOP", "RESUME", "MIGRATION", "UPDATE_COMPLETED")]


# ---- it works ----

def test_the_sequence():
    with ticker() as vm:
        vm.wait_ticks(2)
        qmp = Qmp(vm.control_path, negotiate=False)
        assert "QMP" in qmp.greeting
        qmp.command("qmp_capabilities")
        assert qmp.command("query-migrate") == {}
        for i in range(3):
            state = vm.path("vm.state")
            qmp.events.clear()
            set_up(qmp, molt_binary(), "run", "--incoming", "file:" + state)
            assert qmp.command("migrate", uri="file:" + state) == {}
            assert wait_for_the_end(qmp)["status"] == "completed"
            assert migration_states(qmp) == ["setup", "active", "completed"], qmp.events
            order = names(qmp)
            assert order.index("STOP") < order.index("RESUME"), order
            status = qmp.command("query-status")
            assert status["status"] == "running" and status["running"], status
            assert qmp.command("query-update")["updates"] == i + 1
            assert vm.proc.poll() is None
            vm.wait_ticks(2)
        vm.check_ticks()


def test_channels():
    with ticker() as vm:
        vm.wait_ticks(2)
        for _ in range(2):
            set_up(vm.qmp, molt_binary(), "run")
            vm.qmp.command("migrate", channels=file_channel(vm.path("vm.state")))
            assert wait_for_the_end(vm.qmp)["status"] == "completed"
        assert vm.arguments()[-2:] == ["--incoming", "file:" + vm.path("vm.state")]
        vm.wait_ticks(2)
        vm.check_ticks()


def test_relative_file():
    """QEMU's document says `migrate file:vm.state`: a file in the working directory."""
    with ticker(start=False) as vm:
        vm.popen["cwd"] = vm.dir
        vm.start()
        vm.wait_ticks(2)
        set_up(vm.qmp, molt_binary(), "run", "--incoming", "file:vm.state")
        vm.qmp.command("migrate", uri="file:vm.state")
        assert wait_for_the_end(vm.qmp)["status"] == "completed"
        vm.wait_for(lambda: os.path.exists(vm.path("vm.state")), "the copy of the state")
        vm.wait_ticks(2)
        vm.check_ticks()


def test_wrapper_script_with_arguments():
    with ticker() as vm:
        vm.wait_ticks(2)
        script = write_script(vm.path("qemu"), '#!/bin/sh\nexec %s "$@"\n' % molt_binary())
        set_up(vm.qmp, script, "run", "--log-level", "debug", "--incoming",
               "file:" + vm.path("vm.state"))
        vm.qmp.command("migrate", uri="file:" + vm.path("vm.state"), detach=True)
        assert wait_for_the_end(vm.qmp)["status"] == "completed"
        assert "debug" in vm.arguments()
        vm.wait_ticks(2)


def test_by_events_alone():
    with ticker() as vm:
        other = Qmp(vm.control_path)
        set_up(vm.qmp, molt_binary(), "run")
        vm.qmp.command("migrate", uri="file:" + vm.path("vm.state"))
        for state in ("setup", "active", "completed"):
            assert other.wait_event("MIGRATION")["data"] == {"status": state}
        assert other.command("query-migrate")["status"] == "completed"


def test_paused_guest():
    """No STOP, no RESUME: nothing was stopped."""
    with ticker() as vm:
        vm.wait_ticks(1)
        vm.qmp.command("stop")
        vm.qmp.wait_event("STOP")
        set_up(vm.qmp, molt_binary(), "run")
        vm.qmp.command("migrate", uri="file:" + vm.path("vm.state"))
        assert wait_for_the_end(vm.qmp)["status"] == "completed"
        assert migration_states(vm.qmp) == ["setup", "active", "completed"]
        assert not {"STOP", "RESUME"} & set(names(vm.qmp)), vm.qmp.events
        assert vm.qmp.command("query-status")["status"] == "paused"


def test_parameters():
    with ticker("--pause") as vm:
        assert vm.qmp.command("query-migrate-parameters")["mode"] == "normal"
        set_up(vm.qmp, "/x/molt", "run", "-v")
        got = vm.qmp.command("query-migrate-parameters")
        assert got["mode"] == "cpr-exec" and got["cpr-exec-command"] == ["/x/molt", "run", "-v"]
        for wrong in ({"mode": "cpr-reboot"}, {"mode": 5}, {"cpr_exec_command": "molt"},
                      {"cpr_exec_command": []}, {"cpr_exec_command": [1]}):
            expect_error(lambda w=wrong: vm.qmp.command("migrate-set-parameters", **w), "parameter")
        assert vm.qmp.command("query-migrate-parameters") == got
        expect_error(lambda: vm.qmp.command(
            "migrate-set-capabilities", capabilities=[{"capability": "xbzrle", "state": True}]),
            "xbzrle")


# ---- it does not ----

def test_refusals_come_at_once():
    """A reader at the other end would have to be served by a process that is gone."""
    with ticker() as vm:
        vm.wait_ticks(1)
        set_up(vm.qmp, molt_binary(), "run")
        for uri in ("tcp:127.0.0.1:4444", "tcp:[::1]:0", "unix:" + vm.path("sock"),
                    "exec:cat >" + vm.path("out"), "fd:5", "vsock:2:1", "rdma:host:1", "", "file",
                    "file:" + vm.path("x") + ",offset=0x1000"):
            began = time.monotonic()
            expect_error(lambda u=uri: vm.qmp.command("migrate", uri=u), "'%s'" % uri,
                         "use file:PATH")
            assert time.monotonic() - began < 5
        for addr, word in (({"transport": "socket", "type": "unix", "path": "/x"}, "socket"),
                           ({"transport": "exec", "args": ["/bin/cat"]}, "exec"),
                           ({"transport": "rdma", "host": "x", "port": "1"}, "rdma"),
                           ({"transport": "file", "filename": "/x", "offset": 4096}, "offset"),
                           ({"transport": "file"}, "filename"), ({}, "addr")):
            expect_error(lambda a=addr: vm.qmp.command(
                "migrate", channels=[{"channel-type": "main", "addr": a}]), word)
        expect_error(lambda: vm.qmp.command("migrate"), "uri")
        expect_error(lambda: vm.qmp.command("migrate", uri="file:/x", channels=file_channel("/x")),
                     "uri")
        assert not os.path.exists(vm.path("out"))
        assert names(vm.qmp) == []  # not one event: nothing was begun
        assert vm.qmp.command("query-migrate") == {}
        vm.wait_ticks(2)
        vm.check_ticks()


def test_mode_and_command_are_needed():
    with ticker() as vm:
        uri = "file:" + vm.path("vm.state")
        expect_error(lambda: vm.qmp.command("migrate", uri=uri), "cpr-exec")
        vm.qmp.command("migrate-set-parameters", mode="cpr-exec")
        expect_error(lambda: vm.qmp.command("migrate", uri=uri), "cpr-exec-command")
        vm.qmp.command("migrate-set-parameters", mode="normal",
                       cpr_exec_command=[molt_binary(), "run"])
        expect_error(lambda: vm.qmp.command("migrate", uri=uri), "cpr-exec")
        assert not os.path.exists(vm.path("vm.state"))


def fails(vm, uri, command, *words):
    vm.qmp.events.clear()
    set_up(vm.qmp, *command)
    assert vm.qmp.command("migrate", uri=uri) == {}
    query = wait_for_the_end(vm.qmp)
    assert query["status"] == "failed", query
    for word in words:
        assert word in query["error-desc"], query
    assert migration_states(vm.qmp)[-1] == "failed", vm.qmp.events
    order = [n for n in names(vm.qmp) if n != "MIGRATION"]
    assert order in ([], ["STOP", "RESUME"]), order
    assert vm.running()


def test_failures():
    with ticker() as vm:
        vm.wait_ticks(2)
        state = "file:" + vm.path("vm.state")
        fails(vm, state, ["/no/such/molt", "run"], "/no/such/molt")
        fails(vm, state, [vm.dir], "directory")
        fails(vm, "file:/no/such/dir/state", [molt_binary(), "run"], "/no/such/dir/state")
        fails(vm, "file:" + vm.dir, [molt_binary(), "run"], "directory")
        vm.wait_ticks(2)
        set_up(vm.qmp, molt_binary(), "run")
        vm.qmp.command("migrate", uri=state)
        assert wait_for_the_end(vm.qmp)["status"] == "completed"
        vm.wait_ticks(2)
        vm.check_ticks()


need_kvm()
run_cases(globals())
