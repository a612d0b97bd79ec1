/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include <molt/base/fd.h>
#include <molt/boot/boot_files.h>
#include <molt/state/vmstate.h>

static const struct vmstate_field boot_fields[] = {
	VMSTATE_STRING(struct boot_files, kernel_name),
	VMSTATE_STRING(struct boot_files, initramfs_name),
	VMSTATE_STRING(struct boot_files, cmdline), VMSTATE_END
};

static const struct vmstate boot_vmstate = {
	.name = "boot",
	.version = 1,
	.min_version = 1,
	.size = sizeof(struct boot_files),
	.fields = boot_fields,
};

static const char *const boot_fds[] = { "boot-kernel", "boot-initramfs", NULL };

const struct takeover_kind boot_files_kind = {
	.vms = &boot_vmstate,
	.required = true,
	.fds = boot_fds,
};

static int open_file(const char *path, const char *what, char name[BOOT_PATH_MAX],
		     struct error *err)
{
	int fd;

	if (strlen(path) >= BOOT_PATH_MAX)
		return err_set(err, ENAMETOOLONG, "the path of the %s is too long", what);
	strcpy(name, path);
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a FIFO must not hang us */
	return fd < 0 ? err_sys(err, errno, "%s (the %s)", path, what) : fd;
}

int boot_files_open(struct boot_files *f, const char *kernel, const char *initramfs,
		    const char *cmdline, struct error *err)
{
	memset(f, 0, sizeof(*f));
	f->kernel_fd = f->initramfs_fd = -1;
	if (cmdline && strlen(cmdline) >= BOOT_CMDLINE_MAX)
		return err_set(err, E2BIG,
			       "the command line has %zu bytes, at most %d are possible",
			       strlen(cmdline), BOOT_CMDLINE_MAX - 1);
	strcpy(f->cmdline, cmdline ? cmdline : "");
	if (kernel) {
		f->kernel_fd = open_file(kernel, "kernel", f->kernel_name, err);
		if (f->kernel_fd < 0)
			return f->kernel_fd;
	}
	if (initramfs) {
		f->initramfs_fd = open_file(initramfs, "initramfs", f->initramfs_name, err);
		if (f->initramfs_fd < 0) {
			fd_close(&f->kernel_fd);
			return -(err ? err->code : EIO);
		}
	}
	return 0;
}

void boot_files_close(struct boot_files *f)
{
	fd_close(&f->kernel_fd);
	fd_close(&f->initramfs_fd);
}

int boot_files_save(const struct boot_files *f, struct stream_writer *w, struct fdtable *fds,
		    struct error *err)
{
	int r = 0;

	vmstate_save(w, &boot_vmstate, 0, f);
	if (f->kernel_fd >= 0)
		r = fdtable_add(fds, "boot-kernel", 0, f->kernel_fd, err);
	if (r == 0 && f->initramfs_fd >= 0)
		r = fdtable_add(fds, "boot-initramfs", 0, f->initramfs_fd, err);
	return r;
}

static int take_file(struct fdtable *fds, const char *name, const char *path, int *fd,
		     struct error *err)
{
	*fd = -1;
	if (!path[0])
		return 0;
	*fd = fdtable_take(fds, name, 0, 0, err);
	return *fd < 0 ? *fd : 0;
}

int boot_files_load(struct boot_files *f, struct stream *s, struct fdtable *fds, struct error *err)
{
	int r;

	memset(f, 0, sizeof(*f));
	f->kernel_fd = f->initramfs_fd = -1;
	r = vmstate_load(s, &boot_vmstate, 0, f, err);
	if (r == 0)
		r = take_file(fds, "boot-kernel", f->kernel_name, &f->kernel_fd, err);
	if (r == 0)
		r = take_file(fds, "boot-initramfs", f->initramfs_name, &f->initramfs_fd, err);
	return r;
}
