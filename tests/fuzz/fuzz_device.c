/* SPDX-License-Identifier: MIT */
/*
 * One device class, by its name in the corpus's (device_CLASS): what a guest, its backend, the
 * clock and updates can do to it, in any order. Any state that a guest can bring about must be
 * saved, loaded and saved again as the same bytes; of a state that was spoilt on its way the load
 * may refuse it, but what it accepts is held to the same.
 *
 * KVM is a few bytes that keep what is put into them. Time is the harness's own: the clock stands
 * still but for OP_TIME, and a timer goes off when that passes it. (Linked with --wrap.)
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include <molt/base/fd.h>
#include <molt/base/log.h>

#include "../unit/fake_machine.h"
#include "fuzz.h"

#define START_SECONDS 1700000000
#define NS_PER_SECOND 1000000000ull
#define INPUT_MAX 64
#define TURNS 4
#define TIME_BACK 200

enum op {
	OP_READ,
	OP_WRITE,
	OP_READ_AGAIN, /* more of these: devices are mostly registers */
	OP_WRITE_AGAIN,
	OP_WRITE_NEAR, /* a write where the last access was */
	OP_INPUT,
	OP_LOOP,
	OP_RESET,
	OP_QUIESCE,
	OP_MIGRATE_AND_STAY, /* the update fails after the load */
	OP_MIGRATE,
	OP_SPOIL,
	OP_TIME,
	OP_PEER,
	OP_KVM,
	OP_BUTTON,
	OPS
};

/* What KVM holds of the device. */
struct kvm_part {
	struct kvm_irqchip chips[3];
	uint64_t clock_offset;
	uint64_t wall_clock;
};

static struct {
	const struct device_class *cls;
	struct fake_machine *now;
	struct vcpu vcpu;
	struct vcpu_state vcpu_state; /* its wall clock, which is read with the MSRs */
	struct memory memory;
	struct kvm_part kvm;
	uint64_t time_ns;    /* of every clock */
	uint64_t expires_ns; /* the timer; 0: none */
	int timer_fd;
	int peer;
	uint64_t last_offset;
	char dir[32];
	char option[80]; /* of the command line, for serial */
	char path[64];
	char link[64]; /* a second name, which outlives the device that made the socket */
} f;

/* ---- time ---- */

int __wrap_clock_gettime(clockid_t id, struct timespec *ts);
int __wrap_clock_gettime(clockid_t id, struct timespec *ts)
{
	(void)id;
	ts->tv_sec = (time_t)(f.time_ns / NS_PER_SECOND);
	ts->tv_nsec = (long)(f.time_ns % NS_PER_SECOND);
	return 0;
}

int __real_timerfd_settime(int fd, int flags, const struct itimerspec *its, struct itimerspec *old);

static void run_timer(void)
{
	struct itimerspec its = { 0 };

	if (f.timer_fd < 0)
		return;
	its.it_value.tv_nsec = f.expires_ns && f.expires_ns <= f.time_ns;
	__real_timerfd_settime(f.timer_fd, 0, &its, NULL);
}

int __wrap_timerfd_settime(int fd, int flags, const struct itimerspec *its, struct itimerspec *old);
int __wrap_timerfd_settime(int fd, int flags, const struct itimerspec *its, struct itimerspec *old)
{
	const struct timespec *ts = &its->it_value;
	bool far = (uint64_t)ts->tv_sec > UINT64_MAX / NS_PER_SECOND - 1;

	(void)flags;
	(void)old;
	/* What the kernel would refuse, a device must not ask for. */
	fuzz_must(ts->tv_sec >= 0 && ts->tv_nsec >= 0 && ts->tv_nsec < (long)NS_PER_SECOND);
	f.timer_fd = fd;
	f.expires_ns = far ? UINT64_MAX
			   : (uint64_t)ts->tv_sec * NS_PER_SECOND + (uint64_t)ts->tv_nsec;
	run_timer();
	return 0;
}

/* ---- KVM ---- */

static int msr(struct kvm_msrs *m, bool set)
{
	if (set)
		f.kvm.wall_clock = m->entries[0].data;
	else
		m->entries[0].data = f.kvm.wall_clock;
	return 1;
}

