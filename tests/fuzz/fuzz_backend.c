/* SPDX-License-Identifier: MIT */
/*
 * The I/O process between a front-end and a driver that mean no good: one disk with its real threads
 * on a memfd, whose messages, descriptors, guest RAM and kicks are the input. Each input gets a
 * connection of its own; in the end all queues must stop, and the disk must serve a new front-end.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <molt/base/fd.h>
#include <molt/base/log.h>
#include <molt/virtio/io_ring.h>

#include "fuzz.h"
#include "src/io/internal.h"

#define RAM (1u << 20)
#define DISK (1u << 20)
#define QUEUES 2
#define SIZE 16
#define FDS 6
#define TURNS 2000

static struct io_process process = { .ndisks = 1, .nowhere = -1 };
static struct io_disk disk;
static struct io_disk_options options = {
	.id = "fuzz",
	.event = -1,
	.discard = true,
	.serial = "fuzz",
	.nqueues = QUEUES,
	.queue_size = SIZE,
};
static int ram_fd, kick_fd, call_fd, front;
static uint8_t *ram;

static void on_stopped(void *opaque)
{
	(void)opaque;
	io_backend_queue_stopped(&disk);
}

static int sealed(size_t size)
{
	int fd = fd_memfd("fuzz", 0);

	fuzz_must(fd >= 0 && ftruncate(fd, (off_t)size) == 0);
	fuzz_must(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK) == 0);
	return fd;
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	struct error err = ERROR_INIT;

	(void)argc;
	(void)argv;
	log_set_level(LOG_LEVEL_ERROR);
	process.nowhere = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	process.zeroes = mmap(NULL, IO_ZEROES, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	process.disks = &disk;
	options.file = sealed(DISK);
	options.board = io_board_make(QUEUES, &err);
	ram_fd = sealed(RAM);
	ram = mmap(NULL, RAM, PROT_READ | PROT_WRITE, MAP_SHARED, ram_fd, 0);
	fuzz_must(ram != MAP_FAILED && process.zeroes != MAP_FAILED);
	kick_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	call_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	disk = (struct io_disk){ .opt = &options, .process = &process, .file = options.file };
	fuzz_must_work(loop_create(&process.loop, &err), &err);
	fuzz_must_work(loop_wake_init(process.loop, &process.stopped, on_stopped, NULL, &err),
		       &err);
	fuzz_must_work(io_disk_open(&disk, &err), &err);
	fuzz_must_work(io_board_map(&disk.board, options.board, QUEUES, &err), &err);
	fuzz_must_work(io_pool_create(&disk, &err), &err);
	disk.queues = calloc(QUEUES, sizeof(*disk.queues));
	for (unsigned int i = 0; i < QUEUES; i++) {
		fuzz_must_work(io_queue_init(&disk.queues[i], &disk, i, &err), &err);
		fuzz_must_work(io_queue_start_thread(&disk.queues[i], &err), &err);
	}
	return 0;
}

static void turn(unsigned int n)
{
	while (n--)
		loop_turn(process.loop, 0);
}

static void send_message(const struct vhost_user_message *msg, uint32_t size)
{
	struct vhost_user_conn c = { .fd = front };
	struct vhost_user_message copy = *msg;

	copy.hdr.size = size;
	(void)vhost_user_try_send(&c, &copy);
	turn(3);
}

static int some_fd(uint8_t which)
{
	const int fds[FDS] = { ram_fd, kick_fd, call_fd, options.file, front, STDERR_FILENO };

	return fds[which % FDS];
}

/* Anything for a message: header, payload, descriptors. */
static void any_message(struct fuzz_input *in)
{
	struct vhost_user_message msg = { 0 };
	uint32_t size = fuzz_u8(in);

	msg.hdr.request = fuzz_u8(in) % 45;
	msg.hdr.flags = VHOST_USER_VERSION ^ (fuzz_u8(in) & 0xb);
	msg.nfds = fuzz_u8(in) % 4;
	for (uint32_t i = 0; i < msg.nfds; i++)
		msg.fds[i] = some_fd(fuzz_u8(in));
	fuzz_bytes(in, &msg.payload, size < sizeof(msg.payload) ? size : sizeof(msg.payload));
	send_message(&msg, size < sizeof(msg.payload) ? size : sizeof(msg.payload));
}

static void with_fd(uint32_t request, uint64_t value, int fd)
{
	struct vhost_user_message msg = vhost_user_request_u64(request, value);

	msg.nfds = 1;
	msg.fds[0] = fd;
	send_message(&msg, sizeof(uint64_t));
}

