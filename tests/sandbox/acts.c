/* SPDX-License-Identifier: MIT */
/* The acts of attempts.c. Each is made in a child of its own, which then ends, so none cleans up. */
#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/capability.h>
#include <linux/fs.h>
#include <linux/kcmp.h>
#include <linux/openat2.h>
#include <linux/perf_event.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <netinet/in.h>
#include <unistd.h>

#include <molt/base/fd.h>

#include "acts.h"

#define SYS_SETXATTRAT 463
#define PORT 40404
#define STACK_BYTES 65536

long victim, victims_secret;

/* ---- files ---- */

static bool may_open(const char *path, int flags)
{
	return open(path, flags | O_CLOEXEC, 0600) >= 0;
}

bool read_a_file(void)
{
	return may_open("/etc/passwd", O_RDONLY);
}

bool list_a_directory(void)
{
	return may_open("/etc", O_RDONLY | O_DIRECTORY);
}

bool write_own(void)
{
	return may_open("writable/file", O_WRONLY | O_CREAT | O_TRUNC) &&
	       unlink("writable/file") == 0;
}

static bool is_setuid(int fd)
{
	struct stat st;

	return fd >= 0 && fstat(fd, &st) == 0 && (st.st_mode & S_ISUID);
}

bool create_setuid(void)
{
	const struct open_how creating = { .flags = O_WRONLY | O_CREAT, .mode = 04755 };

	return is_setuid(open("writable/a", O_WRONLY | O_CREAT | O_CLOEXEC, 04755)) ||
	       is_setuid(creat("writable/b", 04755)) ||
	       is_setuid(open("writable", O_WRONLY | O_TMPFILE | O_CLOEXEC, 04755)) ||
	       is_setuid((int)syscall(SYS_openat2, AT_FDCWD, "writable/c", &creating,
				      sizeof(creating)));
}

bool write_outside(void)
{
	return may_open("own", O_WRONLY);
}

bool create_outside(void)
{
	return may_open("created", O_WRONLY | O_CREAT | O_EXCL);
}

bool write_sysctl(void)
{
	return may_open("/proc/sys/kernel/core_pattern", O_WRONLY);
}

bool write_device(void)
{
	return may_open("/dev/kvm", O_RDWR);
}

bool fchmod_file(void)
{
	return fchmod(open("own", O_RDONLY | O_CLOEXEC), 0640) == 0;
}

bool chown_file(void)
{
	return chown("own", getuid(), getgid()) == 0;
}

bool fchown_file(void)
{
	return fchown(open("own", O_RDONLY | O_CLOEXEC), getuid(), getgid()) == 0;
}

bool setxattrat_file(void)
{
	const struct {
		uint64_t value;
		uint32_t size, flags;
	} args = { (uintptr_t) "x", 1, 0 };

	return syscall(SYS_SETXATTRAT, AT_FDCWD, "own", 0, "user.molt", &args, sizeof(args)) == 0;
}

bool set_file_flags(void)
{
	int fd = open("own", O_RDONLY | O_CLOEXEC), flags = 0;

	return ioctl(fd, FS_IOC_GETFLAGS, &flags) == 0 && ioctl(fd, FS_IOC_SETFLAGS, &flags) == 0;
}

bool type_into_the_terminal(void)
{
	return ioctl(STDOUT_FILENO, TIOCSTI, "#") == 0;
}

/* ---- programs and rights ---- */

static bool exec_succeeds(const char *path, const char *argument)
{
	pid_t pid = fork();
	int status;

	if (pid == 0) {
		execl(path, path, argument, (char *)NULL);
		_exit(1);
	}
	return pid > 0 && waitpid(pid, &status, 0) == pid && status == 0;
}

bool execute_a_program(void)
{
	return exec_succeeds("/bin/true", NULL);
}

bool execute_setuid(void)
{
	return exec_succeeds("./setuid", "gained");
}

bool execute_with_file_capabilities(void)
{
	return exec_succeeds("./filecaps", "gained");
}

bool become_another_user(void)
{
	uid_t other = getuid() == 0 ? 12345 : 0;

	return syscall(SYS_setresuid, other, other, other) == 0;
}

static bool set_capabilities(uint32_t mask)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[2] = { { mask, mask, mask }, { 0, 0, 0 } };

	return syscall(SYS_capset, &header, data) == 0;
}

bool regain_a_capability(void)
{
	return set_capabilities(1u << CAP_NET_ADMIN);
}

bool make_code(void)
{
	return mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1,
		    0) != MAP_FAILED;
}

bool call_as_i386(void)
{
	long nr = 20; /* getpid */

	__asm__ volatile("int $0x80" : "+a"(nr) : : "memory");
	return nr > 0;
}

/* ---- processes ---- */

/* Whichever thread ends last, its status is the process's. */
static int just_end(void *opaque)
{
	(void)opaque;
	syscall(SYS_exit, POSSIBLE);
	return 0;
}

