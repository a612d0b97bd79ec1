/* SPDX-License-Identifier: MIT */
/* What the files of src/update/ share: one update in flight, and what is kept between updates. */
#ifndef MOLT_UPDATE_INTERNAL_H
#define MOLT_UPDATE_INTERNAL_H

#include <pthread.h>

#include <molt/base/child.h>
#include <molt/base/new_file.h>
#include <molt/update/update.h>

#include "stand_in.h"

#define UPDATE_ID_MAX 1024
#define UPDATE_TIMEOUT_MAX_MS 600000
#define UPDATE_VERSION_MAX 32
#define UPDATE_ARGV_MAX 65536
#define UPDATE_LAST_MAX 65536
#define UPDATE_STAND_INS_MAX 64
#define UPDATE_ERROR_ENV "MOLT_UPDATE_ERROR"
#define UPDATE_CHECK_ENV "MOLT_CHECK" /* three descriptors: stream:fdtable:answer */

enum update_kind {
	UPDATE_KIND_UPDATE,  /* `update`: answered when the successor runs the guest */
	UPDATE_KIND_MIGRATE, /* QEMU's `migrate`: answered at once, told by events */
};

enum update_status {
	UPDATE_STATUS_NONE,
	UPDATE_STATUS_RUNNING,
	UPDATE_STATUS_COMPLETED,
	UPDATE_STATUS_FAILED,
};

/* What travels to the successor: section "update". */
struct update_wire {
	char id[UPDATE_ID_MAX];           /* the request's "id" as JSON text, empty for none */
	char version[UPDATE_VERSION_MAX]; /* of the predecessor */
	uint64_t updates;                 /* completed so far */
	uint32_t client;
	uint32_t kind; /* enum update_kind */
	bool keep_io;  /* the devices' I/O processes are to stay who they are */
	bool lazily;   /* memory is short: guest RAM is not to be mapped ahead of the guest */
	uint8_t reserved[6];
	uint32_t argv_len;
	uint8_t argv[UPDATE_ARGV_MAX]; /* path and arguments of the predecessor, each with its NUL */
	uint32_t command_len;
	uint8_t command[UPDATE_ARGV_MAX]; /* what is executed, as argv, without --incoming */
	uint32_t wrapper_len;
	uint8_t wrapper[UPDATE_ARGV_MAX]; /* by which the predecessor was executed, in the same way */
	uint32_t nguardians;
	uint32_t guardians[UPDATE_STAND_INS_MAX]; /* pids of earlier ones that have not ended yet */
	uint32_t last_len;
	uint8_t last[UPDATE_LAST_MAX]; /* the report of the last success, JSON, for who gives back */
};

/* The successor in check mode, while it is at work. */
struct update_check {
	struct fdtable *fds;
	int stream_fd;
	int table_fd;
	int answer_fd;
	int timer_fd;
	struct child child;
	struct loop_source exited;
	struct loop_source expired;
};

#define UPDATE_CHECK_NONE \
	((struct update_check){ .stream_fd = -1, \
				.table_fd = -1, \
				.answer_fd = -1, \
				.timer_fd = -1, \
				.child = CHILD_NONE })

/* Where the stand-in saves at the switch; shared with the successor. */
struct final_state {
	int fd; /* a memfd */
	void *map;
	size_t size;
	struct fdtable *fds; /* to see that they are still those that were handed over */
};

#define FINAL_STATE_NONE ((struct final_state){ .fd = -1 })

/*
 * A stand-in of an earlier update that takes its memory apart: a child of this process until it has
 * ended.
 */
struct old_stand_in {
	struct child child;
	struct loop_source ended;
};

/* What a client asked for, from its command until the answer. */
struct update_request {
	uint32_t client;
	char *id; /* JSON text, or NULL; only of `update` */
	enum update_kind kind;
	bool told_stop;      /* STOP was sent: if it fails, RESUME belongs to it */
	char *state_path;    /* NULL: a memfd */
	bool no_check;       /* do not ask the successor first */
	bool check_only;     /* ask it and leave it at that */
	bool keep_io;        /* leave the devices' I/O processes alone */
	uint32_t timeout_ms; /* from exec to commit */
	bool timeout_given;
	char **command;     /* NULL: the default successor */
	int command_fd;     /* the successor's executable as the client sent it, or -1 */
	int given_state_fd; /* where the client wants a copy of the state, or -1 */
};

#define UPDATE_REQUEST_NONE ((struct update_request){ .command_fd = -1, .given_state_fd = -1 })

/* An update in flight, from the predecessor's side: what its steps make and undo. */
struct hand_over {
	/* Who the successor is. */
	char **argv; /* argv[0] is its absolute path */
	char **envp; /* and its environment */
	char table_env[32];
	int program_fd;     /* its executable, sealed where possible; -1: execute argv[0] */
	bool leave_program; /* let it have that, it finds itself no other way */
	bool stops_guest; /* until the commit: it knows no stand-in, or the hand-off is slow here */

