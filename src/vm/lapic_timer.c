/* SPDX-License-Identifier: MIT */
/*
 * The local APIC's timer, one-shot and periodic (Intel SDM volume 3, "APIC Timer"). Theory of
 * operation.
 *
 * KVM tells and takes the current count as if no time passed in between. It counts nanoseconds
 * through the divider, so what an update took is taken off the count when it is set.
 *
 * An interrupt is neither lost nor doubled. When the timer expires KVM makes a note of it, which
 * no ioctl shows, and which becomes a bit in the IRR only inside KVM_RUN. So after a vCPU's last
 * instruction the count is read (the mark), and then the vCPU enters KVM_RUN once more without
 * executing anything (vcpu_settle.c): what had expired before the mark is in the IRR now. What
 * expires after the mark shows in the count when it is read to be saved, and its bit is set there.
 * Both may have seen the same expiry: it is the same bit. A one-shot that was over at the mark is
 * in doubt: taken, or KVM has not made its note yet.
 *
 * A one-shot timer that is over has a current count of 0, which KVM takes for "expires at once".
 * With an initial count of 0 it is quiet; that is how it is saved, and what the guest reads then.
 * KVM has no other way to have the one without the other.
 *
 * The phase does not wander. Each reading and each setting is off by some microseconds, as the
 * clock cannot be read in the same instant. Therefore the expiry that came with an update is kept,
 * and where the timer is found near it at the next one (a guest that set it anew is hardly ever so
 * near) that very expiry is saved again: by lapic_ns, which is exact, while the count has the
 * divider's steps.
 *
 * #syscalls vcpu: ioctl(KVM_GET_LAPIC)
 */
#include <string.h>

#include <molt/base/fd.h>
#include <molt/vm/lapic_timer.h>

#define APIC_TMR 0x180u
#define APIC_IRR 0x200u
#define APIC_LVTT 0x320u
#define APIC_TMICT 0x380u
#define APIC_TMCCT 0x390u
#define APIC_TDCR 0x3e0u
#define LVTT_VECTOR 0xffu
#define LVTT_MASKED (1u << 16)
#define LVTT_MODE_SHIFT 17u /* bits 17-18: 0 one-shot, 1 periodic, 2 TSC deadline */
#define ONE_SHOT 0u
#define PERIODIC 1u
#define DEADLINE 2u

#define READ_TRIES 3
#define TIGHT_NS 40000 /* longer than that, and the thread was interrupted */
#define NEAR_NS 200000 /* how far from its expiry a timer can be found for lack of exactness */

static uint32_t get(const struct kvm_lapic_state *lapic, uint32_t reg)
{
	uint32_t value;

	memcpy(&value, lapic->regs + reg, sizeof(value));
	return value;
}

static void put(struct kvm_lapic_state *lapic, uint32_t reg, uint32_t value)
{
	memcpy(lapic->regs + reg, &value, sizeof(value));
}

static uint32_t mode_of(const struct kvm_lapic_state *lapic)
{
	return (get(lapic, APIC_LVTT) >> LVTT_MODE_SHIFT) & 3;
}

/* Whether there is a timer that these functions are about. */
static bool is_set(const struct kvm_lapic_state *lapic)
{
	return mode_of(lapic) <= PERIODIC && get(lapic, APIC_TMICT);
}

bool lapic_timer_has_deadline(const struct kvm_lapic_state *lapic)
{
	return mode_of(lapic) == DEADLINE;
}

/* "Divide Configuration Register": bits 0, 1 and 3; 111 divides by 1. */
static uint32_t divisor(const struct kvm_lapic_state *lapic)
{
	uint32_t tdcr = get(lapic, APIC_TDCR);

	return 1u << ((((tdcr & 3) | ((tdcr & 8) >> 1)) + 1) & 7);
}

static bool is_masked(const struct kvm_lapic_state *lapic)
{
	return get(lapic, APIC_LVTT) & LVTT_MASKED;
}

