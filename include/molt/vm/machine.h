/* SPDX-License-Identifier: MIT */
/*
 * The machine: the owner of KVM's VM, guest RAM, vCPUs, buses and devices. It walks device classes
 * and never names one. All functions are for the main thread unless they say otherwise.
 */
#ifndef MOLT_VM_MACHINE_H
#define MOLT_VM_MACHINE_H

#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include <molt/base/error.h>
#include <molt/base/loop.h>
#include <molt/state/fdtable.h>
#include <molt/state/stream.h>
#include <molt/vm/bus.h>
#include <molt/vm/cpuid_model.h>
#include <molt/vm/crew.h>
#include <molt/vm/device.h>
#include <molt/vm/kvm.h>
#include <molt/vm/memory.h>
#include <molt/vm/msi_route.h>
#include <molt/vm/vcpu.h>

#define MACHINE_MAX_VCPUS 254 /* 8-bit APIC ids; 255 is the broadcast */
#define MACHINE_MAX_DEVICES 64
#define MACHINE_NAME_MAX 63

enum run_state {
	RUN_STATE_PRELAUNCH, /* created with --pause, never ran */
	RUN_STATE_RUNNING,
	RUN_STATE_PAUSED,
	RUN_STATE_SHUTDOWN,
	RUN_STATE_INTERNAL_ERROR,
	RUN_STATE_COUNT
};

/* QMP's name of a run state. */
const char *run_state_name(enum run_state state);

/* What a guest or a device can ask of the machine; bits of machine->requests. */
enum machine_request {
	MACHINE_REQ_SHUTDOWN = 1 << 0, /* guest powered off (S5) */
	MACHINE_REQ_RESET = 1 << 1,    /* guest reset */
	MACHINE_REQ_TRIPLE_FAULT = 1 << 2,
	MACHINE_REQ_VCPU_ERROR = 1 << 3, /* KVM internal error, failed entry, ... */
	MACHINE_REQ_PANICKED = 1 << 4,   /* guest says it panicked (pvpanic); it goes on running */
	MACHINE_REQ_SERVICE = 1 << 5,    /* a device needs main, see struct device_class */
};

/* Why the process ends; the exit codes of molt(1). */
enum machine_exit {
	MACHINE_EXIT_OK = 0,
	MACHINE_EXIT_FAILURE = 1,
	MACHINE_EXIT_USAGE = 2,
	MACHINE_EXIT_TRIPLE_FAULT = 3,
	MACHINE_EXIT_VCPU_ERROR = 4,
};

/* What the world is told. */
enum machine_event {
	MACHINE_EVENT_STOP,
	MACHINE_EVENT_RESUME,
	MACHINE_EVENT_RESET, /* detail: "guest-reset" or "host-qmp-system-reset" */
	/*
	 * detail: "guest-shutdown", "guest-reset" (with --no-reboot, or the reset failed),
	 * "guest-panic" (it cannot run any further), "host-qmp-quit", "host-qmp-system-reset" (the
	 * reset failed), "host-signal", "host-ui" (Ctrl-A x)
	 */
	MACHINE_EVENT_SHUTDOWN,
	MACHINE_EVENT_POWERDOWN,
	MACHINE_EVENT_GUEST_PANICKED, /* detail: "poweroff" or "run" (the action taken) */
};

struct machine;

/* What the machine calls in rooms above it. */
struct machine_ops {
	/*
	 * Puts kernel and tables into RAM and vCPU 0's first registers into KVM: on a cold start
	 * and on each reset.
	 */
	int (*load_boot)(struct machine *m, void *opaque, struct error *err);
	void (*event)(struct machine *m, void *opaque, enum machine_event ev, const char *detail);
	/*
	 * Called by each vCPU thread before it looks at what a guest gave it; NULL: nothing to do.
	 */
	int (*confine)(struct error *err);
	void *opaque;
};