	/* What it gets. */
	struct update_wire *wire;
	struct stream_writer w;
	struct stream verified;     /* w, read back */
	size_t state_room;          /* bytes that were reserved for it */
	int state_fd;               /* a memfd */
	struct new_file state_file; /* where the user wants a copy */
	struct fdtable *fds;
	int table_fd;
	int exe_fd; /* our own binary, for the way back */

	size_t step;      /* at which it is, see steps.c */
	uint64_t step_ns; /* since when */

	/* Who has the guest meanwhile. */
	struct stand_in stand_in;
	struct keep_off keep_off;
	struct final_state final;
	/* Set while devices are not at rest: when they are asked next. */
	struct loop_timer rest;
	uint64_t rest_since_ns;
	bool parked;      /* the vCPUs, which ran before */
	bool handed_over; /* the guest is the stand-in's */
};

#define HAND_OVER_NONE \
	((struct hand_over){ .program_fd = -1, \
			     .state_fd = -1, \
			     .state_file = NEW_FILE_NONE, \
			     .table_fd = -1, \
			     .exe_fd = -1, \
			     .stand_in = STAND_IN_NONE, \
			     .final = FINAL_STATE_NONE })

struct update;

/* What steps and stand-in call in the server, which stands above them. */
struct update_server_ops {
	/*
	 * The step that waited is over: NULL, or why it failed; of the check, what the successor
	 * has against it.
	 */
	void (*waited)(struct update *u, const struct error *err);
	/* In the stand-in whose successor is gone, see struct stand_in_ops. */
	void (*take_back)(struct update *u, bool stood_in);
};

/* The server: takes requests, one at a time, and knows how the last one ended. */
struct update {
	struct machine *machine;
	const struct update_self *self;
	struct update_ops ops;
	const struct update_server_ops *server;
	struct loop_wake start;

	uint64_t updates;
	enum update_status status;
	enum update_status status_before; /* the request in flight */
	json_t *last;                     /* report of the last completed update, or NULL */
	struct error last_error;
	struct {
		bool cpr_exec;   /* migrate-set-parameters mode */
		json_t *command; /* cpr-exec-command, an array, or NULL */
	} migrate;
	struct old_stand_in old_stand_ins[UPDATE_STAND_INS_MAX];
	pid_t teller; /* of these, who is to tell the service manager of this process; 0: nobody */
	pthread_t closer; /* of the copies for the way back (way_back.c) */
	bool closes;

	struct update_request request;
	struct update_check check;
	struct hand_over hand_over;
};

/* stand_in_ops.c */
extern const struct stand_in_ops update_stand_in_ops;

/* state_copy.c: in the stand-in, when the guest is the successor's: makes the copy of the state. */
void update_committed(void *opaque);

/*
 * take_back.c: in the stand-in whose successor is gone, undoes the steps, tells everyone. It stood
 * in: the guest was running.
 */
void update_take_back(struct update *u, bool stood_in);

/* final_state.c; and in the stand-in, see struct stand_in_ops. */
int final_state_make(struct update *u, struct error *err);
void final_state_drop(struct final_state *f);
int update_save_final(void *opaque, struct error *err);
void update_run_on(void *opaque);

/* In a successor: maps what the stand-in will save; loads it over what was rehearsed. */
int final_state_open(struct incoming *in, struct error *err);
int final_state_load(struct machine *m, struct incoming *in, struct error *err);
void final_state_close(struct incoming *in);

/*
 * steps.c: the predecessor's steps, from the first: STEP_WAITS where one of them waits for an
 * answer (steps.h), or -errno, everything undone and the guest running on. They do not end well
 * here, but in the successor.
 */
int update_run_steps(struct update *u, struct error *err);
/* The one that waited is over, with r; -errno: all is undone. And what comes after it. */
int update_step_over(struct update *u, int r, struct error *err);
int update_go_on(struct update *u, struct error *err);
/* Undoes the step that it is at and all before it, last first. */
void update_undo(struct update *u);
/* In the stand-in: all, for nobody knows how far the predecessor came. */
void update_undo_all(struct update *u);

/*
 * check.c: asks the successor whether it could take over; the server's waited() is called with the
 * answer later, unless this fails at once. check_end() gives up waiting for it.
 */
int check_start(struct update *u, struct error *err);
void check_end(struct update *u);

/*
 * The stand-ins of earlier updates, and other processes of theirs that do not end. They may take
 * longer than the next update comes, so the list of those that are still there goes on to the
 * successor. update_keep_stand_in() takes one over; more than there is room for do not end in time,
 * and no further update is accepted then (update_reap_stand_ins(): -EBUSY).
 */
void update_keep_stand_in(struct update *u, struct child *child);
/* Tells the service manager that this is the guest's process; what fails is logged. 0 or -errno. */
int update_tell_main_pid(const struct update *u, pid_t pid, unsigned int wait_ms);

