/* SPDX-License-Identifier: MIT */
/* What tests do with a fake KVM: scripts for its vCPUs, random state, questions about its calls. */
#include <string.h>
#include <unistd.h>

#include <molt/base/fd.h>

#include "fake_kvm.h"

#define WAIT_PLAYED_MS 20000

uint32_t fake_random(uint32_t *state)
{
	/* xorshift32 */
	*state ^= *state << 13;
	*state ^= *state >> 17;
	*state ^= *state << 5;
	return *state;
}

__attribute__((noinline)) void fake_random_bytes(uint32_t *state, void *buf, size_t len)
{
	uint8_t *p = buf;

	while (len--)
		*p++ = (uint8_t)(fake_random(state) >> 11);
}

struct fake_exit fake_out(uint16_t port, uint8_t size, uint32_t value)
{
	struct fake_exit e = {
		.reason = KVM_EXIT_IO,
		.addr = port,
		.size = size,
		.count = 1,
		.write = true,
	};

	memcpy(e.data, &value, sizeof(value));
	return e;
}

struct fake_exit fake_in(uint16_t port, uint8_t size)
{
	return (struct fake_exit){ .reason = KVM_EXIT_IO, .addr = port, .size = size, .count = 1 };
}

void fake_vcpu_play(struct fake_kvm *f, int fd, const struct fake_exit *e)
{
	struct fake_vcpu *v = fake_kvm_vcpu(f, fd);
	const uint64_t one = 1;

	pthread_mutex_lock(&f->lock);
	assert_true(v->nscript < FAKE_SCRIPT);
	v->script[v->nscript++] = *e;
	pthread_mutex_unlock(&f->lock);
	assert_int_equal(write(v->wake, &one, sizeof(one)), sizeof(one));
}

void fake_vcpu_wait_played(struct fake_kvm *f, int fd)
{
	struct fake_vcpu *v = fake_kvm_vcpu(f, fd);
	bool played = false;

	for (int ms = 0; ms < WAIT_PLAYED_MS && !played; ms++) {
		pthread_mutex_lock(&f->lock);
		played = v->at == v->nscript && !v->in_flight;
		pthread_mutex_unlock(&f->lock);
		if (!played)
			usleep(1000);
	}
	assert_true(played);
}

static void randomise_segment(struct kvm_segment *s, uint32_t *seed)
{
	fake_random_bytes(seed, s, sizeof(*s));
	s->padding = 0;
}

void fake_vcpu_randomise(struct fake_vcpu *v, uint32_t seed)
{
	struct kvm_segment *const segments[] = {
		&v->sregs.cs, &v->sregs.ds, &v->sregs.es, &v->sregs.fs,
		&v->sregs.gs, &v->sregs.ss, &v->sregs.tr, &v->sregs.ldt,
	};

	fake_random_bytes(&seed, v->msr_value, sizeof(v->msr_value));
	fake_random_bytes(&seed, &v->tsc_offset, sizeof(v->tsc_offset));
	fake_random_bytes(&seed, &v->regs, sizeof(v->regs));
	fake_random_bytes(&seed, &v->sregs, sizeof(v->sregs));
	for (size_t i = 0; i < ARRAY_SIZE(segments); i++)
		randomise_segment(segments[i], &seed);
	if (!(v->sregs.efer & FAKE_EFER_LMA))
		v->sregs.cs.l = 0;
	memset(v->sregs.gdt.padding, 0, sizeof(v->sregs.gdt.padding));
	memset(v->sregs.idt.padding, 0, sizeof(v->sregs.idt.padding));
	fake_random_bytes(&seed, &v->xcrs.xcrs, sizeof(v->xcrs.xcrs));
	v->xcrs.nr_xcrs = 1;
	fake_random_bytes(&seed, v->xsave, sizeof(v->xsave));
	fake_random_bytes(&seed, &v->lapic, sizeof(v->lapic));
	/* A timer that is not set: of one that is, saving and loading change something. */
	memset(v->lapic.regs + 0x380, 0, 4);
	memset(v->lapic.regs + 0x390, 0, 4);
	fake_random_bytes(&seed, &v->mp_state, sizeof(v->mp_state));
	fake_random_bytes(&seed, &v->events, offsetof(struct kvm_vcpu_events, reserved));
	fake_random_bytes(&seed, &v->events.exception_has_payload,
			  sizeof(v->events) -
				  offsetof(struct kvm_vcpu_events, exception_has_payload));
	v->events.nmi.pad = 0;
	fake_random_bytes(&seed, &v->debugregs, offsetof(struct kvm_debugregs, reserved));
}

uint32_t fake_vcpu_msr(const struct fake_vcpu *v, uint32_t index)
{
	uint32_t i = 0;

	while (i < v->nmsrs && v->msr_index[i] != index)
		i++;
	assert_true(i < v->nmsrs);
	return i;
}

int fake_kvm_find_call(const struct fake_kvm *f, int fd, unsigned long request, unsigned int start)
{
	for (unsigned int i = start; i < f->ncalls; i++)
		if (f->calls[i].request == request && (fd < 0 || f->calls[i].fd == fd))
			return (int)i;
	return -1;
}
