#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Checks that the documentation and the program say the same.

- Every option of every subcommand, with its placeholder, aliases and default, is in the manual
  page, and the manual page has no other.
- --help names every option, too.
- Every command that is registered for the control socket has its section in docs/control.md, with
  all its arguments, and there is no section without a command; the same for events.
- The examples in docs/control.md are JSON.
- The table of files in docs/architecture.md has the files of src/*/.
- The parts of src/vmm/parts.c are named in docs/architecture.md, in their order.
- The table of an update's steps in docs/live-update.md has the rows of the table in src/update/steps.c.
- The tables of vCPU state and of CPUID in docs/guest-abi.md are what CPU_TABLES, a program linked with
  the code's tables, prints.

usage: check-docs.py MOLT SOURCE_ROOT CPU_TABLES
"""

import fnmatch
import json
import pathlib
import re
import shutil
import subprocess
import sys

problems = []


def complain(text):
    problems.append(text)


def report(number, name, skipped=None):
    """What was found since the last one, as a case of TAP. Whether that is nothing."""
    found = list(problems)
    problems.clear()
    print("%sok %d - %s%s" % ("not " if found else "", number, name, " # SKIP " + skipped if skipped else ""))
    for text in found:
        print("# " + text)
    return not found


def run(molt, *args):
    return subprocess.run([molt, *args], check=True, capture_output=True, text=True).stdout


def man_options(page):
    """{subcommand: {option: {"aliases", "arg", "text"}}} of the manual page."""
    found = {}
    for part in re.split(r"^\.Ss molt ", page, flags=re.M)[1:]:
        part = re.split(r"^\.Sh ", part, flags=re.M)[0]
        name, _, body = part.partition("\n")
        options = found[name.strip()] = {}
        items = re.split(r"^\.It (?=Fl -)", body, flags=re.M)[1:]
        for item in items:
            head, _, text = item.partition("\n")
            names = re.findall(r"Fl -([a-z0-9-]+)", head)
            args = set(re.findall(r"Ar (\S+)", head))
            if len(args) > 1:
                complain(f"molt.1: {name}: --{names[0]}: one placeholder is enough: {args}")
            options[names[0]] = {"aliases": names[1:], "arg": args.pop() if args else None,
                                 "text": text}
    return found


def check_options(molt, root):
    program = json.loads(run(molt, "--dump-options"))
    page = man_options((root / "docs/molt.1").read_text())
    if set(program) != set(page):
        complain(f"molt.1: subcommands {sorted(page)}, molt has {sorted(program)}")
    for sub, entry in program.items():
        documented = dict(page.get(sub, {}))
        text = " ".join(run(molt, sub, "--help").split())
        if documented.pop("help", None) is None:
            complain(f"molt.1: {sub}: --help is missing")
        for opt in entry["options"]:
            where = f"molt.1: {sub}: --{opt['name']}"
            doc = documented.pop(opt["name"], None)
            if doc is None:
                complain(f"{where} is missing")
                continue
            if doc["arg"] != opt["arg"]:
                complain(f"{where}: placeholder {doc['arg']}, in the program {opt['arg']}")
            if sorted(doc["aliases"]) != sorted(opt["aliases"]):
                complain(f"{where}: aliases {doc['aliases']}, in the program {opt['aliases']}")
            if opt["default"] and not re.search(r"default(?: is|: )\s*(\.Cm )?"
                                                + re.escape(opt["default"]) + r"\b", doc["text"]):
                complain(f"{where}: the default {opt['default']} is not told")
            for name in [opt["name"], *opt["aliases"]]:
                if f"--{name}" not in text:
                    complain(f"molt {sub} --help does not name --{name}")
        for name in documented:
            complain(f"molt.1: {sub}: the program has no --{name}")


def sources(root):
    return {p: p.read_text() for p in (root / "src").rglob("*.c")}


def members(table):
    """The names in a table of arguments, which may be in another file than the command."""
    return re.findall(r'\.name = "([^"]+)"', table)


def command_entries(text):
    """{command: [argument]} of the command tables in the sources."""
    args = {name: members(table) for name, table in re.findall(
        r"const struct command_member (\w+)\[\] = \{(.*?)\};", text, re.S)}
    entries = {}
    for table in re.findall(r"const struct command \w+\[\] = \{(.*?)\};", text, re.S):
        for entry in re.split(r"(?=\.name = )", table)[1:]:
            name = re.match(r'\.name = "([^"]+)"', entry)[1]
            takes = re.search(r"\.args = (\w+)", entry)
            entries[name] = args[takes[1]] if takes else []
    return entries


def check_commands(root):
    registered = command_entries("\n".join(sources(root).values()))
    doc = (root / "docs/control.md").read_text()
    section = doc.partition("\n## Commands\n")[2].partition("\n## ")[0]
    documented = set(re.findall(r"^### (\S+)$", section, re.M))
    if len(registered) < 10 or not any(registered.values()):
        complain("the command tables were not found in the sources")
    for name in sorted(set(registered) - documented):
        complain(f"control.md: command '{name}' is missing")
    for name in sorted(documented - set(registered)):
        complain(f"control.md: there is no command '{name}'")
    for name in sorted(documented & set(registered)):
        text = re.split(r"^### ", section.partition(f"### {name}\n")[2], flags=re.M)[0]
        for arg in registered[name]:
            if f"`{arg}`" not in text:
                complain(f"control.md: command '{name}': argument '{arg}' is missing")


def check_events(root):
    sent, listed = set(), set()
    for text in sources(root).values():
        sent |= set(re.findall(r'(?:control_(?:frequent_|passing_)?event|ops\.(?:passing_)?event)\([^;"]*?"([A-Z_]+)"', text))
        for table in re.findall(r"const struct command_event \w+\[\] = \{(.*?)\};", text, re.S):
            listed |= set(members(table))
    doc = (root / "docs/control.md").read_text()
    section = doc.partition("\n## Events\n")[2].partition("\n## ")[0]
    documented = set(re.findall(r"^\| `([A-Z_]+)`", section, re.M))
    if len(sent) < 5:
        complain("the events were not found in the sources")
    for name in sorted(sent - documented):
        complain(f"control.md: event {name} is missing")
    for name in sorted(documented - sent):
        complain(f"control.md: there is no event {name}")
    for name in sorted(sent ^ listed):
        complain(f"event {name} is not both sent and in a table for query-qmp-schema")


def check_examples(root):
    doc = (root / "docs/control.md").read_text()
    for block in re.findall(r"^```json\n(.*?)^```", doc, re.S | re.M):
        for line in block.splitlines():
            if not line.startswith(("-> ", "<- ")):
                complain(f"control.md: example line without direction: {line}")
                continue
            try:
                json.loads(line[3:])
            except ValueError as why:
                complain(f"control.md: {why}: {line}")


def check_cpu_tables(root, program):
    """Lines of tables, so that they can be copied from what the program prints."""
    doc = (root / "docs/guest-abi.md").read_text()
    for table in run(program).strip().split("\n\n"):
        head = table.splitlines()[0]
        documented = re.search("^" + re.escape(head) + r"\n(?:\|.*\n)*", doc, re.M)
        if not documented:
            complain(f"guest-abi.md: there is no table that begins '{head}'")
        elif documented[0] != table + "\n":
            wrong = set(documented[0].splitlines()) ^ set(table.splitlines())
            complain(f"guest-abi.md: not as {program} prints it: " + "; ".join(sorted(wrong)))


def check_steps(root):
    table = re.search(r"struct step steps\[\] = \{(.*?)^\};", (root / "src/update/steps.c").read_text(), re.S | re.M)
    rows = re.findall(r'^\t\{ "([^"]+)",', table[1], re.M)
    words = re.search(r"^\| step \|.*?\n\n", (root / "docs/live-update.md").read_text(), re.S | re.M)
    documented = re.findall(r"^\| ([^|]+?) \|", words[0], re.M)[1:]
    documented = [name for name in documented if not name.startswith("-")]
    if rows != documented:
        complain("docs/live-update.md: its steps are %s, the table's in src/update/steps.c %s" % (documented, rows))


def check_parts(root):
    table = re.search(r"struct part parts\[\] = \{(.*?)^\};", (root / "src/vmm/parts.c").read_text(), re.S | re.M)
    names = ", ".join(re.findall(r'^\t\{ "([^"]+)",', table[1], re.M))
    if names not in (root / "docs/architecture.md").read_text():
        complain("docs/architecture.md: the parts in src/vmm/parts.c are %s" % names)


def check_files(root):
    """Each file of a room is named in the table, `pit*` for all that begin so, and none that is not there."""
    text = (root / "docs/architecture.md").read_text()
    table = text.partition("\n| room | files |")[2].partition("\n\n")[0]
    rows = dict(re.findall(r"^\| (\w+) \| ([^|]*) \|", table, re.M))
    for room in sorted({path.parent for path in (root / "src").glob("*/*.c")}):
        files = {path.stem for path in room.glob("*.c")}
        names = re.findall(r"`([\w*]+)`", rows.get(room.name, ""))
        for name in sorted(f for f in files if not any(fnmatch.fnmatchcase(f, name) for name in names)):
            complain("docs/architecture.md: the table of files lacks %s/%s.c" % (room.name, name))
        for name in names:
            if not fnmatch.filter(files, name):
                complain("docs/architecture.md: there is no %s/%s.c" % (room.name, name))


def check_page(root):
    """What mandoc says of the manual page; the reason where it is not asked."""
    if not shutil.which("mandoc"):
        return "mandoc is not installed"
    lint = subprocess.run(["mandoc", "-T", "lint", "-W", "warning", root / "docs/molt.1"],
                          check=False, capture_output=True, text=True)
    for line in lint.stdout.splitlines():
        complain(line)
    return None


def main():
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    molt, root = sys.argv[1], pathlib.Path(sys.argv[2])
    check_options(molt, root)
    check_commands(root)
    check_events(root)
    check_steps(root)
    check_parts(root)
    check_files(root)
    check_examples(root)
    check_cpu_tables(root, sys.argv[3])
    print("1..2")
    good = [report(1, "documentation"), report(2, "manual page", check_page(root))]
    sys.exit(0 if all(good) else 1)


if __name__ == "__main__":
    main()
