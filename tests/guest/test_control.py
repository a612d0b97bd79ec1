#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The control socket of a real molt: who may connect, what is answered, what survives an update."""
import os
import random
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from moltvm import (Qmp, QmpError, Skip, Vm, expect_error, molt, molt_binary, need_kvm, run_cases,
                    write_script)

TICKER = "period_ms=20"
MAX_CLIENTS = 32


def ticker(*args, **kw):
    return Vm("--memory", "32M", *args, cmdline=TICKER, **kw)


def listening(path):
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(path)
    sock.listen()
    return sock


# ---- the socket's file ----

def test_only_the_owner_may_connect():
    with ticker(umask=0) as vm:
        assert stat.S_IMODE(os.stat(vm.control_path).st_mode) == 0o600
        vm.update()
        assert stat.S_IMODE(os.stat(vm.control_path).st_mode) == 0o600


def test_another_user_is_told_that_it_is_refused():
    """Where somebody relaxed the file's mode; before an update and after it."""
    if os.getuid() != 0:
        raise Skip("only root can become another user")
    with ticker() as vm, tempfile.TemporaryDirectory() as place:
        client = shutil.copy(molt_binary(), place)
        os.chmod(place, 0o755)
        os.chmod(vm.dir, 0o755)
        os.chmod(vm.control_path, 0o666)
        for _ in range(2):
            done = molt("ctl", vm.control_path, "query-status", binary=client, user=65534,
                        group=65534, extra_groups=[])
            assert done.returncode == 1 and not done.stdout, done
            assert "user 65534 was refused, only user 0 and root may connect" in done.stderr, done
            assert vm.running()
            vm.update()


def test_path_is_removed_at_the_end():
    for updates in (0, 2):
        with ticker() as vm:
            for _ in range(updates):
                vm.update()
            vm.qmp.command("quit")
            assert vm.wait_exit(20) == 0
            assert not os.path.exists(vm.control_path)


def test_another_ones_path_is_not_removed():
    with ticker() as vm:
        vm.qmp.command("query-status")
        os.unlink(vm.control_path)
        with listening(vm.control_path):
            vm.qmp.command("quit")
            assert vm.wait_exit(20) == 0
        assert os.path.exists(vm.control_path)


def test_stale_socket_is_replaced():
    with ticker(start=False) as vm:
        listening(vm.control_path).close()
        vm.start()
        assert vm.running()
        vm.update()
        vm.signal(signal.SIGKILL)
        assert vm.wait_exit(20) == -signal.SIGKILL
        vm.kill()
        assert os.path.exists(vm.control_path)  # nobody could remove it
        vm.start()
        assert vm.running()


def refused_start(vm, *words):
    done = molt(*vm.argv[1:])
    assert done.returncode == 1, done
    for word in (vm.control_path, *words):
        assert word in done.stderr, done.stderr


def test_live_socket_is_refused():
    with ticker() as vm:
        refused_start(vm, "another process listens there")
        assert vm.running()
        vm.update()
        refused_start(vm, "another process listens there")
        assert vm.running()


def test_other_file_is_not_touched():
    with ticker() as vm:
        vm.control_path = vm.path("file")
        vm.argv[vm.argv.index("--control") + 1] = vm.control_path
        with open(vm.control_path, "w") as f:
            f.write("precious")
        refused_start(vm, "another kind of file")
        with open(vm.control_path) as f:
            assert f.read() == "precious"
        vm.control_path = vm.path("control")


# ---- messages ----

def test_greeting_and_version():
    with ticker() as vm:
        version = vm.qmp.greeting["QMP"]["version"]
        assert vm.qmp.command("query-version") == version
        assert vm.qmp.greeting["QMP"]["capabilities"] == []
        assert molt("version").stdout.split()[1] in str(version), version


def test_queries():
    with ticker("--name", "guest 1", "--cpus", "2") as vm:
        names = {c["name"] for c in vm.qmp.command("query-commands")}
        assert {"query-status", "query-version", "query-commands", "query-cpus-fast", "query-kvm",
                "query-name", "stop", "cont", "system_reset", "system_powerdown", "quit", "update",
                "query-update", "migrate-set-parameters", "query-migrate-parameters", "migrate",
                "query-migrate", "qmp_capabilities"} <= names, names
        for _ in range(2):
            assert vm.qmp.command("query-kvm") == {"enabled": True, "present": True}
            assert vm.qmp.command("query-name") == {"name": "guest 1"}
            assert [c["cpu-index"] for c in vm.qmp.command("query-cpus-fast")] == [0, 1]
            uuid = vm.qmp.command("query-uuid")
            vm.update()
            assert vm.qmp.command("query-uuid") == uuid
        for name in sorted(names):  # all can be asked for; those that need arguments say so
            if name.startswith("query-"):
                vm.qmp.command(name)


