#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The house rules that a compiler does not check.

Rooms are the directories of src/ and include/molt/. Each has a floor, and includes point down only:
a file may include headers of its own room and of rooms on lower floors, private headers only of its
own room. Besides: every public header compiles alone, the top level holds what was agreed, and no
source or test is forgotten in meson.build.

usage: check-includes.py SOURCE_ROOT [COMPILER...]
"""
import os
import re
import subprocess
import sys
import tempfile

FLOORS = {
    'base': 0,
    'state': 1, 'sandbox': 1,
    'backend': 2,
    'vm': 3,
    'boot': 4, 'hw': 4, 'pci': 4,
    'virtio': 5,
    'devices.c': 6, 'io': 6,
    'update': 7,
    'control': 8,
    'vmm': 9,
    'cli': 10,
}
TOP = {'src', 'include', 'tests', 'firmware', 'docs', 'scripts', 'meson.build',
       'meson_options.txt', 'LICENSE', 'README.md'}
GENERATED = {'molt_version.h', 'syscall_filters.h'}  # made by meson, constants

INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]', re.M)


def sources(root, *dirs):
    """Paths of all C files below dirs, relative to root."""
    for top in dirs:
        for path, names, files in os.walk(os.path.join(root, top)):
            names.sort()
            for name in sorted(files):
                if name.endswith(('.c', '.h', '.S')):
                    yield os.path.relpath(os.path.join(path, name), root)


def room_of(path):
    """The room of src/ROOM/..., include/molt/ROOM/... or src/FILE.c; main.c is cli's front door."""
    parts = path.split('/')
    if path == 'src/main.c':
        return 'cli'
    return parts[2] if parts[0] == 'include' else parts[1]


def included_room(root, path, quote, name):
    """The room a header belongs to, or None if it is none of ours; raises ValueError."""
    if name.startswith('molt/'):
        if not os.path.exists(os.path.join(root, 'include', name)):
            raise ValueError('there is no such header')
        return name.split('/')[1]
    if quote == '<' or name in GENERATED:
        return None
    target = os.path.normpath(os.path.join(os.path.dirname(path), name))
    if not os.path.exists(os.path.join(root, target)):
        raise ValueError('there is no such header')
    return room_of(target)


def check_file(root, path):
    room = room_of(path)
    if room not in FLOORS:
        return [f"{path}: room '{room}' has no floor in check-includes.py"]
    with open(os.path.join(root, path), encoding='utf-8') as file:
        text = file.read()
    wrong = []
    for match in INCLUDE.finditer(text):
        quote, name = match.groups()
        line = text.count('\n', 0, match.start(2)) + 1
        try:
            other = included_room(root, path, quote, name)
        except ValueError as error:
            wrong.append(f'{path}:{line}: {name}: {error}')
            continue
        if other is None or other == room:
            continue
        if quote == '"':
            wrong.append(f"{path}:{line}: {name} is private to room '{other}'")
        elif other not in FLOORS:
            wrong.append(f"{path}:{line}: {name}: room '{other}' has no floor")
        elif FLOORS[other] >= FLOORS[room]:
            wrong.append(f"{path}:{line}: {name}: '{room}' may not look up to '{other}'")
    return wrong


def check_includes(root):
    return [w for path in sources(root, 'src', 'include') for w in check_file(root, path)]


def check_public_headers(root):
    """A seam must not lead to what it hides."""
    return [f'{path}: a public header includes the private {name}'
            for path in sources(root, 'include')
            for quote, name in INCLUDE.findall(open(os.path.join(root, path)).read())
            if quote == '"']


def check_headers_alone(root, compiler):
    wrong = []
    for path in sources(root, 'include'):
        command = compiler + ['-std=gnu11', '-D_GNU_SOURCE', '-Wall', '-Wextra', '-Werror',
                              '-Wno-gnu-variable-sized-type-not-at-end',
                              '-Wno-unknown-warning-option',
                              '-fsyntax-only', '-I', os.path.join(root, 'include'), '-x', 'c', '-']
        # A file of its own, so that "#pragma once in main file" and unused statics are no matter.
        text = f'#include "{os.path.join(root, path)}"\n'
        run = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
        if run.returncode:
            wrong.append(f'{path} does not compile alone:\n{run.stderr.strip()}')
    return wrong