/* Where the vector's bit is in IRR, ISR and TMR. */
static uint32_t word_and_bit(const struct kvm_lapic_state *lapic, uint32_t *bit)
{
	uint32_t vector = get(lapic, APIC_LVTT) & LVTT_VECTOR;

	*bit = 1u << (vector % 32);
	return (vector / 32) * 0x10;
}

static void make_pending(struct kvm_lapic_state *lapic)
{
	uint32_t bit, word = word_and_bit(lapic, &bit);

	if (is_masked(lapic))
		return;
	put(lapic, APIC_IRR + word, get(lapic, APIC_IRR + word) | bit);
	put(lapic, APIC_TMR + word, get(lapic, APIC_TMR + word) & ~bit); /* edge */
}

/* What is left of a period, when so many ticks have passed since count were left. */
static uint32_t periodic_count(uint32_t count, uint32_t initial, uint64_t ticks)
{
	if (ticks < count)
		return count - (uint32_t)ticks;
	return initial - (uint32_t)((ticks - count) % initial);
}

void lapic_timer_age(struct kvm_lapic_state *lapic, uint64_t elapsed_ns)
{
	uint32_t count = get(lapic, APIC_TMCCT);
	uint64_t ticks = elapsed_ns / divisor(lapic);

	if (!is_set(lapic) || !count)
		return;
	if (mode_of(lapic) == ONE_SHOT) {
		put(lapic, APIC_TMCCT, ticks < count ? count - (uint32_t)ticks : 1);
		return;
	}
	if (ticks >= count)
		make_pending(lapic);
	put(lapic, APIC_TMCCT, periodic_count(count, get(lapic, APIC_TMICT), ticks));
}

bool lapic_timer_mark(struct lapic_timer *t, struct kvm *kvm, int vcpu_fd)
{
	struct kvm_lapic_state lapic;

	t->marked_ns = now_ns();
	t->marked = kvm_call(kvm, vcpu_fd, KVM_GET_LAPIC, &lapic) >= 0;
	if (!t->marked)
		return false;
	t->count = get(&lapic, APIC_TMCCT);
	t->settled = t->count || mode_of(&lapic) != ONE_SHOT || is_masked(&lapic);
	return is_set(&lapic);
}

bool lapic_timer_is_in_doubt(struct lapic_timer *t, struct kvm *kvm, int vcpu_fd)
{
	struct kvm_lapic_state lapic;
	uint32_t bit, word;

	if (t->settled || kvm_call(kvm, vcpu_fd, KVM_GET_LAPIC, &lapic) < 0)
		return !t->settled;
	word = word_and_bit(&lapic, &bit);
	t->settled = get(&lapic, APIC_IRR + word) & bit;
	return !t->settled;
}

void lapic_timer_note_taken(struct lapic_timer *t)
{
	t->settled = true;
}

void lapic_timer_loaded(struct lapic_timer *t, const struct vcpu_state *st)
{
	const struct kvm_lapic_state *lapic = &st->lapic;

	*t = (struct lapic_timer){
		.marked = true,
		.marked_ns = st->lapic_ns,
		.count = get(lapic, APIC_TMCCT),
		.lvtt = get(lapic, APIC_LVTT),
		.initial = get(lapic, APIC_TMICT),
		.divide = divisor(lapic),
	};
	if (is_set(lapic) && t->count && st->lapic_ns)
		t->target_ns = st->lapic_ns + (uint64_t)t->count * t->divide;
}

int lapic_timer_get(struct vcpu_state *st, struct kvm *kvm, int vcpu_fd, struct error *err)
{
	for (int try = 1;; try++) {
		uint64_t before = now_ns(), took;
		int r = kvm_call(kvm, vcpu_fd, KVM_GET_LAPIC, &st->lapic);

		took = now_ns() - before;
		st->lapic_ns = before + took / 2;
		if (r < 0)
			return err_sys(err, -r, "KVM_GET_LAPIC");
		if (took < TIGHT_NS || try == READ_TRIES || !is_set(&st->lapic))
			return 0;
	}
}