bool make_a_thread(void)
{
	static char stack[STACK_BYTES] __attribute__((aligned(16)));

	return clone(just_end, stack + STACK_BYTES,
		     CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD, NULL) > 0;
}

bool clone3_namespace(void)
{
	const struct clone_args args = { .flags = CLONE_NEWUSER, .exit_signal = SIGCHLD };
	long pid = syscall(SYS_clone3, &args, sizeof(args));

	if (pid == 0)
		_exit(0);
	return pid > 0;
}

bool raw_socket_in_new_namespace(void)
{
	if (syscall(SYS_clone, CLONE_NEWUSER | CLONE_NEWNET | SIGCHLD, 0, 0, 0, 0) == 0)
		_exit(socket(AF_PACKET, SOCK_RAW, 0) < 0);
	int status;

	return wait(&status) > 0 && status == 0;
}

bool enter_namespace(void)
{
	return setns(open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC), CLONE_NEWNET) == 0;
}

bool mount_something(void)
{
	return mount("none", "mount", "tmpfs", 0, NULL) == 0 && umount("mount") == 0;
}

bool signal_own_child(void)
{
	pid_t pid = fork();

	if (pid == 0)
		for (;;)
			pause();
	return pid > 0 && kill(pid, SIGKILL) == 0 && waitpid(pid, NULL, 0) == pid;
}

bool signal_victim(void)
{
	return kill((pid_t)victim, SIGCONT) == 0;
}

bool signal_victim_by_pidfd(void)
{
	return syscall(SYS_pidfd_send_signal, syscall(SYS_pidfd_open, victim, 0), SIGCONT, NULL,
		       0) == 0;
}

bool trace_victim(void)
{
	return ptrace(PTRACE_SEIZE, (pid_t)victim, NULL, NULL) == 0;
}

bool read_victims_memory(void)
{
	long value = 0;
	struct iovec to = { &value, sizeof(value) },
		     from = { (void *)victims_secret, sizeof(value) };

	return process_vm_readv((pid_t)victim, &to, 1, &from, 1, 0) == (ssize_t)sizeof(value);
}

bool read_victims_proc_mem(void)
{
	char path[64];
	long value;

	snprintf(path, sizeof(path), "/proc/%ld/mem", victim);
	return pread(open(path, O_RDONLY | O_CLOEXEC), &value, sizeof(value), victims_secret) ==
	       (ssize_t)sizeof(value);
}

bool take_victims_descriptor(void)
{
	return syscall(SYS_pidfd_getfd, syscall(SYS_pidfd_open, victim, 0), 1, 0) >= 0;
}

bool compare_victims_files(void)
{
	return syscall(SYS_kcmp, getpid(), victim, KCMP_VM, 0, 0) >= 0;
}

bool limit_victim(void)
{
	struct rlimit limit;

	return prlimit((pid_t)victim, RLIMIT_NOFILE, NULL, &limit) == 0 &&
	       prlimit((pid_t)victim, RLIMIT_NOFILE, &limit, NULL) == 0;
}

bool bind_victim_to_cpu(void)
{
	cpu_set_t set;

	return sched_getaffinity((pid_t)victim, sizeof(set), &set) == 0 &&
	       sched_setaffinity((pid_t)victim, sizeof(set), &set) == 0;
}

bool slow_victim(void)
{
	return setpriority(PRIO_PROCESS, (id_t)victim, 5) == 0;
}

bool schedule_victim(void)
{
	struct sched_param none = { 0 };

	return sched_setscheduler((pid_t)victim, SCHED_BATCH, &none) == 0;
}

bool idle_victims_io(void)
{
	return syscall(SYS_ioprio_set, 1, victim, 3 << 13) == 0;
}

bool slow_itself(void)
{
	return setpriority(PRIO_PROCESS, 0, 5) == 0;
}

bool limit_itself(void)
{
	struct rlimit limit;

	return getrlimit(RLIMIT_NOFILE, &limit) == 0 && setrlimit(RLIMIT_NOFILE, &limit) == 0;
}

/* ---- sockets ---- */

static bool listen_unbound(int protocol)
{
	return listen(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, protocol), 1) == 0;
}

bool listen_tcp(void)
{
	return listen_unbound(0);
}

bool listen_mptcp(void)
{
	return listen_unbound(IPPROTO_MPTCP);
}

static struct sockaddr_in loopback(void)
{
	return (struct sockaddr_in){ .sin_family = AF_INET,
				     .sin_port = htons(PORT),
				     .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
}

/* Refused by whoever is not there: the packet was on its way. */
static bool tcp(int flags)
{
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct sockaddr_in to = loopback();

	if (flags)
		return sendto(fd, "x", 1, flags, (const struct sockaddr *)&to, sizeof(to)) >= 0 ||
		       errno == ECONNREFUSED || errno == EINPROGRESS;
	return connect(fd, (const struct sockaddr *)&to, sizeof(to)) == 0 || errno == ECONNREFUSED;
}

bool connect_tcp(void)
{
	return tcp(0);
}

bool fast_open_tcp(void)
{
	return tcp(MSG_FASTOPEN | MSG_NOSIGNAL);
}

bool send_udp(void)
{
	struct sockaddr_in to = loopback();

	return sendto(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), "x", 1, 0,
		      (const struct sockaddr *)&to, sizeof(to)) == 1;
}