/* Whether that one has not ended yet. */
bool update_has_stand_in(struct update *u, pid_t pid);
int update_reap_stand_ins(struct update *u, struct update_wire *wire, struct error *err);
/*
 * After that nobody looks for their ends until this: one that ends is nobody who waits, for whom
 * an update has to hurry (loop_hold()).
 */
void update_watch_stand_ins(struct update *u);
void update_forget_stand_ins(struct update *u);

/* request.c: starts an update from a command; the wake-up does the rest. */
int update_request(struct update *u, const struct command_origin *origin, enum update_kind kind,
		   const char *state_path, json_t *command, struct error *err);
/* The end of an update that failed: tells everyone. */
void update_failed(struct update *u, const struct error *err);
/*
 * The answer to an update that was only to be checked: none was tried, so none has failed. err:
 * what the check has found, or NULL.
 */
void update_only_checked(struct update *u, const struct error *err);
void update_forget_request(struct update_request *req);

/*
 * handover.c: who the successor is, and the step into it. The command is the one asked for, or the
 * wrapper that we came by; NULL: ourselves.
 */
char *const *handover_command(const struct update_request *req, const struct update_self *self);
/*
 * Finds the successor and makes all that is handed to it, for a machine with that many vCPUs. The
 * request's command_fd, where it has one, is taken. handover_fini() is to follow in any case.
 */
int handover_prepare(struct hand_over *h, struct update_request *req,
		     const struct update_self *self, unsigned int cpus, struct error *err);
void handover_fini(struct hand_over *h);
/* Lists what it gets, and lets that survive the exec; undone by the second. */
int handover_write(struct hand_over *h, struct error *err);
void handover_undo(struct hand_over *h);
/*
 * Main keeps off the CPUs where vCPUs that execute something were entered, and so does the
 * successor; see keep_off.c. False where there are no others.
 */
bool handover_keep_off(struct hand_over *h, struct machine *m);
/* Returns only where it failed. */
int handover_exec(struct hand_over *h, struct machine *m, struct error *err);

/* program.c: why it was not executed; of a file that was there it is the interpreter that is not. */
int program_not_executed(int code, const char *name, struct error *err);

/*
 * program.c: copies the executable in fd to a sealed memfd, or where the host has none that can be
 * executed takes fd as it is, and returns the descriptor; name is for the sentence. Refuses what is
 * no ELF file, or may not be executed where it is.
 */
int program_copy(int fd, const char *name, struct error *err);

/* self.c: a descriptor of the binary that we run, for reading; the caller's. */
int update_self_open(const struct update_self *self, bool *by_kept_fd, struct error *err);

/*
 * Our environment with `variable` ("NAME=VALUE", borrowed, as all strings are) and without those by
 * which the images of one update talk to each other. To be freed; NULL where there is no memory.
 */
char **handover_environ(char *variable, struct error *err);

/* wire.c: of struct update_wire. */
extern const struct vmstate update_vmstate;

/*
 * wire.c: the report of the last success, which who gives back shall still have. NULL: none. A new
 * reference from update_unpack_last().
 */
void update_pack_last(const json_t *last, struct update_wire *wire);
json_t *update_unpack_last(const struct update_wire *wire);

/*
 * migrate.c: after a way back, where `migrate` has failed: what was set for it, which was in memory
 * that is gone.
 */
void update_restore_migrate(struct update *u, const struct update_wire *wire);

/* schema.c: types for the command tables. */
extern const struct command_member update_args[], migrate_args[];
extern const struct command_member migrate_parameter_args[], migrate_capability_args[];
extern const struct command_type update_result_type, update_info_type, migrate_info_type;
extern const struct command_type migrate_parameters_type, migrate_capabilities_type;

/* way_back.c: copies of all descriptors, which outlive whatever a failing build closes. */
int way_back_keep(struct incoming *in, struct error *err);
void way_back_forget(struct incoming *in);
/* False: a file system takes its time to close one, and an exec would wait for it. */
bool way_back_is_forgotten(struct update *u);

/*
 * self.c: how we were started, as bytes; and the command that is to be executed, NULL: ourselves.
 */
int update_self_pack(const struct update_self *self, struct update_wire *wire, struct error *err);
int update_pack_command(const char *program, char *const *argv, struct update_wire *wire,
			struct error *err);

/* incoming.c: the section "update", read once; in->wire. */
int incoming_load_wire(struct incoming *in, struct error *err);

/*
 * The fd table, by which what is left of the exec is known; then what else it brings. In the end
 * whether each section and each descriptor has found its owner.
 */
int incoming_arrive(struct incoming *in, struct error *err);
int incoming_adopt(struct incoming *in, struct error *err);
int incoming_check_claimed(struct incoming *in, struct error *err);

/* report.c: how it went and what was carried, in a successor whose guest runs. */
json_t *update_report(const struct update *u, const struct incoming *in);

#endif