def tracked_top(root):
    """Entries of the top level as git knows them; of an unpacked archive, all there are."""
    run = subprocess.run(['git', '-C', root, 'ls-files', '-z', '--cached', '--others',
                          '--exclude-standard'], capture_output=True, text=True, check=False)
    if run.returncode == 0 and run.stdout:
        return {name.split('/')[0] for name in run.stdout.split('\0') if name}
    return set(os.listdir(root))


def check_top_level(root):
    return [f"'{name}' does not belong to the top level" for name in sorted(tracked_top(root))
            if name not in TOP and not name.startswith('.')]


def check_meson(root):
    """No source and no test that nobody builds."""
    with open(os.path.join(root, 'meson.build'), encoding='utf-8') as file:
        listed = set(re.findall(r"'(src/[^']+\.[cS])'", file.read()))
    wrong = [f'{path} is not in meson.build' for path in sources(root, 'src')
             if not path.endswith('.h') and path not in listed]
    with open(os.path.join(root, 'tests/unit/meson.build'), encoding='utf-8') as file:
        text = file.read()
    for path in sources(root, 'tests/unit'):
        name = os.path.basename(path)
        test = re.fullmatch(r'test_(\w+)\.c', name)
        if test and f"'{test[1]}'" not in text:
            wrong.append(f'{path} is not in tests/unit/meson.build')
        elif not test and name.endswith('.c') and f"'{name}'" not in text:
            wrong.append(f'{path} is linked with no test in tests/unit/meson.build')
    return wrong


def self_test():
    """A check that finds nothing anywhere is no check: a house full of faults."""
    files = {
        'src/vm/a.c': '#include <molt/hw/up.h>\n#include <molt/base/down.h>\n#include "own.h"\n'
                      '#include "../base/hidden.h"\n#include <molt/base/gone.h>\n',
        'src/vm/own.h': '',
        'src/base/hidden.h': '',
        'src/attic/b.c': '',
        'include/molt/base/down.h': '',
        'include/molt/hw/up.h': '#include "private.h"\nsize_t x;\n',
        'tests/unit/test_lost.c': '',
        'tests/unit/meson.build': '',
        'meson.build': "'src/vm/a.c'",
        'notes.txt': '',
    }
    with tempfile.TemporaryDirectory() as root:
        for path, text in files.items():
            os.makedirs(os.path.dirname(os.path.join(root, path)), exist_ok=True)
            with open(os.path.join(root, path), 'w', encoding='utf-8') as file:
                file.write(text)
        found = '\n'.join(check_includes(root) + check_public_headers(root) +
                          check_headers_alone(root, ['cc']) + check_top_level(root) +
                          check_meson(root))
    for words in ["'vm' may not look up to 'hw'", "private to room 'base'",
                  'a.c:5: molt/base/gone.h',
                  "room 'attic' has no floor", 'includes the private private.h',
                  'up.h does not compile alone', "'notes.txt' does not belong",
                  'src/attic/b.c is not in meson.build', 'test_lost.c is not in']:
        assert words in found, f'"{words}" was not found in:\n{found}'
    assert 'down.h' not in found and 'own.h is private' not in found, found


def main():
    root = os.path.abspath(sys.argv[1])
    compiler = sys.argv[2:] or ['cc']
    checks = [
        ('includes point down', lambda: check_includes(root)),
        ('public headers include no private ones', lambda: check_public_headers(root)),
        ('every public header compiles alone', lambda: check_headers_alone(root, compiler)),
        ('top level', lambda: check_top_level(root)),
        ('every source and test is built', lambda: check_meson(root)),
    ]
    self_test()
    print(f'1..{len(checks)}')
    failed = False
    for number, (name, check) in enumerate(checks, 1):
        wrong = check()
        failed = failed or bool(wrong)
        print(f"{'not ok' if wrong else 'ok'} {number} - {name}")
        for text in wrong:
            print('\n'.join('# ' + line for line in text.split('\n')))
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main())
