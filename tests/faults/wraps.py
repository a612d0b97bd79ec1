#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Which functions are failure points, from what molt's objects call: their wrappers, and the linker's arguments.

Of the functions that the archives leave undefined, those of the C library that can fail: its object there sets errno.
What that rule gets wrong is below. A wrapper needs no prototype: calls.c asks whether the call is to fail, and if not
the real function is jumped to with all registers and the stack as they came.

usage: wraps.py ASSEMBLY LINKER-ARGUMENTS NAMES STAGES ARCHIVE... -- COMPILER...
"""
import errno
import re
import subprocess
import sys

# Functions that set errno only for arguments that no program passes, or never return.
CANNOT_FAIL = set("""
    __errno_location _exit clock_gettime close free getauxval gettimeofday munmap pause qsort sched_getcpu sched_yield
    sigaddset sigdelset sigemptyset sigfillset sigismember unsetenv""".split())
# Functions that can fail, by a call of another object of the library.
CAN_FAIL = set("fstatvfs64 isatty lstat64 posix_openpt pthread_sigmask stat64 tcgetpgrp".split())

# How they fail, where it is not with -1. (isatty: no terminal.)
BY_NULL = set("calloc fgetgrent fgetpwent fopen fopen64 getcwd isatty malloc realloc strdup strndup".split())
BY_ERROR = re.compile(r"pthread_|posix_fallocate|ptsname_r$")
# What runs out, where it is not the disk, or a device, that fails (EIO).
ERRORS = {
    "ENOMEM": "calloc malloc realloc strdup strndup fexecve mmap64 poll pthread_setname_np setenv",
    "EMFILE": "accept4 dup2 dup3 epoll_create1 eventfd fopen fopen64 memfd_create open open64 pipe2 signalfd socket "
              "syscall timerfd_create",
    "EAGAIN": "__clone getrandom madvise mincore pthread_create",
    "ENOSPC": "fallocate64 ftruncate64 posix_fallocate64 write",
    "EINTR": "epoll_wait",
    "EACCES": "access unlink",
    "ENOENT": "getcwd readlink",
    "ECONNRESET": "recv recvmsg send sendmsg",
    "ENOBUFS": "getsockopt",
    "ENOTTY": "isatty",
    "ESRCH": "kill",
    "EPERM": "setpriority",
    "EFAULT": "sigpending",
    "EINVAL": "prctl pthread_sigmask sched_getaffinity sched_setaffinity sigaction sigprocmask timerfd_settime",
}
ERROR_OF = {name: error for error, names in ERRORS.items() for name in names.split()}

# Keeps the registers of a call but those for floating point, which no such function takes.
CONSULT = """
\t.text
consult:
\tpush %r9
\tpush %r8
\tpush %rcx
\tpush %rdx
\tpush %rsi
\tpush %rdi
\tsub $8, %rsp
\tmov %rax, %rdi
\tlea 8(%rsp), %rsi
\tmov 72(%rsp), %rdx
\tcall fault_of_call
\tadd $8, %rsp
\tpop %rdi
\tpop %rsi
\tpop %rdx
\tpop %rcx
\tpop %r8
\tpop %r9
\tret
\t.section .note.GNU-stack, "", @progbits
"""
WRAPPER = """
\t.section .rodata
\t.balign 4
name_of_{name}:
\t.long {code}
\t.string "{name}"
\t.text
\t.globl __wrap_{name}
__wrap_{name}:
\tpush %rax
\tlea name_of_{name}(%rip), %rax
\tcall consult
\ttest %eax, %eax
\tjnz 1f
\tpop %rax
\tjmp __real_{name}
1:\t{failed}
\tlea 8(%rsp), %rsp
\tret
"""


def output(*command):
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True).stdout


def undefined(archives):
    """What they need of others."""
    used, made = set(), set()
    for archive in archives:
        for option, names in (("-u", used), ("--defined-only", made)):
            lines = output("nm", option, archive).split("\n")
            names |= {line.split()[-1] for line in lines if len(line.split()) in (2, 3)}
    return used - made


def set_errno(libc):
    """The functions of the C library in objects that refer to errno; of data no wrapper is asked for."""
    functions, members = {}, set()
    for line in output("nm", "-A", libc).split("\n"):
        match = re.match(r"\S*:([^:]+):[0-9a-f ]*(\w) (\S+)$", line)
        if not match:
            continue
        member, kind, name = match.groups()
        if kind in "TWi":
            functions[name] = member
        elif kind == "U" and name in ("errno", "__libc_errno"):
            members.add(member)
    return {name for name, member in functions.items() if member in members}, set(functions)


def can_fail(archives, compiler):
    fails, functions = set_errno(output(*compiler, "-print-file-name=libc.a").strip())
    return sorted(undefined(archives) & functions & (fails - CANNOT_FAIL | CAN_FAIL))


def stages(path):
    """molt's own functions that are wrapped in stages.c."""
    with open(path, encoding="utf-8") as file:
        text = re.sub(r"#define.*(?:\\\n.*)*", "", file.read())
    return re.findall(r"^(?:(?:STAGE|REPLACED)\([^,]+,\s*|VOID_STAGE\()(\w+)", text, re.M)


def wrapper(name):
    failed = "xor %eax, %eax" if name in BY_NULL else "" if BY_ERROR.match(name) else "mov $-1, %rax"
    return WRAPPER.format(name=name, failed=failed, code=getattr(errno, ERROR_OF.get(name, "EIO")))


def request_names(compiler):
    """A list for calls.c: KVM's ioctls, of this machine and shortest first, and the numbers of the system calls."""
    headers = "#include <linux/kvm.h>\n#include <sys/syscall.h>\n"
    text, defines = (subprocess.run([*compiler, "-E", *option, "-"], input=headers, stdout=subprocess.PIPE, text=True,
                                    check=True).stdout for option in ([], ["-dM"]))
    requests = [name for name, argument in re.findall(r"^#define (KVM_\w+) _IO[RW]*\(KVMIO,[^,)]+(?:, *([^)]+))?\)",
                                                      defines, re.M)
                if not argument.startswith("struct ") or argument + " {" in text]
    calls = re.findall(r"^#define SYS_(\w+) ", defines, re.M)
    return ["REQUEST(%s)" % name for name in sorted(requests, key=lambda name: (len(name), name))] + [
        "SYSCALL(%s)" % name for name in sorted(calls)]


def write(path, text):
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


def main():
    cut = sys.argv.index("--")
    assembly, arguments, names, own, *archives = sys.argv[1:cut]
    compiler = sys.argv[cut + 1:]
    calls = can_fail(archives, compiler)
    write(assembly, "".join(map(wrapper, calls)) + CONSULT)
    write(arguments, "".join("-Wl,--wrap=%s\n" % name for name in calls + stages(own)))
    write(names, "".join(line + "\n" for line in request_names(compiler)))


if __name__ == "__main__":
    main()
