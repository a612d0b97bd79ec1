#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""
query-qmp-schema, in the form of QEMU's SchemaInfo, and that it tells the truth: what is asked for,
sent and taken is held against it, over an update and back.
"""
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from moltvm import Qmp, QmpError, Vm, expect_error, molt_binary, need_kvm, run_cases, write_script

BUILTIN = {"string": lambda v: isinstance(v, str), "value": lambda v: True,
           "int": lambda v: isinstance(v, int) and not isinstance(v, bool),
           "boolean": lambda v: isinstance(v, bool)}
# One value of each JSON type, and how QEMU calls what is expected.
SAMPLES = {"string": "x", "integer": 3, "boolean": True, "array": [], "object": {}}
EXPECTED = {"string": "string", "int": "integer", "boolean": "boolean"}


def ticker(*args, **kw):
    return Vm("--memory", "32M", *args, cmdline="period_ms=20", **kw)


class Schema:
    def __init__(self, qmp):
        self.entries = qmp.command("query-qmp-schema")
        self.by_name = {e["name"]: e for e in self.entries}

    def kind(self, meta):
        return {e["name"] for e in self.entries if e["meta-type"] == meta}

    def check(self, name, value, where):
        """That value is of the type, with no member more or less."""
        kind = self.by_name[name]
        meta = kind["meta-type"]
        if meta == "builtin":
            assert BUILTIN[kind["json-type"]](value), (where, name, value)
        elif meta == "enum":
            assert value in [m["name"] for m in kind["members"]], (where, name, value)
        elif meta == "array":
            assert isinstance(value, list), (where, name, value)
            for i, element in enumerate(value):
                self.check(kind["element-type"], element, "%s[%d]" % (where, i))
        else:
            members = {m["name"]: m for m in kind["members"]}
            assert isinstance(value, dict) and value.keys() <= members.keys(), (where, name, value)
            for m in members.values():
                assert m["name"] in value or "default" in m, (where, m, value)
                if m["name"] in value:
                    self.check(m["type"], value[m["name"]], where + "." + m["name"])

    def answer(self, qmp, name, **arguments):
        self.check(self.by_name[name]["ret-type"], qmp.command(name, **arguments), name)

    def events(self, qmp):
        """Holds those that have come against it; their names."""
        qmp.command("query-name")
        for ev in qmp.events + qmp.progress:
            self.event(ev)
        return {ev["event"] for ev in qmp.events + qmp.progress}

    def next(self, qmp, *names):
        """The same with events that are to come."""
        for name in names:
            self.event(qmp.wait_event(name))
        return set(names)

    def event(self, ev):
        kind = self.by_name[ev["event"]]
        assert kind["meta-type"] == "event", ev
        self.check(kind["arg-type"], ev.get("data", {}), ev["event"])


def test_its_form():
    with ticker() as vm:
        schema = Schema(vm.qmp)
        assert len(schema.by_name) == len(schema.entries), "names are unique"
        want = {"builtin": {"json-type"}, "enum": {"members", "values"}, "array": {"element-type"},
                "object": {"members"}, "command": {"arg-type", "ret-type"}, "event": {"arg-type"}}
        used = set()
        for e in schema.entries:
            assert e.keys() - {"name", "meta-type"} == want[e["meta-type"]], e
            types = {e[k] for k in e.keys() & {"arg-type", "ret-type", "element-type"}}
            if e["meta-type"] == "object":
                types |= {m["type"] for m in e["members"]}
            for t in types:
                assert schema.by_name[t]["meta-type"] not in ("command", "event"), (e, t)
            used |= types
        for e in schema.entries:
            if e["meta-type"] in ("command", "event"):
                assert schema.by_name[e["arg-type"]]["meta-type"] == "object", e
            else:
                assert e["name"] in used, e
        names = [c["name"] for c in vm.qmp.command("query-commands")]
        assert schema.kind("command") == set(names) and len(names) == len(set(names))


def test_answers_are_of_the_types():
    with ticker("--name", "schema", "--cpus", "2", start=False) as vm:
        with open(vm.path("disk"), "wb") as f:
            f.truncate(1 << 20)
        vm.argv += ["--disk", "id=d,queues=2,ops=5,path=" + vm.path("disk")]
        vm.start()
        schema = Schema(vm.qmp)
        assert schema.entries == vm.qmp.command("query-qmp-schema")
        for update in (lambda: None, vm.update, lambda: expect_error(
                lambda: vm.update(command=["/no/such/molt"]), "/no/such/molt")):
            update()
            for name in schema.kind("command"):
                if name.startswith("query-"):
                    schema.answer(vm.qmp, name)
        schema.answer(vm.qmp, "query-blockstats", device="d", queues=True)
        schema.answer(vm.qmp, "block_resize", device="d", size=1 << 20)
        schema.answer(vm.qmp, "block_set_io_throttle", device="d", iops=0, bps=7)
        schema.answer(vm.qmp, "update", check_only=True)
        schema.answer(vm.qmp, "update")
        for name in ("stop", "query-status", "cont", "system_reset", "system_powerdown"):
            schema.answer(vm.qmp, name)


def test_events_are_of_the_types():
    seen = set()
    with ticker() as vm:
        schema = Schema(vm.qmp)
        other = Qmp(vm.control_path)
        for command in ("stop", "cont", "system_reset"):
            vm.qmp.command(command)
        vm.update(write_script(vm.path("slow"), '#!/bin/sh\nsleep 0.8\nexec %s run "$@"\n' % molt_binary()), no_check=True)
        vm.update(molt_binary())
        expect_error(lambda: vm.update(command=["/no/such/molt"]), "/no/such/molt")
        vm.qmp.command("migrate-set-parameters", mode="cpr-exec", cpr_exec_command=vm.argv)
        vm.qmp.command("migrate", uri="file:" + vm.path("state"))
        vm.wait_for(lambda: vm.qmp.command("query-migrate")["status"] != "active", "the end")
        seen |= schema.events(other)
        other.events.clear()
        vm.qmp.command("system_powerdown")  # which the guest obeys
        seen |= schema.next(other, "POWERDOWN", "SHUTDOWN")
        assert vm.wait_exit(20) == 0
    with Vm("--memory", "32M", "--pause", kernel="fault", cmdline="how=triple") as vm:
        other = Qmp(vm.control_path)
        vm.qmp.command("cont")
        seen |= schema.next(other, "GUEST_PANICKED", "SHUTDOWN")
    assert seen == schema.kind("event"), seen ^ schema.kind("event")


def test_arguments_are_what_is_taken():
    """What is of another type, missing or unknown is refused, and nothing is done."""
    with ticker() as vm:
        def run(name, argument, value):
            vm.qmp.send(name, {argument: value})
            return vm.qmp.result()

        schema = Schema(vm.qmp)
        for name in sorted(schema.kind("command") - {"qmp_capabilities"}):
            members = schema.by_name[schema.by_name[name]["arg-type"]]["members"]
            expect_error(lambda: run(name, "no-such-thing", 1),
                         "Parameter 'no-such-thing' is unexpected")
            for m in members:
                kind = schema.by_name[m["type"]]
                right = {"array": "array", "object": "object", "enum": "string"}.get(
                    kind["meta-type"]) or EXPECTED.get(kind["json-type"])
                for sample, value in SAMPLES.items():
                    if right and sample != right:
                        expect_error(lambda: run(name, m["name"], value),
                                     "Invalid parameter type for '%s', expected: %s" %
                                     (m["name"], right))
                if kind["meta-type"] == "enum":
                    expect_error(lambda: run(name, m["name"], "nonsense"),
                                 "Parameter '%s' does not accept value 'nonsense'" % m["name"])
            needed = [m["name"] for m in members if "default" not in m]
            if needed:
                expect_error(lambda: vm.qmp.command(name), "Parameter '%s' is missing" % needed[0])
        assert vm.qmp.command("query-update")["status"] == "none"
        assert vm.qmp.event_names() == []


def test_what_other_programs_ask_first():
    """
    The beginning of a session of libvirt's probing and of Ganeti, as far as molt has the commands;
    what it does not have is answered as they expect.
    """
    with ticker() as vm:
        assert vm.qmp.command("query-target") == {"arch": "x86_64"}
        assert vm.qmp.command("query-kvm") == {"enabled": True, "present": True}
        machines = vm.qmp.command("query-machines")
        assert [m["name"] for m in machines if m.get("is-default")] == [machines[-1]["name"]]
        vm.qmp.command("migrate-set-capabilities",
                       capabilities=vm.qmp.command("query-migrate-capabilities"))
        assert vm.qmp.command("query-block") == vm.qmp.command("query-blockstats") == []
        for name in ("query-cpu-definitions", "qom-list-types", "query-command-line-options",
                     "query-named-block-nodes", "device_add", "netdev_add", "human-monitor-command"):
            try:
                vm.qmp.command(name)
                raise AssertionError("%s is not there" % name)
            except QmpError as err:
                assert "The command %s has not been found" % name in str(err)
        for machine in machines:
            with ticker("--machine", machine["name"]) as other:
                assert other.qmp.command("query-status")["running"]


need_kvm()
run_cases(globals())