bool listen_unix(void)
{
	struct sockaddr_un sun = { .sun_family = AF_UNIX, .sun_path = "writable/socket" };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	unlink(sun.sun_path);
	return bind(fd, (const struct sockaddr *)&sun, sizeof(sun)) == 0 && listen(fd, 1) == 0;
}

static socklen_t daemon_at(const char *name, struct sockaddr_un *sun)
{
	socklen_t len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(name));

	*sun = (struct sockaddr_un){ .sun_family = AF_UNIX };
	memcpy(sun->sun_path, name, strlen(name));
	if (sun->sun_path[0] == '@')
		sun->sun_path[0] = '\0';
	return len;
}

static bool connect_daemon(const char *name)
{
	struct sockaddr_un sun;
	socklen_t len = daemon_at(name, &sun);

	return connect(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0),
		       (const struct sockaddr *)&sun, len) == 0;
}

bool connect_by_path(void)
{
	return connect_daemon("stream");
}

bool connect_abstract(void)
{
	return connect_daemon("@molt-attack");
}

bool send_to_daemon(void)
{
	struct sockaddr_un sun;
	socklen_t len = daemon_at("datagram", &sun);

	return sendto(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0), "x", 1, MSG_DONTWAIT,
		      (const struct sockaddr *)&sun, len) == 1;
}

static bool message_daemon(bool many)
{
	struct sockaddr_un sun;
	socklen_t len = daemon_at("datagram", &sun);
	struct iovec iov = { (void *)(uintptr_t) "x", 1 };
	struct mmsghdr msg = {
		{ .msg_name = &sun, .msg_namelen = len, .msg_iov = &iov, .msg_iovlen = 1 },
		0
	};
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	return many ? sendmmsg(fd, &msg, 1, MSG_DONTWAIT) == 1
		    : sendmsg(fd, &msg.msg_hdr, MSG_DONTWAIT) == 1;
}

bool sendmsg_to_daemon(void)
{
	return message_daemon(false);
}

bool sendmmsg_to_daemon(void)
{
	return message_daemon(true);
}

bool send_to_a_peer(void)
{
	int ends[2];

	return socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0 &&
	       send(ends[0], "x", 1, 0) == 1;
}

/* Its standard error. */
static bool pass_descriptor(int fd)
{
	union {
		char bytes[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control = { { 0 } };
	struct iovec iov = { (void *)(uintptr_t) "x", 1 };
	struct msghdr msg = { .msg_iov = &iov,
			      .msg_iovlen = 1,
			      .msg_control = control.bytes,
			      .msg_controllen = sizeof(control.bytes) };
	struct cmsghdr *header = CMSG_FIRSTHDR(&msg);

	header->cmsg_level = SOL_SOCKET;
	header->cmsg_type = SCM_RIGHTS;
	header->cmsg_len = CMSG_LEN(sizeof(int));
	*(int *)(void *)CMSG_DATA(header) = STDERR_FILENO;
	return sendmsg(fd, &msg, MSG_NOSIGNAL) == 1;
}

bool pass_to_a_peer(void)
{
	int ends[2];

	return socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0 &&
	       pass_descriptor(ends[0]);
}

bool pass_to_daemon(void)
{
	struct sockaddr_un sun;
	socklen_t len = daemon_at("stream", &sun);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	return connect(fd, (const struct sockaddr *)&sun, len) == 0 && pass_descriptor(fd);
}

/* ---- the kernel's other doors ---- */

bool start_bpf(void)
{
	union bpf_attr attr = { .map_type = BPF_MAP_TYPE_ARRAY,
				.key_size = 4,
				.value_size = 4,
				.max_entries = 1 };

	return syscall(SYS_bpf, BPF_MAP_CREATE, &attr, sizeof(attr)) >= 0;
}

bool start_perf(void)
{
	struct perf_event_attr attr = { .type = PERF_TYPE_SOFTWARE,
					.size = sizeof(attr),
					.config = PERF_COUNT_SW_TASK_CLOCK };

	return syscall(SYS_perf_event_open, &attr, 0, -1, -1, 0) >= 0;
}

bool same_host_name(void)
{
	char name[65] = "";

	return gethostname(name, sizeof(name) - 1) == 0 && sethostname(name, strlen(name)) == 0;
}

bool write_to_a_descriptor(void)
{
	return syscall(SYS_write, STDERR_FILENO, "", 0) == 0;
}

bool read_from_a_descriptor(void)
{
	return syscall(SYS_read, STDIN_FILENO, "", 0) == 0;
}