def test_ids_come_back():
    with ticker() as vm:
        for value in (0, "a", None, [1, {"b": 2}], {"x": []}, 1.5, True):
            for name in ("query-status", "no-such-command", "update"):
                vm.qmp.send(name, id=value)
                answer = vm.qmp.answer()
                assert answer["id"] == value and ("error" in answer) == (name[0] == "n"), answer


def test_unknown_things_are_errors():
    with ticker() as vm:
        expect_error(lambda: vm.qmp.command("no-such-command"), "no-such-command", "not been found")
        expect_error(lambda: vm.qmp.command("stop", now=True), "now", "unexpected")
        expect_error(lambda: vm.qmp.command("qmp_capabilities"), "already complete")
        vm.qmp.send_raw(b'{"execute": "stop", "extra": 1}')
        assert "extra" in vm.qmp.answer()["error"]["desc"]
        assert vm.running()


def test_garbage_is_answered_and_costs_one_message():
    with ticker() as vm:
        for garbage in (b"{]", b"}", b"[1, 2]\n", b"hello\n", b'"text"', b"{'execute': }", b"{}",
                        b'{"execute": 5}', b'{"execute": "stop", "execute": "stop"}', b"\xff",
                        b'{"a": "\xc3\x28"}', b"[" * 65 + b"\xff", b'{"execute": "sto\0"}'):
            vm.qmp.send_raw(garbage)
            answer = vm.qmp.answer()
            assert "error" in answer, (garbage, answer)
            # A control byte or 0xff forces a known state; whatever else it brings is an error.
            vm.qmp.send_raw(b"\xff\n")
            vm.qmp.send("query-status", id="sync")
            while answer.get("id") != "sync":
                answer = vm.qmp.answer()
                assert "error" in answer or answer.get("id") == "sync", (garbage, answer)
        assert vm.running()


def test_random_bytes_never_crash():
    rand = random.Random(1)
    with ticker() as vm:
        alphabet = b'{}[]":,\\\'0123 \n\t\xff\x00etrue execute'
        for _ in range(60):
            client = Qmp(vm.control_path, negotiate=rand.random() < 0.5)
            client.sock.settimeout(0.2)
            try:
                client.send_raw(bytes(rand.choice(alphabet) for _ in range(rand.randint(1, 3000))))
            except OSError:
                pass
            client.close()
        assert vm.running()
        vm.update()
        assert vm.running()


def test_huge_message():
    with ticker() as vm:
        client = Qmp(vm.control_path)
        try:
            client.send_raw(b'{"execute": "' + b"x" * (1 << 20))
        except OSError:
            pass  # hung up before all was sent
        assert client.closed()
        vm.wait_log("over .* bytes")
        assert vm.running()


def test_largest_message():
    """A command's arguments may be long; an id longer than can be handed over fails the update alone."""
    with ticker() as vm:
        vm.qmp.send("x" * 60000, id=1)
        assert vm.qmp.answer()["error"]["class"] == "CommandNotFound"
        vm.qmp.send("update", id="y" * 50000)
        answer = vm.qmp.answer()
        assert "id" in answer["error"]["desc"] and answer["id"] == "y" * 50000, answer
        assert vm.running()
        vm.update()


# ---- several clients ----

def test_clients_survive_updates():
    with ticker() as vm:
        clients = [Qmp(vm.control_path) for _ in range(5)]
        raw = Qmp(vm.control_path, negotiate=False)
        for i in range(3):
            vm.update()
            for client in clients:
                assert client.wait_event("UPDATE_COMPLETED")["data"]["updates"] == i + 1
                assert client.command("query-status")["running"]
            raw.send("query-status")
            error = raw.answer()["error"]
            assert error["class"] == "CommandNotFound" and "negotiation" in error["desc"], error
        assert not raw.events  # none before the negotiation
        raw.command("qmp_capabilities")
        assert raw.command("query-status")["running"]
        vm.update()
        assert raw.wait_event("UPDATE_COMPLETED")["data"]["updates"] == 4