static int irqchip(struct kvm_irqchip *chip, bool set)
{
	fuzz_must(chip->chip_id < ARRAY_SIZE(f.kvm.chips));
	if (set)
		f.kvm.chips[chip->chip_id] = *chip;
	else
		chip->chip = f.kvm.chips[chip->chip_id].chip;
	return 0;
}

static int vm_ioctl(struct fake_machine *m, unsigned long request, uintptr_t arg)
{
	struct kvm_clock_data *clock = (struct kvm_clock_data *)arg;

	(void)m;
	switch (request) {
	case KVM_GET_IRQCHIP:
	case KVM_SET_IRQCHIP:
		return irqchip((struct kvm_irqchip *)arg, request == KVM_SET_IRQCHIP);
	case KVM_GET_CLOCK:
		*clock = (struct kvm_clock_data){ .clock = f.time_ns + f.kvm.clock_offset };
		return 0;
	case KVM_SET_CLOCK:
		f.kvm.clock_offset = clock->clock - f.time_ns;
		return 0;
	case KVM_GET_MSRS:
	case KVM_SET_MSRS:
		return msr((struct kvm_msrs *)arg, request == KVM_SET_MSRS);
	default: /* KVM_CREATE_IRQCHIP and its like */
		return 0;
	}
}

static void set_kvm(struct fuzz_input *in)
{
	for (unsigned int i = 0; i < ARRAY_SIZE(f.kvm.chips); i++) {
		f.kvm.chips[i].chip_id = i;
		fuzz_bytes(in, &f.kvm.chips[i].chip,
			   i < 2 ? sizeof(struct kvm_pic_state) : sizeof(struct kvm_ioapic_state));
	}
	f.kvm.chips[2].chip.ioapic.pad = 0;
	f.kvm.clock_offset = fuzz_u64(in);
	f.kvm.wall_clock = fuzz_u64(in);
}

/* ---- machines ---- */

static void machine_free(struct fake_machine *m)
{
	fake_machine_fini(m);
	free(m);
}

/* Cold or, with fds and stream, incoming; NULL where that is refused. */
static struct fake_machine *machine_new(struct fdtable *fds, struct stream *s, struct error *err)
{
	struct fake_machine *m = calloc(1, sizeof(*m));
	int r;

	fuzz_must(m);
	fake_machine_init(m);
	m->vm_ioctl = vm_ioctl;
	m->args = f.option;
	f.vcpu.state = &f.vcpu_state;
	m->m.vcpus = &f.vcpu;
	m->m.guest.cpus = 1;
	m->m.memory = f.memory;
	m->m.kvm.has_kvmclock_ctrl = true;
	r = fake_device_create(m, f.cls, fds, s, err);
	if (r == 0)
		return m;
	fuzz_must_explain(r, err);
	machine_free(m);
	return NULL;
}

static void resume(struct fake_machine *m)
{
	if (f.cls->resume)
		f.cls->resume(m->dev);
}

static void quiesce(struct fake_machine *m)
{
	struct error err = ERROR_INIT;

	if (f.cls->quiesce)
		fuzz_must_work(f.cls->quiesce(m->dev, &err), &err);
}

/* A second device that has taken the first one's state, or NULL. */
static struct fake_machine *load_into_new(struct stream *s, struct fdtable *fds, struct error *err)
{
	struct fake_machine *m = machine_new(fds, s, err);
	int r = m ? fake_load(m, s, err) : 0;

	if (r < 0) {
		fuzz_must_explain(r, err);
		machine_free(m);
		m = NULL;
	}
	return m;
}

static void save(struct fake_machine *m, struct stream_writer *w, struct fdtable *fds)
{
	const struct stream_header header = { .machine_version = 1, .producer = "fuzz" };
	struct error err = ERROR_INIT;

	fds->count = 0;
	fuzz_must_work(stream_writer_init(w, 4096, &err), &err);
	stream_begin(w, &header);
	f.vcpu_state.wall_clock = f.kvm.wall_clock;
	if (f.cls->pre_save)
		fuzz_must_work(f.cls->pre_save(m->dev, &err), &err);
	if (f.cls->state)
		vmstate_save(w, f.cls->state, 0, device_guest(m->dev));
	if (f.cls->save_host)
		fuzz_must_work(f.cls->save_host(m->dev, w, fds, &err), &err);
	fuzz_must_work(stream_end(w, &err), &err);
}

