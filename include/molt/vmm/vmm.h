/* SPDX-License-Identifier: MIT */
/*
 * The VMM as an object: it puts the rooms together, for a cold start and for a successor alike, and
 * runs the event loop until the machine ends. It knows no command line: what one says comes in
 * struct vmm_config.
 */
#ifndef MOLT_VMM_VMM_H
#define MOLT_VMM_VMM_H

#include <stdbool.h>
#include <stdint.h>

#include <molt/base/error.h>
#include <molt/base/log.h>
#include <molt/sandbox/sandbox.h>
#include <molt/state/kinds.h>
#include <molt/vm/machine.h>
#include <molt/vm/refault.h>

#define VMM_SERIALS 2
#define VMM_WRITE_DIRS_MAX 32

/*
 * How this molt was started. All that it points to is the caller's, and lives until vmm_run()
 * returns.
 */
struct vmm_config {
	/* Of the process. */
	int argc;         /* of `molt run`, with the program or "run" in argv[0] */
	char **argv;      /* the default successor is started with the same */
	uint64_t main_ns; /* CLOCK_MONOTONIC, when main began */
	int notify_fd;  /* who is told which process runs the guest; taken over. -1: as notify.h */
	bool successor; /* takes a guest over; else it starts one */

	/* Of options: what also a successor takes from its own. All else comes with the stream. */
	const char *incoming; /* where its state is; NULL: as the predecessor says */
	enum log_level log_level;
	bool sandbox;
	struct sandbox_dir write_dirs[VMM_WRITE_DIRS_MAX + 1]; /* which main may change besides */
	enum refault_mode refault;       /* when guest RAM is mapped after an update */
	uint64_t refault_limit_ns;       /* how long before it */
	const char *control;             /* the socket as it is named (control_path.h), or NULL */
	const char *log_file;            /* NULL: standard error */
	const char *serial[VMM_SERIALS]; /* the ports' options: some name a file of molt's own */
	/*
	 * Of a successor's options, what is wrong: the predecessor is told. No text: nothing is. On
	 * a cold start they are right.
	 */
	struct error wrong;

	/* Of a cold start's. */
	const char *user; /* whom it becomes: NAME, UID, with :GROUP or :GID, or "auto"; or NULL */
	const char *kernel, *initramfs, *cmdline;
	bool pause; /* the guest waits to be continued */
	/* What options say of it: a successor takes `memory` alone. */
	struct machine_config machine;
};

/* What the VMM needs of whoever knows the command line. */
struct vmm_ops {
	/*
	 * After a way back this molt is what it was before: what options say into cfg, from the
	 * command line (argv[0] is "run") that it was started with then. The rest of cfg stays.
	 */
	int (*configure)(void *opaque, int argc, char **argv, struct vmm_config *cfg,
			 struct error *err);
	/* A successor runs the guest: what of its options will count for nothing is for the log. */
	void (*compare)(void *opaque, const struct machine *m);
	void *opaque;
};

/*
 * Builds the VMM, runs the guest to its end and takes everything down. The exit status, of molt(1);
 * an error is in the log. Does not return where a successor could not take the guest over.
 */
int vmm_run(const struct vmm_config *cfg, const struct vmm_ops *ops);

/* What the VMM's parts have in stream and fd table: what this molt can take over. */
void vmm_takeover_kinds(struct takeover_kinds *kinds);

#endif
