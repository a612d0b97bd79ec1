/* SPDX-License-Identifier: MIT */
/* `molt io`: the I/O process, which `molt run` starts. Not for people. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <molt/base/fd.h>
#include <molt/base/log.h>
#include <molt/io/io.h>
#include <molt/virtio/queue.h>

#include "cli.h"

static const struct option_def io_options[] = {
	{ .name = "disk",
	  .arg = "KEY=VALUE,...",
	  .help = "serve a disk whose descriptors are inherited (repeatable)" },
	{ .name = "log-level",
	  .arg = "LEVEL",
	  .help = "error, warn, info or debug",
	  .def = "info",
	  .values = "error warn info debug" },
	{ .name = NULL }
};

const struct cli_command io_command = {
	.name = "io",
	.usage = "--disk KEY=VALUE,... ...",
	.summary = "Move the data of a guest's disks; started by 'molt run', not for people",
	.details = "It opens nothing: all descriptors are inherited, by number.\n"
		   "Keys: id=NAME socket=FD file=FD board=FD event=FD rings=FD:FD...\n"
		   "readonly=on|off discard=on|off serial=TEXT queues=N queue-size=N\n",
	.options = io_options,
};

static const char *const keys[] = { "id",     "socket", "file",       "board",
				    "event",  "rings",  "readonly",   "discard",
				    "serial", "queues", "queue-size", NULL };

static int number(const struct value_list *l, const char *key, const char *def, uint64_t min,
		  uint64_t max, uint64_t *value, struct error *err)
{
	const char *text = value_list_get(l, key);
	char what[32] = "--disk: ";

	strncat(what, key, sizeof(what) - strlen(what) - 1);
	if (!text && !def)
		return err_set(err, EINVAL, "%s is missing", what);
	return value_number(what, text ? text : def, min, max, value, err);
}

static int descriptor(const struct value_list *l, const char *key, int *fd, struct error *err)
{
	uint64_t value = 0;
	int r = number(l, key, NULL, 3, 1 << 20, &value, err);

	*fd = (int)value;
	return r;
}

static int parse_rings(struct io_disk_options *d, const char *text, struct error *err)
{
	d->nrings = 0;
	while (text && *text) {
		char *end;
		unsigned long fd = strtoul(text, &end, 10);

		if (end == text || (*end && *end != ':') || fd < 3 || fd > 1 << 20 ||
		    d->nrings == d->nqueues)
			return err_set(err, EINVAL, "--disk: rings: one descriptor for each queue");
		d->rings[d->nrings++] = (int)fd;
		text = *end ? end + 1 : end;
	}
	if (d->nrings && d->nrings != d->nqueues)
		return err_set(err, EINVAL, "--disk: rings: one descriptor for each queue");
	return 0;
}

static int parse_numbers(struct io_disk_options *d, const struct value_list *l, struct error *err)
{
	uint64_t queues = 0, size = 0;
	int r = descriptor(l, "socket", &d->socket, err);

	d->event = -1;
	if (r == 0)
		r = descriptor(l, "file", &d->file, err);
	if (r == 0)
		r = descriptor(l, "board", &d->board, err);
	if (r == 0 && value_list_get(l, "event"))
		r = descriptor(l, "event", &d->event, err);
	if (r == 0)
		r = number(l, "queues", "1", 1, IO_BOARD_QUEUES_MAX, &queues, err);
	if (r == 0)
		r = number(l, "queue-size", "256", 4, VIRTQUEUE_SIZE_MAX, &size, err);
	if (r == 0 && size & (size - 1))
		r = err_set(err, EINVAL, "--disk: queue-size must be a power of 2");
	d->nqueues = (unsigned int)queues;
	d->queue_size = (unsigned int)size;
	return r;
}

static int parse_disk(struct io_disk_options *d, struct value_list *l, const char *text,
		      struct error *err)
{
	int r = value_list_parse(l, "--disk", text, keys, err);

	d->discard = true;
	if (r == 0)
		r = parse_numbers(d, l, err);
	if (r == 0)
		r = parse_rings(d, value_list_get(l, "rings"), err);
	if (r == 0)
		r = value_list_on_off(l, "--disk", "readonly", &d->readonly, err);
	if (r == 0)
		r = value_list_on_off(l, "--disk", "discard", &d->discard, err);
	if (r < 0)
		return r;
	d->id = value_list_get(l, "id");
	d->serial = value_list_get(l, "serial");
	if (!d->id)
		return err_set(err, EINVAL, "--disk: id is missing");
	if (!d->serial)
		d->serial = d->id;
	if (strlen(d->serial) > IO_SERIAL_MAX && value_list_get(l, "serial"))
		return err_set(err, EINVAL, "--disk: serial has more than %d bytes", IO_SERIAL_MAX);
	return 0;
}

static int parse_disks(struct io_disk_options *disks, struct value_list *lists,
		       unsigned int *ndisks, const struct cli_args *args, struct error *err)
{
	const char *text;
	unsigned int n = 0;
	int r = 0;

	while (r == 0 && (text = cli_value_at(args, "disk", n))) {
		if (n == IO_DISKS_MAX)
			return err_set(err, EINVAL, "more than %d disks", IO_DISKS_MAX);
		r = parse_disk(&disks[n], &lists[n], text, err);
		n++;
	}
	*ndisks = n;
	return r == 0 && n == 0 ? err_set(err, EINVAL, "--disk is missing") : r;
}

static int set_log_level(const struct cli_args *args, struct error *err)
{
	int level = cli_parse_log_level(args, err);

	if (level >= 0)
		log_set_level((enum log_level)level);
	return level < 0 ? level : 0;
}

/* What io_run() was given is its threads' until the process ends. */
static int run(const struct cli_args *args)
{
	struct io_disk_options *disks = calloc(IO_DISKS_MAX, sizeof(*disks));
	struct value_list *lists = calloc(IO_DISKS_MAX, sizeof(*lists));
	struct error err = ERROR_INIT;
	unsigned int n = 0;
	int r = disks && lists ? 0 : err_set(&err, ENOMEM, "no memory");

	if (r == 0)
		r = set_log_level(args, &err);
	if (r == 0)
		r = parse_disks(disks, lists, &n, args, &err);
	if (r == 0) {
		free(lists); /* not what they hold */
		r = io_run(disks, n, &err) < 0 ? cli_failure(&io_command, &err) : 0;
		_exit(r); /* its threads may be at work still: nothing is taken from them */
	}
	for (unsigned int i = 0; lists && i < IO_DISKS_MAX; i++)
		value_list_fini(&lists[i]);
	free(lists);
	free(disks);
	return cli_usage_error(&io_command, "%s", err.text);
}

int cmd_io(int argc, char **argv)
{
	struct cli_args args;
	int status;

	if (cli_begin(&args, &io_command, argc, argv, &status))
		status = run(&args);
	cli_args_fini(&args);
	return status;
}
