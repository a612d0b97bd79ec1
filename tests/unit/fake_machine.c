/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <molt/base/fd.h>

#include "fake_machine.h"

#define IDLE_TURNS_MAX 20
#define SETTLE_MS 1
#define SETTLE_QUIET 3
#define SETTLE_TURNS_MAX 10000

static int fake_ioctl(struct kvm *kvm, int fd, unsigned long request, uintptr_t arg)
{
	struct fake_machine *f = kvm->opaque;
	struct kvm_irq_level *il = (struct kvm_irq_level *)arg;

	(void)fd;
	if (request != KVM_IRQ_LINE && request != KVM_IRQ_LINE_STATUS)
		return f->vm_ioctl ? f->vm_ioctl(f, request, arg) : -ENOTTY;
	assert_true(il->irq < FAKE_GSIS);
	f->irq_calls++;
	if (il->level && !f->level[il->irq])
		f->edges[il->irq]++;
	f->level[il->irq] = il->level;
	if (request == KVM_IRQ_LINE_STATUS)
		il->status = f->irq_status; /* in the place of the number */
	return 0;
}

/* What devices call in the machine. */
void machine_request(struct machine *m, enum machine_request req)
{
	atomic_fetch_or(&m->requests, (uint32_t)req);
}

void machine_exit(struct machine *m, int code, const char *reason)
{
	struct fake_machine *f = container_of(m, struct fake_machine, m);

	f->exited = true;
	f->exit_reason = reason;
	m->exit_code = code;
}

void fake_machine_init(struct fake_machine *f)
{
	struct error err = ERROR_INIT;

	memset(f, 0, sizeof(*f));
	f->irq_status = 1;
	f->m.kvm.fd = -1;
	f->m.kvm.ioctl = fake_ioctl;
	f->m.kvm.opaque = f;
	f->m.vm.kvm = &f->m.kvm;
	f->m.vm.fd = -1;
	assert_int_equal(loop_create(&f->m.loop, &err), 0);
}

void fake_machine_fini(struct fake_machine *f)
{
	if (f->dev)
		fake_device_destroy(f);
	loop_destroy(f->m.loop);
	f->m.loop = NULL;
}

static void forget(struct fake_machine *f)
{
	pthread_mutex_destroy(&f->dev->lock);
	free(f->dev);
	f->dev = NULL;
}

int fake_device_create(struct fake_machine *f, const struct device_class *cls, struct fdtable *fds,
		       struct stream *stream, struct error *err)
{
	struct device_env env = {
		.machine = &f->m,
		.loop = f->m.loop,
		.args = f->args,
		.fds = fds,
		.stream = stream,
	};
	int rc;

	f->dev = calloc(1, cls->size);
	assert_non_null(f->dev);
	f->dev->cls = cls;
	f->dev->machine = &f->m;
	pthread_mutex_init(&f->dev->lock, NULL);
	rc = cls->create ? cls->create(f->dev, &env, err) : 0;
	if (rc) {
		forget(f);
		return rc;
	}
	if (cls->attach)
		assert_int_equal(cls->attach(f->dev, err), 0);
	if (!stream && cls->reset)
		cls->reset(f->dev);
	return 0;
}

void fake_device_destroy(struct fake_machine *f)
{
	if (f->dev->cls->destroy)
		f->dev->cls->destroy(f->dev);
	forget(f);
}

static const struct bus_region *region_at(struct fake_machine *f, enum bus_kind kind, uint64_t addr,
					  unsigned int size)
{
	for (unsigned int i = 0; i < f->dev->cls->nregions; i++) {
		const struct bus_region *r = &f->dev->cls->regions[i];

		if (r->kind == kind && addr >= r->base && addr + size <= r->base + r->len)
			return r;
	}
	fail_msg("nobody answers at %#llx", (unsigned long long)addr);
	return NULL;
}

uint64_t fake_read(struct fake_machine *f, enum bus_kind kind, uint64_t addr, unsigned int size)
{
	const struct bus_region *r = region_at(f, kind, addr, size);
	uint64_t value;

	pthread_mutex_lock(&f->dev->lock);
	value = r->read(f->dev, addr - r->base, size);
	pthread_mutex_unlock(&f->dev->lock);
	return size == 8 ? value : value & ((1ull << (8 * size)) - 1);
}

void fake_write(struct fake_machine *f, enum bus_kind kind, uint64_t addr, uint64_t value,
		unsigned int size)
{
	const struct bus_region *r = region_at(f, kind, addr, size);

	pthread_mutex_lock(&f->dev->lock);
	r->write(f->dev, addr - r->base, value, size);
	pthread_mutex_unlock(&f->dev->lock);
}