static void set_memory(void)
{
	struct vhost_user_message msg = vhost_user_request(VHOST_USER_SET_MEM_TABLE);

	msg.payload.memory.count = 1;
	msg.payload.memory.regions[0].size = RAM;
	msg.nfds = 1;
	msg.fds[0] = ram_fd;
	send_message(&msg, 8 + sizeof(struct vhost_user_region));
}

/* What a front-end does, so that the rings are reached at all. */
static void start_queue(struct fuzz_input *in, uint32_t queue)
{
	struct vhost_user_message msg = vhost_user_request(VHOST_USER_SET_VRING_ADDR);

	set_memory();
	msg = vhost_user_request_u64(VHOST_USER_SET_FEATURES,
				     io_disk_features(&disk) & ~(fuzz_u64(in) & 0x3fffffff));
	send_message(&msg, 8);
	msg = vhost_user_request_state(VHOST_USER_SET_VRING_NUM, queue, SIZE);
	send_message(&msg, 8);
	msg = vhost_user_request(VHOST_USER_SET_VRING_ADDR);
	msg.payload.addr.index = queue;
	msg.payload.addr.desc = 0;
	msg.payload.addr.avail = 0x1000;
	msg.payload.addr.used = 0x2000;
	send_message(&msg, sizeof(msg.payload.addr));
	msg = vhost_user_request_state(VHOST_USER_SET_VRING_BASE, queue, fuzz_u16(in));
	send_message(&msg, 8);
	with_fd(VHOST_USER_SET_VRING_CALL, queue, call_fd);
	with_fd(VHOST_USER_SET_VRING_KICK, queue, kick_fd);
	msg = vhost_user_request_state(VHOST_USER_SET_VRING_ENABLE, queue, 1);
	send_message(&msg, 8);
}

static void inflight(void)
{
	struct vhost_user_message msg = vhost_user_request(VHOST_USER_SET_INFLIGHT_FD);
	int fd = sealed(io_inflight_size(QUEUES, SIZE));

	msg.payload.inflight.mmap_size = io_inflight_size(QUEUES, SIZE);
	msg.payload.inflight.num_queues = QUEUES;
	msg.payload.inflight.queue_size = SIZE;
	msg.nfds = 1;
	msg.fds[0] = fd;
	send_message(&msg, VHOST_USER_INFLIGHT_MIN);
	close(fd);
}

static void one_step(struct fuzz_input *in)
{
	struct vhost_user_message msg;
	uint64_t one = 1;
	uint8_t op = fuzz_u8(in);
	uint16_t at;

	switch (op % 8) {
	case 0:
	case 1:
		any_message(in);
		break;
	case 2:
		start_queue(in, op / 8 % QUEUES);
		break;
	case 3:
	case 4:
		at = fuzz_u16(in);
		fuzz_bytes(in, ram + at, fuzz_u8(in));
		break;
	case 5:
		(void)!write(kick_fd, &one, sizeof(one));
		usleep(20);
		break;
	case 6:
		msg = vhost_user_request_state(VHOST_USER_GET_VRING_BASE, op / 8 % QUEUES, 0);
		send_message(&msg, 8);
		break;
	case 7:
		inflight();
		break;
	}
	turn(2);
}

static void drain_replies(void)
{
	char buf[4096];

	while (recv(front, buf, sizeof(buf), MSG_DONTWAIT) > 0)
		;
}

static bool all_idle(void)
{
	for (unsigned int i = 0; i < QUEUES; i++)
		if (io_queue_running(&disk.queues[i]))
			return false;
	return true;
}

/* Whatever came, what is in flight ends. */
static void end(void)
{
	io_backend_close(&disk);
	for (int i = 0; i < TURNS && !all_idle(); i++) {
		turn(1);
		usleep(i < 100 ? 10 : 1000);
	}
	fuzz_must(all_idle());
	for (unsigned int i = 0; i < QUEUES; i++) {
		fuzz_must(disk.queues[i].busy == 0 && !disk.queues[i].held);
		disk.queues[i].kickable = disk.queues[i].enabled = false;
		disk.queues[i].base = 0;
	}
	io_memory_unmap(&disk.mem);
	io_inflight_unmap(&disk.table);
	disk.protocol = 0;
	close(front);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fuzz_input in = { data, size };
	struct error err = ERROR_INIT;
	int pair[2];

	fuzz_must(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0);
	front = pair[0];
	options.socket = pair[1];
	memset(ram, 0, 0x12000);
	process.connected = 1;
	fuzz_must_work(io_backend_open(&disk, &err), &err);
	while (in.len) {
		one_step(&in);
		drain_replies();
	}
	end();
	return 0;
}
