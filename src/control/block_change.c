/* SPDX-License-Identifier: MIT */
/*
 * Changes of a disk: block_resize and block_set_io_throttle.
 *
 * A resize is answered when the guest has been told, which takes another process. Nobody waits for
 * that: the device is asked now and then, until it says so or time is over. An update may come in
 * between, so what is waited for is in the stream, and the successor asks on and answers.
 */
#include <errno.h>
#include <string.h>

#include <molt/base/fd.h>

#include "block.h"

#define RESIZE_MS 5000
#define TAKE_UP_NS 1000000000ull
#define RESIZE_NS (RESIZE_MS * 1000000ull)
#define ASK_NS 2000000

/* ---- resizes under way ---- */

static struct device *device_of(const struct control *c, const char *id)
{
	for (unsigned int i = 0; i < c->machine->ndevices; i++)
		if (strcmp(c->machine->devices[i]->id, id) == 0)
			return c->machine->devices[i];
	return NULL;
}

/* 0, -EAGAIN, or how it has failed. */
static int how_it_went(const struct control *c, const struct control_resize *r, struct error *err)
{
	struct device *dev = device_of(c, r->device);

	if (!dev || !dev->cls->block || !dev->cls->block->resized)
		return err_set(err, ENODEV, "Cannot find device='%s'", r->device);
	return dev->cls->block->resized(dev, r->bytes, err);
}

/* The guest may have been told, and who tells of that was not heard meanwhile. */
static void give_time(struct control *c)
{
	const uint64_t soonest = now_ns() + TAKE_UP_NS;

	for (unsigned int i = 0; i < CONTROL_RESIZES_MAX; i++)
		if (c->resizes[i].until_ns < soonest)
			c->resizes[i].until_ns = soonest;
}

/* So late as after an update that came to nothing, or where molt was stopped. */
static bool is_late(const struct control *c)
{
	return now_ns() > c->resize_timer.at_ns + TAKE_UP_NS;
}

static void ask(void *opaque)
{
	struct control *c = opaque;
	bool more = false;

	if (is_late(c))
		give_time(c);
	for (unsigned int i = 0; i < CONTROL_RESIZES_MAX; i++) {
		struct control_resize *r = &c->resizes[i], done = *r;
		struct error err = ERROR_INIT;
		int code = r->device[0] ? how_it_went(c, r, &err) : -EAGAIN;

		if (!r->device[0])
			continue;
		if (code == -EAGAIN && now_ns() < r->until_ns) {
			more = true;
			continue;
		}
		if (code == -EAGAIN)
			err_prefix(&err, "not done within %u ms, it may be yet", RESIZE_MS);
		r->device[0] = '\0';
		control_reply(c, done.client, done.id[0] ? done.id : NULL, NULL,
			      code < 0 ? &err : NULL);
	}
	if (more)
		loop_timer_set(c->loop, &c->resize_timer, now_ns() + ASK_NS, ask, c);
}

static void watch_resizes(struct control *c)
{
	for (unsigned int i = 0; i < CONTROL_RESIZES_MAX && c->machine; i++)
		if (c->resizes[i].device[0] && !c->resize_timer.loop)
			loop_timer_set(c->loop, &c->resize_timer, now_ns(), ask, c);
}

static const struct vmstate_field resize_fields[] = {
	VMSTATE_STRING(struct control_resize, device),
	VMSTATE_STRING(struct control_resize, id),
	VMSTATE_U32(struct control_resize, client),
	VMSTATE_UNSAVED(struct control_resize, reserved, "padding"),
	VMSTATE_U64(struct control_resize, bytes),
	VMSTATE_U64(struct control_resize, until_ns),
	VMSTATE_END
};

const struct vmstate control_resize_state = {
	.name = "control-resize",
	.version = 1,
	.min_version = 1,
	.size = sizeof(struct control_resize),
	.ignorable = true,
	.fields = resize_fields,
};

void control_take_up_resizes(struct control *c)
{
	give_time(c);
	watch_resizes(c);
}

void control_save_resizes(const struct control *c, struct stream_writer *w)
{
	uint32_t n = 0;

	for (unsigned int i = 0; i < CONTROL_RESIZES_MAX; i++)
		if (c->resizes[i].device[0])
			vmstate_save(w, &control_resize_state, n++, &c->resizes[i]);
}

int control_load_resizes(struct control *c, struct stream *stream, struct error *err)
{
	const uint64_t latest = now_ns() + RESIZE_NS;
	int r = 0;

	for (uint32_t i = 0;
	     r == 0 && i < CONTROL_RESIZES_MAX && stream_find(stream, control_resize_state.name, i);
	     i++) {
		r = vmstate_load(stream, &control_resize_state, i, &c->resizes[i], err);
		if (c->resizes[i].until_ns > latest)
			c->resizes[i].until_ns = latest;
	}
	return r;
}