static bool expired_since_mark(const struct lapic_timer *t, const struct vcpu_state *st)
{
	uint32_t count = get(&st->lapic, APIC_TMCCT);

	if (mode_of(&st->lapic) == ONE_SHOT)
		return !count && (t->count || !t->settled);
	/* A periodic count is 0 while KVM has not yet noticed that it is over. */
	return !t->count || !count || count > t->count ||
	       st->lapic_ns - t->marked_ns >= (uint64_t)t->count * divisor(&st->lapic);
}

static void keep_target(const struct lapic_timer *t, struct vcpu_state *st)
{
	const struct kvm_lapic_state *lapic = &st->lapic;
	const uint64_t period = (uint64_t)t->initial * t->divide;
	uint64_t target = st->lapic_ns + (uint64_t)get(lapic, APIC_TMCCT) * divisor(lapic);
	int64_t off = (int64_t)(target - t->target_ns);

	if (!t->target_ns || t->lvtt != get(lapic, APIC_LVTT) || t->divide != divisor(lapic) ||
	    t->initial != get(lapic, APIC_TMICT))
		return;
	if (mode_of(lapic) == PERIODIC) {
		off %= (int64_t)period;
		if (off > (int64_t)period / 2)
			off -= (int64_t)period;
		else if (off < -(int64_t)period / 2)
			off += (int64_t)period;
	}
	if (off < NEAR_NS && off > -NEAR_NS && (uint64_t)(off < 0 ? -off : off) < period / 4)
		st->lapic_ns -= (uint64_t)off;
}

void lapic_timer_save(const struct lapic_timer *t, struct vcpu_state *st)
{
	struct kvm_lapic_state *lapic = &st->lapic;
	uint64_t ticks;

	if (!is_set(lapic) || !t->marked)
		return;
	if (expired_since_mark(t, st))
		make_pending(lapic);
	if (!get(lapic, APIC_TMCCT) && mode_of(lapic) == ONE_SHOT) {
		put(lapic, APIC_TMICT, 0);
		return;
	}
	if (!get(lapic, APIC_TMCCT)) {
		ticks = (st->lapic_ns - t->marked_ns) / divisor(lapic);
		put(lapic, APIC_TMCCT, periodic_count(t->count, get(lapic, APIC_TMICT), ticks));
	}
	keep_target(t, st);
}

int lapic_timer_set(const struct vcpu_state *st, struct kvm *kvm, int vcpu_fd, struct error *err)
{
	for (int try = 1;; try++) {
		struct kvm_lapic_state lapic = st->lapic;
		uint64_t now = now_ns();
		int r;

		if (st->lapic_ns && now > st->lapic_ns)
			lapic_timer_age(&lapic, now - st->lapic_ns);
		r = kvm_call(kvm, vcpu_fd, KVM_SET_LAPIC, &lapic);
		if (r < 0)
			return err_sys(err, -r, "KVM_SET_LAPIC");
		/* What a repetition takes is over before the timer could have been waited for. */
		if (now_ns() - now < TIGHT_NS || try == READ_TRIES || !get(&lapic, APIC_TMCCT))
			return 0;
	}
}

/*
 * Not only is nothing started: the mode stays that of a fresh vCPU, too. A LAPIC that is set into
 * or out of TSC deadline mode loses its initial count in KVM, and the timer would never start.
 */
int lapic_timer_rehearse(const struct vcpu_state *st, struct kvm *kvm, int vcpu_fd,
			 struct error *err)
{
	struct kvm_lapic_state lapic = st->lapic;
	int r;

	put(&lapic, APIC_LVTT, get(&lapic, APIC_LVTT) & ~(3u << LVTT_MODE_SHIFT));
	put(&lapic, APIC_TMICT, 0);
	put(&lapic, APIC_TMCCT, 0);
	r = kvm_call(kvm, vcpu_fd, KVM_SET_LAPIC, &lapic);
	return r < 0 ? err_sys(err, -r, "KVM_SET_LAPIC") : 0;
}
