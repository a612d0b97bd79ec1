/* SPDX-License-Identifier: MIT */
/*
 * A KVM in memory: enough of it that a whole machine is created, run, reset, saved and loaded
 * without /dev/kvm. State that is set can be got again. KVM_RUN plays a script of exits and then
 * sleeps until it is kicked, as a halted guest does. Every ioctl is recorded.
 *
 * As in the real one, an instruction that ended in a PIO or MMIO exit is completed by the next
 * KVM_RUN, even one with immediate_exit; what is read from a vCPU before that is counted as torn.
 *
 * Also as in the real one, to set one kind of state has an effect on others: general registers
 * forget a pending exception, the segments of a boot CPU at the reset vector make it runnable, a
 * local APIC that is set into or out of TSC deadline mode loses its initial count.
 */
#ifndef MOLT_TESTS_FAKE_KVM_H
#define MOLT_TESTS_FAKE_KVM_H

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <molt/vm/kvm.h>

#define FAKE_CAPS 256
#define FAKE_SLOTS 8
#define FAKE_RANGES 64
#define FAKE_FILL_MOST (256u << 10) /* one KVM_PRE_FAULT_MEMORY does no more than that */
#define FAKE_MSRS 512
#define FAKE_XSAVE_BYTES 5120 /* more than the old 4096 */
#define FAKE_SCRIPT 32
#define FAKE_CALLS 16384
#define FAKE_VMS 16
#define FAKE_VCPUS 32
#define FAKE_TSC_KHZ 2100000
#define FAKE_EFER_LMA (1u << 10)

/* MSRs of the fake that are like no other. */
#define FAKE_MSR_TSC_DEADLINE 0x6e0u
#define FAKE_MSR_PERF_EVENT 0x186u
#define FAKE_MSR_PERF_CAPABILITIES 0x345u
#define FAKE_PERF_CAPABILITIES 0x2005u /* an LBR format; full width writes */
#define FAKE_MSR_WALL_CLOCK 0x4b564d00u
#define FAKE_WALL_CLOCK_BYTES 12u
#define FAKE_MSR_ASYNC_PF_EN 0x4b564d02u
#define FAKE_MSR_STEAL_TIME 0x4b564d03u
#define FAKE_MSR_UNREADABLE 0x1a0u /* in the list, but cannot be read */
#define FAKE_MSR_READ_ONLY 0xcfu   /* in the list, can be read, not written */

/* One result of KVM_RUN. */
struct fake_exit {
	int error;       /* positive errno: KVM_RUN fails with it */
	uint32_t reason; /* KVM_EXIT_* */
	/* Comes while the instruction before is completed (string I/O), so also while parking. */
	bool goes_on;
	bool write;
	uint64_t addr; /* port or gpa */
	uint8_t size;
	uint8_t count;
	uint8_t data[16];
};

struct fake_call {
	int fd;
	unsigned long request;
	uint32_t msr; /* KVM_SET_MSRS, KVM_GET_MSRS: the first one, and how many */
	uint32_t nmsrs;
};

/* KVM_SET_CLOCK sets the clock so much later, each time; KVM_GET_CLOCK takes so long before it
 * reads it. */
extern uint64_t fake_clock_set_ns;
extern uint64_t fake_clock_get_ns;

struct fake_vm {
	int fd;
	unsigned int nslots;
	struct kvm_userspace_memory_region slots[FAKE_SLOTS];
	bool has_irqchip;
	bool slots_after_irqchip;
	struct kvm_irqchip chips[3];
	int64_t clock_offset;     /* kvmclock less CLOCK_MONOTONIC_RAW */
	unsigned int clock_waits; /* so many calls about it take 10 ms, after they have read it */
	bool level[24];
	unsigned int edges[24];
};

struct fake_range {
	uint64_t gpa, size;
};

struct fake_vcpu {
	int fd;
	uint32_t id;
	struct kvm_run *run;
	int wake; /* eventfd */

	struct kvm_cpuid2 cpuid_head;
	struct kvm_cpuid_entry2 cpuid[256];
	uint32_t msr_index[FAKE_MSRS];
	uint64_t msr_value[FAKE_MSRS];
	unsigned int msr_writes[FAKE_MSRS];
	uint32_t nmsrs;
	bool any_msr;
	uint64_t ram_end; /* FAKE_MSR_ASYNC_PF_EN is kept and refused from there on; 0: nowhere */
	uint64_t tsc_khz;
	uint64_t tsc_offset;
	struct kvm_regs regs;
	struct kvm_sregs2 sregs;
	struct kvm_xcrs xcrs;
	uint8_t xsave[FAKE_XSAVE_BYTES];
	struct kvm_lapic_state lapic;
	struct kvm_mp_state mp_state;
	struct kvm_vcpu_events events;
	struct kvm_debugregs debugregs;
	bool deadline_mode;      /* of the APIC timer */
	unsigned int armed;      /* so often was a timer started that was set */
	unsigned int ram_writes; /* calls after which KVM would have written to the guest's RAM */