def test_half_a_message_is_completed_after_the_update():
    with ticker() as vm:
        for cut in (1, 12, 25):
            text = b'{"execute": "query-status", "id": 7}\n'
            client = Qmp(vm.control_path)
            client.send_raw(text[:cut])
            vm.update()
            client.send_raw(text[cut:])
            answer = client.answer()
            assert answer["id"] == 7 and answer["return"]["running"], answer


def test_answers_not_yet_read_survive():
    """A client that sends a lot and reads nothing, with its requests and answers in many places."""
    with ticker() as vm:
        client = Qmp(vm.control_path)
        client.sock.settimeout(0.5)
        sent = 0
        try:
            while sent < 20000:
                client.send("query-commands", id=sent)
                sent += 1
            whole = True
        except socket.timeout:
            whole = False  # the last one may be there in part
        vm.update()
        vm.update()
        client.sock.settimeout(60)
        for i in range(sent):
            answer = client.answer()
            assert answer["id"] == i and answer["return"], (i, sent, answer)
        assert whole or sent > 100, sent
        assert vm.running()


def test_client_that_hung_up():
    """Its last command is carried out; the answer has nobody to go to."""
    with ticker() as vm:
        for i in range(3):
            client = Qmp(vm.control_path)
            client.send("update")
            client.close()
            vm.wait_for(lambda n=i: vm.qmp.command("query-update")["updates"] == n + 1,
                        "the end of the update")
            assert vm.running()
        vm.settle()
        before = len(vm.fds())
        vm.update()
        vm.wait_for(lambda: len(vm.fds()) <= before, "no descriptor more")


def test_command_behind_white_space_of_a_client_that_hung_up():
    with ticker() as vm:
        vm.qmp.command("query-status")
        for _ in range(20):
            client = Qmp(vm.control_path)
            client.send_raw(b'\n \n{"execute": "stop"}\n')
            client.close()
            vm.qmp.wait_event("STOP")
            vm.qmp.command("cont")


def test_client_ends_its_input():
    """As `printf | nc -N` does: it still wants its answer, which comes from the successor."""
    with ticker() as vm:
        client = Qmp(vm.control_path)
        client.send("update", id=1)
        client.sock.shutdown(socket.SHUT_WR)
        answer = client.answer()
        assert answer["id"] == 1 and answer["return"]["updates"] == 1, answer
        assert client.closed()


def test_as_many_clients_as_are_served():
    with ticker() as vm:
        clients = [Qmp(vm.control_path) for _ in range(MAX_CLIENTS - 1)]
        assert vm.running()  # the last one
        late = socket.socket(socket.AF_UNIX)
        late.settimeout(20)
        late.connect(vm.control_path)
        assert b"error" in late.recv(1000)
        assert late.recv(1000) == b""
        vm.update()
        for client in clients:
            assert client.command("query-status")["running"]
        clients.pop().close()
        vm.wait_for(vm.answers, "a free place")


def test_connection_made_during_the_update():
    """It waits in the backlog of the listening socket and is greeted by whoever serves it."""
    with ticker() as vm:
        for _ in range(10):
            vm.qmp.send("update")
            client = Qmp(vm.control_path)
            assert client.command("query-status")["running"]
            client.close()
            vm.qmp.result()


# ---- what the machine does ----

def test_stop_and_cont():
    with ticker() as vm:
        vm.wait_ticks(2)
        other = Qmp(vm.control_path)
        vm.qmp.command("stop")
        other.wait_event("STOP")
        vm.qmp.command("stop")  # no second event
        text = vm.serial()
        time.sleep(0.1)
        assert vm.serial() == text
        assert vm.qmp.command("query-status") == {"status": "paused", "running": False}
        vm.qmp.command("cont")
        other.wait_event("RESUME")
        vm.qmp.command("cont")
        assert other.event_names() == []
        vm.wait_ticks(2)
        vm.check_ticks()


