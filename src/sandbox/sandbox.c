/* SPDX-License-Identifier: MIT */
/*
 * The sandbox. Theory of operation.
 *
 * There are two kinds of threads. A thread that handles a guest's data (vCPU) needs no more than a
 * handful of calls, which are declared beside the code that makes them; whatever else it tries ends
 * the process. It lives as long as its image, so its list belongs to that image alone.
 *
 * Main takes commands, and execs. What it gives up survives the exec and binds images that are not
 * written yet, as well as wrappers of which nobody knows what they do. So its list (main.list) is
 * as strict as an exec allows: what any program, an interpreter and a VMM need; the rest is refused
 * with an error, which a program can live with. It may read and execute all files and change those
 * that are its business. lists.h tells how a successor finds out what is in force.
 *
 * When a vCPU thread enters: when KVM_RUN first brings an exit to serve and before it looks at what
 * the guest wants. No code of ours runs in between, and the time is not the blackout's.
 *
 * The order in main: the bounding set while the capability for it is there, another user (user.c),
 * then all capabilities; no_new_privs, without which an unprivileged process may add neither
 * Landlock rules nor filters; then these, the filter last, since it is what says that all of it is
 * in force. Earlier, before it starts a process that it may have to kill, main keeps its signals
 * to itself and what comes after it: rules of its own, for a process older than a thread's rules
 * is out of their reach.
 */
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <molt/base/fd.h>
#include <molt/base/log.h>
#include <molt/sandbox/sandbox.h>
#include "molt_version.h"

#include "internal.h"
#include "lists.h"
#include "syscall_filters.h"

static bool signals_are_scoped;

static int install_with(const struct sock_filter *filter, size_t len, unsigned int flags,
			struct error *err)
{
	const struct sock_fprog prog = {
		.len = (unsigned short)len,
		.filter = (struct sock_filter *)(uintptr_t)filter,
	};

	/* No foreign code runs in molt for which speculation would have to be held back. */
	if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags | SECCOMP_FILTER_FLAG_SPEC_ALLOW,
		    &prog) != 0)
		return err_sys(err, errno, "seccomp filter");
	return 0;
}

static int install(const struct sock_filter *filter, size_t len, struct error *err)
{
	return install_with(filter, len, 0, err);
}

static int no_new_privileges(struct error *err)
{
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return err_sys(err, errno, "no_new_privs");
	return 0;
}

void sandbox_hide(bool hide)
{
	if (!MOLT_SANITIZED && prctl(PR_SET_DUMPABLE, hide ? 0 : 1, 0, 0, 0) < 0)
		log_warn("other processes of this user may look into this one: %s",
			 error_text(errno));
}

unsigned int sandbox_level(void)
{
	int level;

	if (prctl(SANDBOX_PROBE, 0, 0, 0, 0) >= 0)
		return 0;
	level = errno - SANDBOX_ERRNO;
	return level > 0 && level <= SANDBOX_LEVEL_MAX ? (unsigned int)level : 0;
}

bool sandbox_in_force(void)
{
	return sandbox_level() >= SANDBOX_LEVEL;
}

void sandbox_scope_signals(void)
{
	struct error err = ERROR_INIT;

	if (signals_are_scoped)
		return;
	signals_are_scoped = true;
	if (no_new_privileges(&err) < 0 || landlock_scope_signals(&err) < 0)
		log_warn("sandbox: signals to others are not kept back: %s", err.text);
}

/* The ABI of the Landlock that is in force, 0 where there is none; or an error. */
static int confine_files(const struct sandbox_dir *dirs, struct error *err)
{
	struct error why = ERROR_INIT;
	int abi = landlock_abi(), r;
	_cleanup_close_ int rules = abi ? landlock_make_rules(&why) : -1;

	r = rules >= 0 ? landlock_allow_dirs(rules, dirs, err) : 0;
	if (r < 0 || !abi)
		return r;
	if (rules >= 0 && landlock_restrict_self(rules, &why) == 0)
		return abi;
	log_warn("sandbox: files are not protected: %s", why.text);
	return 0;
}