	struct fake_exit script[FAKE_SCRIPT];
	unsigned int nscript;
	unsigned int at;
	bool settling;                      /* KVM_SET_SIGNAL_MASK lets a pending signal through */
	unsigned int settled;               /* such runs */
	uint8_t expired;                    /* vector of a timer that only KVM_RUN shows, or 0 */
	unsigned int unnoticed;             /* for so many of these runs KVM does not know of it */
	bool preemption_timer;              /* nor before the vCPU is to halt */
	bool in_flight;                     /* an exit whose instruction is not completed */
	struct fake_exit done[FAKE_SCRIPT]; /* completed ones, data as the guest then has it */
	unsigned int ndone;
	unsigned int runs;
	pthread_t runner;        /* who ran it last, where runs is not 0 */
	unsigned int torn_reads; /* state read with an instruction half done */
	unsigned int kvmclock_ctrls;
	struct fake_range filled[FAKE_RANGES]; /* of second-level tables; all that were, in order */
	unsigned int nfilled;
	struct fake_stats *stats; /* in what KVM_GET_STATS_FD gave; NULL: nobody has asked */
};

struct fake_kvm {
	struct kvm kvm; /* for struct machine_config */
	pthread_mutex_t lock;
	int caps[FAKE_CAPS];
	int api_version;
	/* What KVM_GET_SUPPORTED_CPUID gives instead of the fake's own, where not NULL. */
	const struct kvm_cpuid_entry2 *cpuid;
	uint32_t ncpuid;
	unsigned int thread_change_us; /* what KVM_RUN takes on another thread than the last time */
	bool no_stats;                 /* as KVM before Linux 5.14 */
	bool any_msr; /* vCPUs take every MSR that is set, as CPUs of all kinds together would */
	struct fake_vm *vms[FAKE_VMS];
	unsigned int nvms;
	struct fake_vcpu *vcpus[FAKE_VCPUS];
	unsigned int nvcpus;
	struct fake_call calls[FAKE_CALLS];
	unsigned int ncalls;
	/*
	 * Calls of this request fail with this errno, after some that do not; so often, where not
	 * 0.
	 */
	_Atomic unsigned long fail_request;
	_Atomic int fail_error;
	_Atomic unsigned int fail_skip;
	_Atomic unsigned int fail_times;
};

/* Fails the test where it cannot be had; to be freed with fake_kvm_free(). */
struct fake_kvm *fake_kvm_new(void);
void fake_kvm_free(struct fake_kvm *f);

/* What a descriptor stands for now; fails the test if for nothing. */
struct fake_vm *fake_kvm_vm(struct fake_kvm *f, int fd);
struct fake_vcpu *fake_kvm_vcpu(struct fake_kvm *f, int fd);

/* A guest's OUT and IN. */
struct fake_exit fake_out(uint16_t port, uint8_t size, uint32_t value);
struct fake_exit fake_in(uint16_t port, uint8_t size);

/* Appends to a vCPU's script; a sleeping KVM_RUN takes it up at once. */
void fake_vcpu_play(struct fake_kvm *f, int fd, const struct fake_exit *e);

/* Waits until the vCPU's whole script was played and completed (at most some seconds). */
void fake_vcpu_wait_played(struct fake_kvm *f, int fd);

/* Something else than zero in everything that can be saved and set; the same for the same seed. */
void fake_vcpu_randomise(struct fake_vcpu *v, uint32_t seed);

/* The MSR's place in msr_index, msr_value and msr_writes; fails the test if there is none. */
uint32_t fake_vcpu_msr(const struct fake_vcpu *v, uint32_t index);

/* The vCPU has been entered and left, in KVM's statistics: as by an exit that KVM serves itself. */
void fake_vcpu_count_exit(struct fake_vcpu *v);

/* It is halted and blocked, in these. */
void fake_vcpu_set_blocking(struct fake_vcpu *v, bool blocks);

/* The position in f->calls of the first call of request on fd (-1: on any) from start on, or -1. */
int fake_kvm_find_call(const struct fake_kvm *f, int fd, unsigned long request, unsigned int start);

/* A small deterministic generator, so that a failure can be had again. */
uint32_t fake_random(uint32_t *state);
void fake_random_bytes(uint32_t *state, void *buf, size_t len);

#endif