static void check_same(struct fake_machine *m, const struct stream_writer *w)
{
	static struct fdtable fds;
	struct stream_writer again;

	save(m, &again, &fds);
	fuzz_must(again.len == w->len && memcmp(again.data, w->data, w->len) == 0);
	stream_writer_fini(&again);
}

static void spoil(uint8_t *data, size_t len, struct fuzz_input *in)
{
	for (unsigned int n = 1 + fuzz_u8(in) % 4; n; n--) {
		uint16_t at = fuzz_u16(in);

		data[at % len] ^= fuzz_u8(in);
	}
	fuzz_repair_crcs(data, len);
}

/* The successor, or NULL where it does not take the state (which only a spoilt one may see). */
static struct fake_machine *successor(bool spoilt, struct fuzz_input *in)
{
	static struct fdtable fds;
	struct fake_machine *m = NULL;
	struct error err = ERROR_INIT;
	struct stream_writer w;
	struct stream s;

	save(f.now, &w, &fds);
	fuzz_duplicate_fds(&fds);
	if (spoilt)
		spoil(w.data, w.len, in);
	if (stream_parse(&s, w.data, w.len, &err) == 0)
		m = load_into_new(&s, &fds, &err);
	if (!spoilt) {
		if (!m)
			fuzz_fail(__FILE__, __LINE__, "the state is refused", err.text);
		fuzz_must_work(stream_check_claimed(&s, &err), &err);
		fuzz_must_work(fdtable_check_taken(&fds, &err), &err);
		check_same(m, &w);
	}
	fuzz_close_untaken(&fds);
	stream_fini(&s);
	stream_writer_fini(&w);
	return m;
}

static void update(bool spoilt, bool stay, struct fuzz_input *in)
{
	struct kvm_part kvm = f.kvm;
	struct fake_machine *m;

	quiesce(f.now);
	m = successor(spoilt, in);
	if (m && !stay) {
		machine_free(f.now);
		f.now = m;
	} else {
		if (m)
			machine_free(m);
		f.kvm = kvm;
		f.timer_fd = -1;
	}
	resume(f.now);
}

/* ---- the host's side ---- */

static void turn_loop(void)
{
	char buf[4096];

	for (unsigned int i = 0; i < TURNS; i++)
		fuzz_must(loop_turn(f.now->m.loop, 0) == 0);
	while (f.peer >= 0 && recv(f.peer, buf, sizeof(buf), MSG_DONTWAIT) > 0)
		;
}

static void change_peer(struct fuzz_input *in)
{
	struct sockaddr_un sun = { .sun_family = AF_UNIX };

	if (f.peer >= 0) {
		if (fuzz_u8(in) % 2)
			shutdown(f.peer, SHUT_WR);
		else
			fd_close(&f.peer);
	} else if (f.cls->host) {
		memcpy(sun.sun_path, f.link, sizeof(f.link));
		f.peer = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
		if (connect(f.peer, (struct sockaddr *)&sun, sizeof(sun)) < 0)
			fd_close(&f.peer);
	}
	turn_loop();
}

static void put_input(struct fuzz_input *in)
{
	uint8_t buf[INPUT_MAX];
	size_t n = fuzz_bytes(in, buf, fuzz_u8(in) % INPUT_MAX);

	if (f.peer >= 0)
		(void)!send(f.peer, buf, n, MSG_NOSIGNAL | MSG_DONTWAIT);
	turn_loop();
}

/* Forward by any power of two, or back, as when somebody sets the host's clock. */
static void pass_time(struct fuzz_input *in)
{
	uint8_t how = fuzz_u8(in);
	uint64_t by = 1ull << how % 50;

	if (how < TIME_BACK) {
		f.time_ns += by;
		run_timer();
	} else {
		/* A device may take notice when it resumes, so it gets the chance before a save. */
		f.time_ns -= by;
		resume(f.now);
	}
	turn_loop();
}

static void press_button(struct device *dev)
{
	if (!dev->cls->power_button)
		return;
	pthread_mutex_lock(&dev->lock);
	dev->cls->power_button(dev);
	pthread_mutex_unlock(&dev->lock);
}

/* ---- the guest's side ---- */