def test_guest_is_told_of_a_pause():
    with Vm("--memory", "16M", kernel="paused") as vm:
        vm.wait_serial("paused: (ready|there is)")
        if "there is no kvmclock" in vm.serial():
            raise Skip("this host's KVM has no kvmclock")
        for told in range(1, 6):
            if told % 2:
                vm.qmp.command("stop")
                assert "told %d" % told not in vm.serial()
                vm.qmp.command("cont")
            else:
                vm.update()
            vm.wait_serial("paused: told %d\n" % told)
        # Through an update while it is paused, too.
        vm.qmp.command("stop")
        vm.update()
        vm.qmp.command("cont")
        vm.wait_serial("paused: told 6\n")


def test_no_room_for_kvms_thread():
    """KVM_RUN answers EAGAIN until there is: it is told, pauses work meanwhile, and then it runs."""
    if os.geteuid() != 0 or not shutil.which("setpriv"):
        raise Skip("needs root and setpriv: no limit holds for root itself")
    uid = str(100000 + os.getpid())
    as_user = ["setpriv", "--reuid", uid, "--clear-groups"]
    other = subprocess.Popen([*as_user, "sleep", "100"], stdout=subprocess.DEVNULL)
    try:
        with tempfile.TemporaryDirectory(prefix="molt-test-") as directory:
            # Room for it, main, the vCPU and the log. The user may open /dev/kvm.
            limited = write_script(
                os.path.join(directory, "limited"), "#!/bin/sh\nexec %s --inh-caps +dac_override "
                '--ambient-caps +dac_override prlimit --nproc=4 %s "$@"\n' %
                (" ".join(as_user), molt_binary()))
            with ticker("--user", uid + ":0", directory=directory, binary=limited) as vm:
                vm.wait_for(lambda: vm.serial() or "want of a kernel thread" in vm.log(), "the guest or a warning")
                if vm.serial():
                    raise Skip("this KVM makes no thread when a vCPU is entered first")
                vm.wait_log("want of a kernel thread.*RLIMIT_NPROC.*pids.max")
                assert vm.qmp.command("query-status")["status"] == "running"
                assert not vm.serial()
                for _ in range(3):
                    vm.qmp.command("stop")
                    vm.qmp.command("cont")
                assert not vm.serial()
                other.kill()
                other.wait()
                vm.wait_ticks(2)
                vm.check_ticks()
    finally:
        other.kill()
        other.wait()


def test_system_reset():
    with ticker() as vm:
        for updates in range(2):
            vm.wait_ticks(2)
            vm.qmp.command("system_reset")
            event = vm.qmp.wait_event("RESET")
            assert event["data"] == {"guest": False, "reason": "host-qmp-system-reset"}, event
            vm.wait_for(lambda: vm.serial().count("ticker: tsc_khz") == updates + 2, "another boot")
            assert vm.qmp.command("query-status")["status"] == "running"
            vm.update()
        vm.qmp.command("stop")
        vm.qmp.command("system_reset")
        assert vm.qmp.command("query-status")["status"] == "paused"
        boots = vm.serial().count("ticker: tsc_khz")
        vm.update()
        vm.qmp.command("cont")
        vm.wait_for(lambda: vm.serial().count("ticker: tsc_khz") == boots + 1, "another boot")


def test_system_powerdown():
    for update in (False, True):
        with ticker() as vm:
            vm.wait_ticks(2)
            vm.qmp.command("stop")
            vm.qmp.command("system_powerdown")
            vm.qmp.wait_event("POWERDOWN")
            if update:
                vm.update()  # between the press and the guest's look at it
            vm.qmp.command("cont")
            event = vm.qmp.wait_event("SHUTDOWN")
            assert event["data"] == {"guest": True, "reason": "guest-shutdown"}, event
            assert vm.wait_exit(20) == 0
            assert "ticker: done" in vm.serial()


def test_quit():
    for updates in range(2):
        with ticker() as vm:
            for _ in range(updates):
                vm.update()
            other = Qmp(vm.control_path)
            assert vm.qmp.command("quit") == {}
            event = other.wait_event("SHUTDOWN")
            assert event["data"] == {"guest": False, "reason": "host-qmp-quit"}, event
            assert other.closed()
            assert vm.wait_exit(20) == 0


def test_events_have_timestamps():
    with ticker() as vm:
        now = time.time()
        vm.qmp.command("stop")
        vm.update()
        for name in ("STOP", "UPDATE_COMPLETED"):
            stamp = vm.qmp.wait_event(name)["timestamp"]
            assert abs(stamp["seconds"] + stamp["microseconds"] / 1e6 - now) < 60, (stamp, now)


need_kvm()
run_cases(globals())