/* The machine's own migrated state: what was configured and how it stands. */
struct machine_guest {
	char name[MACHINE_NAME_MAX + 1];
	uint64_t ram_size;
	uint32_t cpus;
	uint32_t run_state; /* enum run_state */
	uint32_t requests;  /* pending enum machine_request bits */
	bool no_reboot;
	uint8_t reserved[3];
	char cpu_model[CPU_MODEL_MAX + 1]; /* see cpuid.h */
	struct msr_lists msrs;             /* saved: travels with each vCPU */
};

struct machine {
	struct machine_guest guest;
	uint8_t uuid[16];
	uint32_t machine_version; /* what the guest sees; see docs/guest-abi.md */
	const struct machine_model *model;

	struct kvm kvm;
	struct kvm_vm vm;
	int avoid_vm_fd; /* what kvm_vm_create() is not to use, or -1 */
	struct memory memory;
	struct bus bus;
	struct msi_routes msi_routes;
	struct loop *loop;
	struct machine_ops ops;

	uint64_t retry_ns;  /* how long a vCPU that KVM has no room for is tried again */
	struct vcpu *vcpus; /* guest.cpus of them */
	struct vcpu_state *vcpu_states; /* one each */
	bool vcpus_are_read;            /* by machine_read_vcpus() */
	bool rehearses;                 /* the state that it is built from is not the last one */
	struct vcpu_state *rehearsed;   /* what each was set to in a rehearsal, or NULL */
	/*
	 * The threads that run them, a member each; the second is the stand-in's during an update
	 * (src/vm/stand_in.c).
	 */
	struct crew crews[2];
	struct crew *crew;         /* which of them runs the guest */
	struct crew *stand_in;     /* which of them is the stand-in's, or NULL */
	uint64_t thread_change_ns; /* see machine_hands_over_slowly(); 0: not known */
	struct stream *incoming;   /* while it is built from one */

	struct device *planned[MACHINE_MAX_DEVICES]; /* all that there will be; device.c */
	unsigned int nplanned;
	struct device *devices[MACHINE_MAX_DEVICES]; /* those that are there, in order of creation */
	unsigned int ndevices;

	_Atomic uint32_t requests;
	struct loop_wake request_wake;
	int exit_code; /* enum machine_exit, or 128 + signal */
};

struct machine_config {
	const char *name;
	uint64_t ram_size;
	uint32_t cpus;
	bool no_reboot;
	const char *cpu_model;    /* see cpuid.h; NULL: the host's */
	uint32_t machine_version; /* 0: the model's newest */
	struct machine_ops ops;
	struct loop *loop;
	struct memory_options memory;
	/* Cold start: what options ask for, in their order. */
	const struct device_request *devices;
	size_t ndevices;
	/* Incoming: all of the above that the guest sees comes from the stream instead. */
	struct stream *stream;
	struct fdtable *fds;
	bool rehearsal; /* the guest runs elsewhere: machine_load_again() is to follow */
	const cpu_set_t *vcpu_cpus; /* where vCPUs' threads may run, or NULL: where the caller may */
	const struct machine_model *model; /* machine_model, or a test's own */
	/* Cold start: /dev/kvm where it is open already; taken, and -1 then. Or NULL. */
	int *kvm_fd;
	/*
	 * A fake KVM for tests: its ioctl and opaque, and on a cold start a copy of its fd. Or
	 * NULL.
	 */
	const struct kvm *kvm;
};

/*
 * Builds the machine, its vCPUs parked, in run state PRELAUNCH (cold) or as saved (incoming). On
 * failure nothing is left behind.
 */
int machine_create(struct machine *m, const struct machine_config *cfg, struct error *err);
void machine_destroy(struct machine *m);

/*
 * Starts the vCPU threads' running (run state RUNNING) or stops it (PAUSED), with the event. A
 * guest that was paused is told of it before it runs.
 */
int machine_resume(struct machine *m, struct error *err);
int machine_pause(struct machine *m, struct error *err);

/*
 * Tells the guest's watchdogs that it did not run for a while, on each vCPU at its next KVM_RUN.
 * vCPUs parked. A guest that does not use kvmclock cannot be told.
 */
void machine_tell_paused(struct machine *m);

/*
 * The bare mechanism below these, without run state and events: for the update. Parking waits until
 * every vCPU is at an instruction boundary with no PIO or MMIO half done. Returns the time when
 * the last one stopped.
 */
