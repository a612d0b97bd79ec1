/* SPDX-License-Identifier: MIT */
/*
 * The update: this process replaces its own binary while the guest's RAM and open files stay.
 * docs/live-update.md tells how, src/update/steps.c has the table of its steps, of which each side
 * runs its half.
 */
#ifndef MOLT_UPDATE_UPDATE_H
#define MOLT_UPDATE_UPDATE_H

#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include <jansson.h>

#include <molt/base/command.h>
#include <molt/base/error.h>
#include <molt/base/loop.h>
#include <molt/state/fdtable.h>
#include <molt/state/kinds.h>
#include <molt/state/stream.h>
#include <molt/vm/machine.h>
#include <molt/vm/refault.h>

struct incoming;
struct update_wire;

/* How this molt was started, so that it can be started again. */
struct update_self {
	char *path;  /* absolute, symbolic links kept: they are how a new version is put in place */
	char **argv; /* path, "run", the options as given without --incoming; NULL-terminated */
	char **wrapper; /* what executed us for an update, where that was not our binary; or NULL */
	const char *version;
	int exe_fd; /* the binary itself where /proc cannot give it, else -1 */
};

/*
 * argv: of `molt run`, with the program or "run" in argv[0]. Call early, before anything changes
 * the working directory.
 */
int update_self_init(struct update_self *self, int argc, char **argv, const char *version,
		     struct error *err);
void update_self_fini(struct update_self *self);

/*
 * A wrapper that the update went by is what the next one goes by. And where this process is the
 * predecessor again after a successor gave up: how it was started comes from the stream, not from
 * the command line that the way back used.
 */
int update_self_load(struct update_self *self, struct incoming *in, struct error *err);

/* What the update needs of rooms above it. */
struct update_ops {
	/*
	 * Saves all that the successor is built of, the machine and update_save() among it.
	 * describe: the guest runs, and only names and shapes matter, see machine_describe().
	 */
	int (*save)(void *opaque, struct stream_writer *w, struct fdtable *fds, bool describe,
		    struct error *err);
	/* Hands queued output of the control socket to the kernel. */
	void (*flush)(void *opaque);
	/* Answers the command that came from client with this id; see control_reply(). */
	void (*reply)(void *opaque, uint32_t client, const char *id, json_t *result,
		      const struct error *err);
	/* Takes a descriptor that the client has sent, by its name; see control_take_fd(). */
	int (*take_fd)(void *opaque, uint32_t client, const char *name, struct error *err);
	/* Sends an event to all clients; takes over data. */
	void (*event)(void *opaque, const char *name, json_t *data);
	/* The same in the stand-in, for those who have time for it; see control_passing_event(). */
	void (*passing_event)(void *opaque, const char *name, json_t *data);
	/*
	 * This process is the stand-in and has taken the guest back: renew what belongs to a
	 * process (signals), and when that is done run the event loop to its end. The second never
	 * returns.
	 */
	int (*reborn)(void *opaque, struct error *err);
	/*
	 * This process is, or will be until further notice, the one that runs the guest: see
	 * notify_main_pid(). A service manager that hears of it too late takes the end of another
	 * one for the guest's, and kills this one.
	 */
	int (*main_pid)(void *opaque, pid_t pid, unsigned int wait_ms);
	bool (*can_tell_main_pid)(void *opaque);
	void (*run_on)(void *opaque);
	void *opaque;
};

struct update;
struct stand_in_link;

/* What this room adds to stream and fd table. */
void update_takeover_kinds(struct takeover_kinds *kinds);

/* The update that is under way, for its successor: section "update". */
void update_save(const struct update *u, struct stream_writer *w);

/* Whether this process is only asked whether it could take over; see check.c. */
bool update_is_check(void);

/*
 * Holds the description that the predecessor wrote against kinds, as far as the machine's version
 * has them, lets check_options() add what
 * the command line says against it, and answers. 0, or why no answer could be given.
 */
int update_check_answer(const struct takeover_kinds *kinds,
			void (*check_options)(void *opaque, struct stream *s, json_t *reasons),
			void *opaque, struct error *err);

/* Adds a reason, a sentence. */
void update_check_reason(json_t *reasons, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));

struct take_over_ops;

/* A successor that takes over: what it got, and how far it is. */
struct incoming {
	/* From the command line. */
	const char *uri;  /* --incoming, or NULL */
	uint64_t main_ns; /* when the successor's main began, CLOCK_MONOTONIC, as all times are */

