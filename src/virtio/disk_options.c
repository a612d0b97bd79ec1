/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <molt/base/fd.h>
#include <molt/virtio/virtio.h>

#include "blk.h"
#include "disk_options.h"

#define WHAT "--disk"
#define SERIAL_MAX 20 /* virtio 1.2, 5.2.6 */

static const char *const keys[] = {
	"path",   "fd",  "readonly", "direct", "discard", "queues", "queue-size",
	"serial", "ops", "bytes",    "engine", "slot",    NULL,
};

static int number(const struct value_list *list, const char *key, const char *what, uint64_t min,
		  uint64_t max, uint64_t *value, struct error *err)
{
	const char *text = value_list_get(list, key);

	return text ? value_number(what, text, min, max, value, err) : 0;
}

/* N or N/BURST, with K, M, G as for sizes. */
static int limit(const struct value_list *list, const char *key, const char *what,
		 struct disk_limit *l, struct error *err)
{
	const char *text = value_list_get(list, key), *slash;
	_cleanup_free_ char *rate = NULL;
	int r;

	if (!text)
		return 0;
	slash = strchr(text, '/');
	rate = strndup(text, slash ? (size_t)(slash - text) : strlen(text));
	if (!rate)
		return err_set(err, ENOMEM, "no memory for " WHAT);
	r = value_size(what, rate, &l->rate, err);
	if (r == 0 && slash)
		r = value_size(what, slash + 1, &l->burst, err);
	if (r == 0 && (!l->rate || (slash && !l->burst)))
		r = err_set(err, EINVAL, "%s %s: a limit is at least 1", what, text);
	return r;
}

static int parse_engine(const struct value_list *list, enum disk_engine *engine, struct error *err)
{
	static const char *const names[] = {
		[DISK_ENGINE_AUTO] = "auto",
		[DISK_ENGINE_URING] = "io_uring",
		[DISK_ENGINE_THREADS] = "threads",
	};
	const char *text = value_list_get(list, "engine");

	for (size_t i = 0; text && i < ARRAY_SIZE(names); i++)
		if (strcmp(text, names[i]) == 0) {
			*engine = (enum disk_engine)i;
			return 0;
		}
	return text ? err_set(err, EINVAL, WHAT " engine=%s: it must be auto, io_uring or threads",
			      text)
		    : 0;
}

static int parse_place(struct disk_options *o, const struct value_list *list, struct error *err)
{
	const char *path = value_list_get(list, "path"), *serial = value_list_get(list, "serial");
	uint64_t fd = 0;
	int r = number(list, "fd", WHAT " fd", 3, 1 << 20, &fd, err);

	if (r < 0)
		return r;
	if (!path && !fd)
		return err_set(err, EINVAL, WHAT ": 'path' is missing: path=FILE");
	if (serial && strlen(serial) > SERIAL_MAX)
		return err_set(err, EINVAL, WHAT " serial=%s: more than %d bytes", serial,
			       SERIAL_MAX);
	if (serial && strchr(serial, ','))
		return err_set(err, EINVAL, WHAT " serial=%s: it cannot have a comma", serial);
	o->fd = fd ? (int)fd : -1;
	o->path = strdup(path ? path : "its descriptor");
	o->serial = serial ? strdup(serial) : NULL;
	return o->path && (o->serial || !serial) ? 0 : err_set(err, ENOMEM, "no memory for " WHAT);
}

static int parse_queues(struct disk_options *o, const struct value_list *list, struct error *err)
{
	uint64_t queues = 1, size = BLK_QUEUE_MAX_DEFAULT;
	int r = number(list, "queues", WHAT " queues", 1, VIRTIO_QUEUES_MAX, &queues, err);

	if (r == 0)
		r = number(list, "queue-size", WHAT " queue-size", 4, VIRTQUEUE_SIZE_MAX, &size,
			   err);
	if (r == 0 && (size & (size - 1)))
		r = err_set(err, EINVAL, WHAT " queue-size %llu: it must be a power of 2",
			    (unsigned long long)size);
	o->queues = (uint32_t)queues;
	o->queue_size = (uint32_t)size;
	return r < 0 ? r : virtio_slot_of(list, WHAT, &o->slot, err);
}

int disk_options_parse(struct disk_options *o, const struct value_list *list, struct error *err)
{
	int r;

	*o = (struct disk_options){ .fd = -1, .discard = true };
	r = parse_place(o, list, err);
	if (r == 0)
		r = value_list_on_off(list, WHAT, "readonly", &o->readonly, err);
	if (r == 0)
		r = value_list_on_off(list, WHAT, "direct", &o->direct, err);
	if (r == 0)
		r = value_list_on_off(list, WHAT, "discard", &o->discard, err);
	if (r == 0)
		r = parse_queues(o, list, err);
	if (r == 0)
		r = limit(list, "ops", WHAT " ops", &o->limits[IO_BOARD_OPS], err);
	if (r == 0)
		r = limit(list, "bytes", WHAT " bytes", &o->limits[IO_BOARD_BYTES], err);
	return r < 0 ? r : parse_engine(list, &o->engine, err);
}

void disk_options_fini(struct disk_options *o)
{
	free(o->path);
	free(o->serial);
	o->path = o->serial = NULL;
}

void disk_options_set_limits(const struct disk_options *o, struct io_board *board)
{
	for (int i = 0; i < IO_BOARD_LIMITS; i++)
		if (o->limits[i].rate)
			io_board_set_limit(board, (enum io_board_limited)i, o->limits[i].rate,
					   o->limits[i].burst, now_ns());
}

/* Here and not in the parser: an update takes over a disk that was started with more. */
static int check_limits(const struct disk_options *o, struct error *err)
{
	for (int i = 0; i < IO_BOARD_LIMITS; i++)
		if (o->limits[i].rate > BLOCK_LIMIT_MAX || o->limits[i].burst > BLOCK_LIMIT_MAX)
			return err_set(err, ERANGE, WHAT " %s: a limit is at most %llu",
				       i == IO_BOARD_OPS ? "ops" : "bytes", BLOCK_LIMIT_MAX);
	return 0;
}

static int check(const char *text, const struct value_list *list, struct error *err)
{
	struct disk_options o;
	int r = disk_options_parse(&o, list, err);

	if (r == 0)
		r = check_limits(&o, err);
	(void)text;
	disk_options_fini(&o);
	return r;
}

const struct device_option disk_option = {
	.def = {
		.name = "disk",
		.arg = "DISK",
		.help = "add a disk (virtio-blk): path=FILE, a raw image or a block device "
			",readonly=on ,direct=on ,discard=off ,queues=N ,queue-size=N ,serial=S "
			",ops=N[/BURST] ,bytes=N[/BURST] ,engine=auto|io_uring|threads ,fd=N "
			",slot=N ,id=ID",
	},
	.keys = keys,
	.check = check,
};