uint64_t machine_park_vcpus(struct machine *m);
/*
 * The same for vCPUs that run, and where one does not stop within 3 s they run on:
 * -ETIMEDOUT. Where next is not NULL its threads are to go on, the stand-in's: they wake up and
 * stay awake, until machine_keep_awake() ends it; and where this crew's are soon.
 */
int machine_park_in_time(struct machine *m, struct crew *next, uint64_t *stopped_ns,
			 struct error *err);
void machine_rouse_vcpus(struct machine *m);

void machine_unpark_vcpus(struct machine *m);

/*
 * On the way through an update's pause: vCPU threads that park stay awake, to help and to run soon.
 */
void machine_keep_awake(struct machine *m, bool on);

/* Waits until the first vCPU has entered KVM_RUN after machine_unpark_vcpus(); its time. */
uint64_t machine_wait_entered(struct machine *m);

/* The same without waiting: 0 where none has yet. */
uint64_t machine_entered(struct machine *m);

/*
 * The host's CPUs that this process may use and where no vCPU was when it was last entered. False
 * where there are none, or that cannot be known (a host with more CPUs than a cpu_set_t).
 */
bool machine_spare_cpus(struct machine *m, cpu_set_t *spare);

/*
 * Everything back to power-on with a fresh KVM VM, and the RESET event with the reason; the run
 * state stays as it was. After an error the machine is good for nothing but its end.
 */
int machine_reset(struct machine *m, const char *reason, struct error *err);

/*
 * Whether this host's KVM makes a guest wait for so long when other threads take its vCPUs over
 * that it had better be stopped from before an update's exec until its end. Finds that out, for it
 * is a setting of the host's, and logs it when it has become so.
 */
bool machine_hands_over_slowly(struct machine *m);

/*
 * For an update, in the process that is to stand in (src/vm/stand_in.c): threads for the vCPUs,
 * parked, beside those that run the guest. -errno, of pthread_create() mostly; unmake in any case.
 */
int machine_make_stand_in(struct machine *m, struct error *err);

/* Ends those threads, in the process that has them. */
void machine_unmake_stand_in(struct machine *m);

/* The same where that process has ended. */
void machine_forget_stand_in(struct machine *m);

/* See rest and go_on of struct device_class. -EBUSY mostly. */
int machine_rest(struct machine *m, struct error *err);
void machine_go_on(struct machine *m);

/*
 * With every vCPU parked: the stand-in's threads are the vCPUs' from now on, or the others are
 * again. Each does no harm where it was done already: its caller may have died in between. The
 * parking and unparking of each side's threads is that process's; letting go is anybody's.
 */
void machine_hand_over(struct machine *m);
void machine_hand_back(struct machine *m);

/*
 * In the stand-in, the vCPUs parked, before they run on: a successor that gave up at the switch may
 * have left marks in guest RAM by which a TLB flush would be lost (steal_time.c).
 */
void machine_clear_preempted(struct machine *m);

/* Of quiesced devices, as soon as the stand-in's guest runs: see serve of struct device_class. */
void machine_serve(struct machine *m);

/* In a predecessor whose stand-in has ended while it had the guest, after machine_hand_back(). */
void machine_lose_stand_in(struct machine *m);

/*
 * In a stand-in whose predecessor has ended, the vCPUs parked: makes anew what was the other
 * process's, and tells the guest that it was paused. Devices are to resume then.
 */
void machine_take_back(struct machine *m, bool stood_in);

/*
 * From any thread: the request is carried out by main; the calling vCPU parks for all but PANICKED.
 */
void machine_request(struct machine *m, enum machine_request req);

/* Ends loop_run() with the exit code, after the SHUTDOWN event. */
void machine_exit(struct machine *m, int code, const char *reason);

/* Presses the ACPI power button: the first class that has one. -ENODEV if none has. */
int machine_power_button(struct machine *m, struct error *err);

/*
 * Before this process is stopped by job control, and when it goes on, after SIGSTOP as well: see
 * struct device_class. vCPUs parked; stopping may be without consequence, and going on come
 * twice.
 */