uint32_t fake_requests(struct fake_machine *f)
{
	return atomic_exchange(&f->m.requests, 0);
}

void fake_save(struct fake_machine *f, struct fdtable *fds, void **data, size_t *len)
{
	struct stream_header header = { .format = STREAM_FORMAT,
					.machine_version = 1,
					.producer = "test" };
	const struct device_class *cls = f->dev->cls;
	struct error err = ERROR_INIT;
	struct stream_writer w;

	assert_int_equal(stream_writer_init(&w, 1 << 20, &err), 0);
	stream_begin(&w, &header);
	if (cls->pre_save)
		assert_int_equal(cls->pre_save(f->dev, &err), 0);
	if (cls->state)
		vmstate_save(&w, cls->state, 0, device_guest(f->dev));
	if (fds && cls->save_host)
		assert_int_equal(cls->save_host(f->dev, &w, fds, &err), 0);
	assert_int_equal(stream_end(&w, &err), 0);
	*len = w.len;
	*data = malloc(w.len);
	assert_non_null(*data);
	memcpy(*data, w.data, w.len);
	stream_writer_fini(&w);
}

int fake_load(struct fake_machine *f, struct stream *s, struct error *err)
{
	const struct device_class *cls = f->dev->cls;
	int rc = cls->state ? vmstate_load(s, cls->state, 0, device_guest(f->dev), err) : 0;

	if (rc || !cls->post_load)
		return rc;
	return cls->post_load(f->dev, err);
}

/* As exec would: the same open file descriptions under the successor's numbers. */
static void duplicate_fds(struct fdtable *fds)
{
	for (uint32_t i = 0; i < fds->count; i++) {
		fds->entries[i].fd = fcntl(fds->entries[i].fd, F_DUPFD_CLOEXEC, 3);
		assert_true(fds->entries[i].fd >= 0);
	}
}

void fake_migrate(struct fake_machine *f, struct fake_machine *g)
{
	const struct device_class *cls = f->dev->cls;
	struct fdtable *fds = calloc(1, sizeof(*fds)), *again = calloc(1, sizeof(*again));
	struct error err = ERROR_INIT;
	void *first, *second;
	size_t first_len, second_len;
	struct stream s;

	assert_non_null(fds);
	assert_non_null(again);
	if (cls->quiesce)
		assert_int_equal(cls->quiesce(f->dev, &err), 0);
	fake_save(f, fds, &first, &first_len);
	duplicate_fds(fds);
	assert_int_equal(stream_parse(&s, first, first_len, &err), 0);
	fake_machine_init(g);
	assert_int_equal(fake_device_create(g, cls, fds, &s, &err), 0);
	assert_int_equal(fake_load(g, &s, &err), 0);
	assert_int_equal(stream_check_claimed(&s, &err), 0);
	assert_int_equal(fdtable_check_taken(fds, &err), 0);
	fake_save(g, again, &second, &second_len);
	assert_int_equal(first_len, second_len);
	assert_memory_equal(first, second, first_len);
	stream_fini(&s);
	free(first);
	free(second);
	free(fds);
	free(again);
}

int fake_post_load_of(struct fake_machine *f, void (*spoil)(void *guest))
{
	struct error err = ERROR_INIT;
	struct fake_machine g;
	int rc;

	fake_migrate(f, &g);
	spoil(device_guest(g.dev));
	rc = g.dev->cls->post_load(g.dev, &err);
	if (rc)
		assert_true(err.text[0] != '\0');
	fake_machine_fini(&g);
	return rc;
}

void fake_settle(struct fake_machine *f)
{
	int turns = 0, quiet = 0;

	while (quiet < SETTLE_QUIET) {
		uint64_t start = now_ns();

		assert_int_equal(loop_turn(f->m.loop, SETTLE_MS), 0);
		/* A turn that took its whole time was quiet, or we were preempted: ask again. */
		quiet = now_ns() - start >= SETTLE_MS * 1000000ull ? quiet + 1 : 0;
		assert_true(++turns < SETTLE_TURNS_MAX);
	}
}

void fake_assert_idle(struct loop *loop)
{
	uint64_t end = now_ns() + 50000000;
	int turns = 0;

	while (now_ns() < end) {
		assert_int_equal(loop_turn(loop, 10), 0);
		if (++turns > IDLE_TURNS_MAX)
			fail_msg("the loop spins");
	}
}
