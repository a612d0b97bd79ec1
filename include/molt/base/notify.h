/* SPDX-License-Identifier: MIT */
/*
 * Telling a service manager which process to watch, by the protocol of sd_notify(3): a datagram to
 * the socket in NOTIFY_SOCKET. An update needs this, because the process that stands in for a
 * failed successor is not the one that the manager started. (libsystemd is not used: it cannot be
 * linked statically, and the protocol is a promised interface of one line.)
 */
#ifndef MOLT_BASE_NOTIFY_H
#define MOLT_BASE_NOTIFY_H

#include <stdbool.h>
#include <sys/types.h>

#include <molt/base/error.h>

/*
 * Connects to the socket that NOTIFY_SOCKET names; *fd becomes -1 where the variable is not set, or
 * is meant for another process: a daemon that the manager has started may not have cleared it for
 * us, and would be taken for us (SYSTEMD_EXEC_PID, systemd.exec(5), says whom systemd has started).
 * An address that begins with '@' is in the abstract name space. 0 or -errno with the sentence, *fd
 * being -1: no reason not to run.
 */
int notify_open(int *fd, struct error *err);

/*
 * Sends READY=1, and MAINPID=pid where pid is not 0. A manager that does not read is waited for, 5
 * s at most; a message that is lost is only logged. fd -1: does nothing.
 */
void notify_ready(int fd, pid_t pid);

/* Whether it would take a message now, or has gone; also where fd is -1. */
bool notify_can_tell(int fd);

/*
 * Sends MAINPID=pid. A manager that does not read (-EAGAIN) is waited for, wait_ms at most. 0, also
 * where fd is -1, or -errno; nothing is logged.
 */
int notify_main_pid(int fd, pid_t pid, unsigned int wait_ms);

#endif