	const struct take_over_ops *ops;
	void *opaque;
	struct update *update; /* once it is built */

	struct fdtable *fds;
	struct stream stream;
	void *stream_buf;
	size_t stream_len;
	bool stream_mapped; /* stream_buf is a mapping, not from malloc() */
	struct stand_in_link *link;
	void *final; /* where the stand-in saves at the switch, or NULL */
	size_t final_size;
	struct stream last;       /* what it has saved */
	struct update_wire *wire; /* section "update", once somebody asked for it */
	struct fdtable *spare;    /* copies of all descriptors, for the way back; see way_back.c */
	int table_fd;
	const char *failure; /* we are the predecessor again: why the successor gave up */

	uint64_t began_ns;  /* the step that is under way */
	uint64_t ended_ns;  /* it, where another process did it; else 0 */
	bool is_rehearsal;  /* the stand-in runs the guest, and will save it once more */
	bool is_switch;     /* the stand-in ran the guest, and has saved it for us */
	bool maps_ram;      /* guest RAM, in advance */
	uint64_t mapped;    /* bytes of it */
	uint64_t handed_ns; /* the first vCPU in the stand-in; 0: there was none, or it was paused */
	uint64_t stopped_ns; /* the last vCPU, for good; 0: it was paused */
	uint64_t entered_ns; /* the first vCPU; 0: the guest is paused */
};

/* What a successor's steps need of rooms above them. They run in this order. */
struct take_over_ops {
	/* The fd table and the stream are there: how this process is to be. */
	int (*adopt)(void *opaque, struct incoming *in, struct error *err);
	/* All that the stream is the state of; *u is its update server. */
	int (*build)(void *opaque, struct incoming *in, struct update **u, struct error *err);
	/* The guest runs in the stand-in: calls update_map_ram() if RAM is to be mapped in advance.
	 */
	void (*map_ram)(void *opaque, struct incoming *in);
	/* The guest runs here, and whoever asked has the answer. */
	void (*after)(void *opaque, struct incoming *in);
};

/* Whether an fd table waits in the environment, that is, whether a molt started this one. */
bool update_is_successor(void);

/*
 * The successor's half of an update, from the fd table to the guest that runs: its column of the
 * table in update/steps.c. in: uri and main_ns set, all else 0. The state comes from uri
 * ("file:PATH"), or from the descriptor in the fd table where that is NULL or is what the
 * predecessor chose. A stream whose nonce is not the table's is refused. -errno is only possible
 * before anything ran or anybody outside could see a thing; update_give_up() is to follow then,
 * else update_incoming_fini().
 */
int update_take_over(struct incoming *in, const struct take_over_ops *ops, void *opaque,
		     struct error *err);
void update_incoming_fini(struct incoming *in);

/*
 * Of take_over_ops.map_ram(): for limit_ns at most, and not longer than the stand-in waits or
 * nobody else does; see refault_before().
 */
int update_map_ram(struct update *u, struct incoming *in, struct refault *r, uint64_t limit_ns,
		   struct error *err);

/* Whether the guest runs in a stand-in, and what is built is a rehearsal until the commit. */
bool update_is_rehearsal(const struct incoming *in);

/*
 * Where vCPUs' threads may run: until it has the guest this process keeps off its CPUs. NULL: it
 * does not. in's, until step `after`.
 */
const cpu_set_t *update_usual_cpus(const struct incoming *in);

/*
 * The successor cannot take over: execs the predecessor's binary again, in this process. Returns
 * where that is not possible, with the reason left for the stand-in, which then runs the guest on:
 * the caller must end the process at once, with nothing torn down, for everything is still in use.
 */
void update_give_up(struct incoming *in, const struct error *err);

/* The update server of a machine. Its commands are update_commands and migrate_commands. */
int update_create(struct update **u, struct machine *m, const struct update_self *self,
		  const struct update_ops *ops, struct error *err);
void update_destroy(struct update *u);

/* After the commit, for machine_updated(). */
enum device_update update_of_devices(const struct incoming *in);

/* Whether memory is short, and guest RAM is to be mapped by the guest alone; see src/update/room.c.
 */
bool update_is_lazy(const struct incoming *in);

/* For control_add_events(). */
extern const struct command_event update_events[];
extern const size_t update_events_count;

/* Commands for control_add_commands(), opaque: struct update. */
extern const struct command update_commands[];
extern const size_t update_commands_count;
extern const struct command migrate_commands[]; /* QEMU's sequence for cpr-exec */
extern const size_t migrate_commands_count;

#endif