void machine_job_control(struct machine *m, bool stopping);

/* Whether any of its devices is served by another process. */
bool machine_has_back_ends(const struct machine *m);

/*
 * Whether devices may have KVM serve their eventfds, which an update takes off before the pause and
 * allows again behind it. For the guest there is no difference.
 */
void machine_fast_paths(struct machine *m, bool on);

/*
 * In a successor, also one that is the predecessor again, when the guest runs and whoever asked has
 * his answer; see struct device_class.
 */
void machine_updated(struct machine *m, enum device_update how);

/*
 * Devices drained, and running again. -errno with the sentence: some may be drained, and the caller
 * has all of them go on, by machine_unquiesce() or, in a stand-in, machine_serve(). The second is
 * also what makes an incoming machine's devices live, after the commit.
 */
int machine_quiesce(struct machine *m, struct error *err);
void machine_unquiesce(struct machine *m);

/*
 * In a successor whose machine was built from stream `first` and has not run: takes over what
 * differs in `last`, a later state of the same machine (machine_again.c). -EBADMSG, -EPROTO where it
 * has a section that nobody knows, and what else post_load() says; the machine is of no use then.
 */
int machine_load_again(struct machine *m, struct stream *first, struct stream *last,
		       struct error *err);

/* When there is time: what that one needed. */
void machine_forget_rehearsal(struct machine *m);

/*
 * Reads the state of each vCPU, one after the other, of a machine that runs: each stops for its own
 * reading alone. Good enough for the next machine_save() where machine_save_news() is to follow.
 */
int machine_read_vcpus(struct machine *m, struct error *err);
/*
 * For a crew that did not park these vCPUs: which of them wait, by their state. Who wants to
 * execute something is let go first, and helps last.
 */
void machine_note_who_waits(struct machine *m, struct crew *crew);
/*
 * Has the threads of a crew in the park get ready for the vCPUs that execute something, by their
 * state: what KVM does when a vCPU first runs is done in a rehearsal (vcpu_warm.c), and they wake
 * up on none of the CPUs in not_on (NULL: wherever), if there are others. So do some of those that
 * do not, for the jobs before.
 */
void machine_prepare_vcpus(struct machine *m, struct crew *crew, const cpu_set_t *not_on);
/* That machine_save() is not to come, or is to read them itself. */
void machine_forget_reading(struct machine *m);

/* Writes all sections and lists all descriptors. vCPUs parked, devices quiesced. */
int machine_save(struct machine *m, struct stream_writer *w, struct fdtable *fds,
		 struct error *err);

/*
 * The same later, without the sections of vCPUs and devices that are as they were then; vCPUs are
 * read anew.
 */
int machine_save_news(struct machine *m, struct stream_writer *w, struct fdtable *fds,
		      struct error *err);

/*
 * The same sections, fields and descriptors while the guest runs, for the check before an update:
 * its vCPUs are not asked, so the values are old ones. MSRs that the stream's writer did not know,
 * but this host has, are found here, so that the next machine_save() has them.
 */
int machine_describe(struct machine *m, struct stream_writer *w, struct fdtable *fds,
		     struct error *err);

/* All that machines of this model can take over, whatever their version. */
void machine_takeover_kinds(const struct machine_model *model, struct takeover_kinds *kinds);

/*
 * Whether a machine of the configuration's model and version can have the devices that it asks for,
 * whatever the host is like: how many, which ids and which slots. Makes none. 0, -EINVAL, -ERANGE,
 * -ENOSPC, -ENOMEM with the sentence.
 */
int machine_check_devices(const struct machine_config *cfg, struct error *err);

/*
 * How many devices of a class a stream lists, of those that options make; see struct
 * device_request. For the check.
 */
uint32_t machine_peek_devices(struct stream *s, const struct device_class *cls);

/*
 * Reads what was configured from a stream, for the check: no machine is made. Refuses what
 * machine_create() would, a machine version that the model does not have among it.
 */
int machine_peek_config(struct machine_guest *guest, const struct machine_model *model,
			struct stream *s, struct error *err);

#endif