static void access_register(bool write, bool near, struct fuzz_input *in)
{
	uint8_t where = fuzz_u8(in);
	unsigned int size = 1u << (where & 3);
	const struct bus_region *r;
	uint64_t offset;

	if (!f.cls->nregions)
		return;
	r = &f.cls->regions[(where >> 2) % f.cls->nregions];
	offset = fuzz_u8(in);
	if (r->len > UINT8_MAX + 1)
		offset |= (uint64_t)fuzz_u16(in) << 8;
	if (near)
		offset = f.last_offset ^ (offset & 1);
	offset %= r->len;
	if (size > r->len - offset)
		size = 1;
	f.last_offset = offset;
	if (write) {
		uint64_t value = 0;

		fuzz_bytes(in, &value, size);
		fake_write(f.now, r->kind, r->base + offset, value, size);
	} else {
		fake_read(f.now, r->kind, r->base + offset, size);
	}
}

static void step(struct fuzz_input *in)
{
	enum op op = fuzz_u8(in) % OPS;

	switch (op) {
	case OP_READ:
	case OP_READ_AGAIN:
	case OP_WRITE:
	case OP_WRITE_AGAIN:
	case OP_WRITE_NEAR:
		access_register(op != OP_READ && op != OP_READ_AGAIN, op == OP_WRITE_NEAR, in);
		break;
	case OP_INPUT:
		put_input(in);
		break;
	case OP_LOOP:
		turn_loop();
		break;
	case OP_RESET:
		if (f.cls->reset)
			f.cls->reset(f.now->dev);
		break;
	case OP_QUIESCE:
		quiesce(f.now);
		turn_loop();
		resume(f.now);
		break;
	case OP_MIGRATE_AND_STAY:
	case OP_MIGRATE:
	case OP_SPOIL:
		update(op == OP_SPOIL, op == OP_MIGRATE_AND_STAY, in);
		break;
	case OP_TIME:
		pass_time(in);
		break;
	case OP_PEER:
		change_peer(in);
		break;
	case OP_KVM:
		set_kvm(in);
		break;
	case OP_BUTTON:
	case OPS:
		press_button(f.now->dev);
		break;
	}
}

/* ---- one input ---- */

static void remove_dir(void)
{
	unlink(f.path);
	unlink(f.link);
	rmdir(f.dir);
}

/* Classes with registers at fixed places: what is behind a PCI BAR has targets of its own. */
const char *fuzz_variant(size_t i)
{
	for (size_t n = 0; (f.cls = device_classes[n]); n++)
		if (f.cls->board && i-- == 0)
			return f.cls->name;
	return NULL;
}

/*
 * The variant of which the file or directory is that the last argument names: .../device_CLASS...
 */
static void choose_variant(const char *path)
{
	const char *name = strrchr(path, '/');
	const char *variant;

	name = name ? name + 1 : path;
	for (size_t i = 0; (variant = fuzz_variant(i)); i++)
		if (strncmp(name, "device_", 7) == 0 &&
		    strncmp(name + 7, variant, strlen(variant)) == 0)
			return;
	fuzz_fail(path, 0, "begins with device_CLASS", "for a class of the class table");
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	struct error err = ERROR_INIT;

	if (*argc > 1)
		choose_variant((*argv)[*argc - 1]);
	log_set_fd(-1);
	strcpy(f.dir, "/tmp/molt-fuzz-XXXXXX");
	fuzz_must(mkdtemp(f.dir));
	snprintf(f.path, sizeof(f.path), "%s/sock", f.dir);
	snprintf(f.link, sizeof(f.link), "%s/link", f.dir);
	snprintf(f.option, sizeof(f.option), "socket=%s", f.path);
	atexit(remove_dir);
	fuzz_must_work(memory_create(&f.memory, MEMORY_MIN_BYTES, NULL, NULL, &err), &err);
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fuzz_input in = { data, size };
	struct error err = ERROR_INIT;

	f.time_ns = START_SECONDS * NS_PER_SECOND;
	f.timer_fd = f.peer = -1;
	f.expires_ns = f.last_offset = 0;
	memset(&f.kvm, 0, sizeof(f.kvm));
	f.now = machine_new(NULL, NULL, &err);
	fuzz_must(f.now);
	if (f.cls->host)
		fuzz_must(link(f.path, f.link) == 0);
	while (in.len)
		step(&in);
	update(false, true, &in);
	machine_free(f.now);
	fd_close(&f.peer);
	unlink(f.link);
	unlink(f.path);
	return 0;
}