int sandbox_enter(const struct sandbox_dir *dirs, bool back_ends, struct error *err)
{
	int abi, r;

	if (sandbox_in_force())
		return 0;
	capabilities_drop_bounding();
	r = capabilities_drop(err);
	if (r == 0)
		r = no_new_privileges(err);
	if (r < 0)
		return r;
	sandbox_scope_signals();
	abi = confine_files(dirs, err);
	if (abi < 0)
		return abi;
	if (back_ends)
		r = install(filter_main_with_back_ends, ARRAY_SIZE(filter_main_with_back_ends),
			    err);
	else
		r = install(filter_main, ARRAY_SIZE(filter_main), err);
	if (r == 0)
		log_info("sandbox: level %d, no capabilities, %s %d, system calls filtered",
			 SANDBOX_LEVEL, abi ? "Landlock ABI" : "no Landlock:", abi);
	return r;
}

/*
 * Then kill(), which is forbidden as well, and this time without a handler: the process ends by
 * SIGSYS.
 */
static void tell_and_end(int sig, const siginfo_t *info, const char *who)
{
	int nr = info->si_syscall;
	const char *name = nr >= 0 && (size_t)nr < ARRAY_SIZE(syscall_names) ? syscall_names[nr]
									     : NULL;

	log_error("sandbox: %s tried system call %d (%s), which ends molt: it is an attack from the "
		  "guest or a bug in molt",
		  who, nr, name ? name : "unknown");
	log_drain(LOG_END_MS);
	syscall(SYS_kill, getpid(), sig);
}

static void on_vcpu_thread(int sig, siginfo_t *info, void *context)
{
	(void)context;
	tell_and_end(sig, info, "a vCPU thread");
}

static void on_io_process(int sig, siginfo_t *info, void *context)
{
	(void)context;
	tell_and_end(sig, info, "the I/O process");
}

static int catch_with(void (*handler)(int, siginfo_t *, void *), struct error *err)
{
	const struct sigaction sa = {
		.sa_sigaction = handler,
		.sa_flags = SA_SIGINFO | (int)SA_RESETHAND,
	};

	if (sigaction(SIGSYS, &sa, NULL) < 0)
		return err_sys(err, errno, "sigaction for SIGSYS");
	return 0;
}

int sandbox_catch_forbidden_calls(struct error *err)
{
	return catch_with(on_vcpu_thread, err);
}

int sandbox_enter_thread(struct error *err)
{
	struct error why = ERROR_INIT;
	int r;

	if (MOLT_SANITIZED)
		return 0;
	r = capabilities_drop_thread(err);
	if (r == 0)
		r = no_new_privileges(err);
	if (r < 0)
		return r;
	/*
	 * The second wall; where it fails (too many layers around us, say) the first one still
	 * stands.
	 */
	if (landlock_abi() && landlock_confine_thread(&why) < 0)
		log_warn("sandbox: a vCPU thread goes without Landlock: %s", why.text);
	return install(filter_vcpu, ARRAY_SIZE(filter_vcpu), err);
}

int sandbox_prepare_io(struct error *err)
{
	struct error why = ERROR_INIT;
	int r;

	capabilities_drop_bounding();
	r = capabilities_drop(err);
	if (r == 0)
		r = no_new_privileges(err);
	if (r < 0)
		return r;
	/* The leak checker reads /proc. */
	if (!MOLT_SANITIZED && landlock_abi() && landlock_confine_thread(&why) < 0)
		log_warn("sandbox: the I/O process goes without Landlock: %s", why.text);
	return 0;
}

int sandbox_enter_io(struct error *err)
{
	int r;

	if (MOLT_SANITIZED)
		return 0;
	r = catch_with(on_io_process, err);
	if (r < 0)
		return r;
	return install_with(filter_io, ARRAY_SIZE(filter_io), SECCOMP_FILTER_FLAG_TSYNC, err);
}