/* ---- block_resize ---- */

static struct control_resize *find_room(struct control *c, const char *device, struct error *err)
{
	struct control_resize *room = NULL;

	for (unsigned int i = 0; i < CONTROL_RESIZES_MAX; i++) {
		if (!c->resizes[i].device[0])
			room = &c->resizes[i];
		if (strcmp(c->resizes[i].device, device) != 0)
			continue;
		err_set(err, EBUSY, "a resize of '%s' is under way", device);
		return NULL;
	}
	if (!room)
		err_set(err, EBUSY, "%d resizes are under way", CONTROL_RESIZES_MAX);
	return room;
}

int block_run_resize(void *opaque, const struct command_origin *origin, json_t *args,
		     json_t **result, struct error *err)
{
	json_int_t size = json_integer_value(json_object_get(args, "size"));
	struct control *c = opaque;
	struct device *dev = block_named(c->machine, args, "device", "node-name", err);
	struct control_resize *room;
	int r;

	(void)result;
	if (!dev)
		return -err->code;
	if (!dev->cls->block->resize)
		return err_set(err, ENOTSUP,
			       "device '%s' is resized at its back-end, which then tells the guest",
			       dev->id);
	if (size <= 0)
		return err_set(err, EINVAL, "Parameter 'size' expects a positive number");
	if (origin->id && strlen(origin->id) >= CONTROL_ID_MAX)
		return err_set(err, E2BIG,
			       "an 'id' of %zu bytes is too long for block_resize: it can "
			       "have up to %d",
			       strlen(origin->id), CONTROL_ID_MAX - 1);
	room = find_room(c, dev->id, err);
	if (!room)
		return -err->code;
	r = dev->cls->block->resize(dev, (uint64_t)size, err);
	if (r < 0)
		return r;
	*room = (struct control_resize){
		.client = origin->client,
		.bytes = (uint64_t)size,
		.until_ns = now_ns() + RESIZE_NS,
	};
	memcpy(room->device, dev->id, sizeof(room->device));
	if (origin->id)
		strcpy(room->id, origin->id);
	watch_resizes(c);
	return COMMAND_ASYNC;
}

/* ---- block_set_io_throttle ---- */

/* What of QEMU's arguments would have to be 0, or 1 for a length of time. */
static int refuse_others(json_t *args, struct error *err)
{
	static const char *const known[] = { "bps", "bps_max", "iops", "iops_max" };
	const char *key;
	json_t *value;

	json_object_foreach (args, key, value) {
		json_int_t number = json_integer_value(value);
		bool length = strstr(key, "_length") != NULL, ours = !json_is_integer(value);

		for (size_t i = 0; i < ARRAY_SIZE(known); i++)
			ours = ours || strcmp(key, known[i]) == 0;
		if (!ours && number != 0 && !(length && number == 1))
			return err_set(err, ENOTSUP,
				       "molt has no limit '%s': only bps, bps_max, iops, iops_max",
				       key);
	}
	return json_object_get(args, "group")
		       ? err_set(err, ENOTSUP, "molt has no limits for a 'group' of disks")
		       : 0;
}

static int take_number(json_t *args, const char *name, uint64_t *number, struct error *err)
{
	json_int_t value = json_integer_value(json_object_get(args, name));

	if (value < 0 || (uint64_t)value > BLOCK_LIMIT_MAX)
		return err_set(err, ERANGE, "Parameter '%s' must be 0 to %llu", name,
			       BLOCK_LIMIT_MAX);
	*number = (uint64_t)value;
	return 0;
}

static int take_limit(json_t *args, const char *rate, const char *burst, struct block_limit *l,
		      struct error *err)
{
	int r = take_number(args, rate, &l->rate, err);

	if (r == 0)
		r = take_number(args, burst, &l->burst, err);
	if (r == 0 && l->burst && !l->rate)
		r = err_set(err, EINVAL, "'%s' means nothing without '%s'", burst, rate);
	return r;
}

int block_run_throttle(void *opaque, const struct command_origin *origin, json_t *args,
		       json_t **result, struct error *err)
{
	const struct control *c = opaque;
	struct device *dev = block_named(c->machine, args, "device", "id", err);
	struct block_limit limits[BLOCK_LIMITS] = { 0 };
	int r;

	(void)origin;
	(void)result;
	if (!dev)
		return -err->code;
	if (!dev->cls->block->set_limits)
		return err_set(err, ENOTSUP, "device '%s' is limited at its back-end", dev->id);
	r = refuse_others(args, err);
	if (r == 0)
		r = take_limit(args, "iops", "iops_max", &limits[BLOCK_OPS], err);
	if (r == 0)
		r = take_limit(args, "bps", "bps_max", &limits[BLOCK_BYTES], err);
	if (r == 0)
		dev->cls->block->set_limits(dev, limits);
	return r;
}
