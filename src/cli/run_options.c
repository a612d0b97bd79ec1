/* SPDX-License-Identifier: MIT */
/* The options of `molt run`: those of no device, and where the devices' are. */
#include <molt/vm/device.h>

#include "cli.h"

static const struct option_def run_options[] = {
	{ .name = "kernel",
	  .arg = "FILE",
	  .help = "kernel to boot: a 64-bit bzImage or an ELF image with a PVH entry; without it "
		  "a built-in demo guest" },
	{ .name = "initramfs", .arg = "FILE", .help = "initial RAM file system for the kernel" },
	{ .name = "initrd", .alias_of = "initramfs" },
	{ .name = "cmdline", .arg = "STRING", .help = "the kernel's command line" },
	{ .name = "append", .alias_of = "cmdline" },
	{ .name = "cpus", .arg = "N", .help = "number of vCPUs, 1 to 254", .def = "1" },
	{ .name = "cpu",
	  .arg = "MODEL",
	  .help = "which CPU the guest sees: host, or x86-64-v1, -v2, -v3 or -v4, the same on every "
		  "host that has that level",
	  .def = "host" },
	{ .name = "memory",
	  .arg = "SIZE",
	  .help = "guest RAM: bytes, or with K, M, G, T; then ,hugepages=on|off|2M|1G ,thp=on|off "
		  ",prefault=on|off ,refault=before|background|lazy ,refault-limit=SECONDS",
	  .def = "256M" },
	{ .name = "mem", .alias_of = "memory" },
	{ .name = "machine",
	  .arg = "N",
	  .help = "machine version to create: what the guest sees; the newest if not told, an older "
		  "one for a guest that older releases of molt are to take over" },
	{ .name = "control",
	  .arg = "SOCKET",
	  .help = "serve the control protocol at this path, or with name=NAME at "
		  "/run/molt/NAME/control" },
	{ .name = "api-socket", .alias_of = "control" },
	{ .name = "name",
	  .arg = "NAME",
	  .help = "name of the machine, for query-name and --user auto" },
	{ .name = "log-level",
	  .arg = "LEVEL",
	  .help = "error, warn, info or debug",
	  .def = "info",
	  .values = "error warn info debug" },
	{ .name = "log-file",
	  .arg = "FILE",
	  .help = "append the log to this file instead of standard error, which is told only "
		  "why a start failed" },
	{ .name = "sandbox",
	  .arg = "MODE",
	  .help = "on or off; write=DIR[:DIR...] lets molt change files beneath these too",
	  .def = "on",
	  .values = "on off" },
	{ .name = "user",
	  .arg = "USER",
	  .help = "started as root: go on as this user, NAME or UID, with :GROUP or :GID; auto: one for "
		  "each --name; default: molt, if there is such a user" },
	{ .name = "incoming",
	  .arg = "URI",
	  .help = "take the guest over from the molt that started this one; it gives the URI" },
	{ .name = "no-reboot", .help = "end when the guest resets itself" },
	{ .name = "pause", .help = "create the guest but wait for 'cont' to run it" },
	{ .name = NULL }
};

/* What the device classes bring. */
static const struct option_def *device_option(size_t index)
{
	for (size_t i = 0; machine_model.classes[i]; i++) {
		const struct device_class *cls = machine_model.classes[i];

		if (cls->option && index-- == 0)
			return &cls->option->def;
		if (cls->more && index-- == 0)
			return &cls->more->def;
	}
	return NULL;
}

const struct cli_command run_command = {
	.name = "run",
	.usage = "[--kernel FILE] [OPTION...]",
	.summary = "Run a guest",
	.details = "At the terminal Ctrl-A x ends the guest.\n"
		   "\n"
		   "exit status: 0 the guest powered off or was told to quit, 1 failure, 2 wrong\n"
		   "usage, 3 the guest had a triple fault, 4 KVM could not run it, 128+N ended by\n"
		   "signal N\n",
	.options = run_options,
	.more = device_option,
};
