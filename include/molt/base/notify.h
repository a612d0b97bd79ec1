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

/* Sends READY=1 alone: the manager knows the right process. fd -1: does nothing. */
void notify_ready(int fd);

/*
 * Sends MAINPID=pid and, with ready, READY=1. fd -1: does nothing. A lost message is only logged.
 */
void notify_main_pid(int fd, pid_t pid, bool ready);

#endif
