/* SPDX-License-Identifier: MIT */
/*
 * What could somebody do who has taken over main, the stand-in, the check's child or a vCPU thread?
 * This program is run in their place and tries. It prints one line for each attempt: "yes" if it
 * was possible, "no" if not, and what it was. An attempt is an act that is complete, and it is made
 * in a child, so that none is in the way of the next. tests/guest/test_attack.py makes the place in
 * which all of them are possible without a sandbox (names are relative to it), runs this program,
 * and holds the table against docs/sandbox.md.
 *
 * usage: attempts HOW PLACE OUTPUT
 *	plain		as it was started
 *	stand-in	in a process that shares the memory, and is no thread
 *	vcpu		each attempt in the sandbox of a vCPU thread
 *	victim		waits to be attacked
 *	gained		for this program with more rights in its file: status 0 where they count
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/fs.h>
#include <linux/keyctl.h>
#include <linux/sched.h>
#include <linux/userfaultfd.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <molt/base/fd.h>
#include <molt/base/log.h>
#include <molt/sandbox/sandbox.h>

#include "acts.h"

#define SYS_FCHMODAT2 452
#define NEW_TIME 0x80l
#define X32 0x40000000l
#define STACK_BYTES 65536

static char stack[STACK_BYTES] __attribute__((aligned(16)));
static const char *how;

struct attempt {
	const char *what;
	bool (*act)(void);
	long nr; /* without act: this call, which must not fail */
	long arguments[6];
};

#define ACT(what, act) \
	{ \
		what, act, 0, \
		{ \
			0 \
		} \
	}
#define CALL(what, nr, ...) \
	{ \
		what, NULL, nr, \
		{ \
			__VA_ARGS__ \
		} \
	}
#define P(text) ((long)(text))

/* clang-format off */
static const struct attempt attempts[] = {
	ACT("read a file that its user may read", read_a_file),
	ACT("list a directory", list_a_directory),
	ACT("create and remove a file beneath write=", write_own),
	ACT("create a setuid program beneath write=", create_setuid),
	ACT("create a file elsewhere", create_outside),
	ACT("write to a file of its user's elsewhere", write_outside),
	CALL("truncate a file of its user's elsewhere", SYS_truncate, P("own"), 0),
	CALL("remove a file elsewhere", SYS_unlink, P("removable")),
	CALL("rename a file elsewhere", SYS_rename, P("movable"), P("renamed")),
	CALL("make a directory elsewhere", SYS_mkdir, P("directory"), 0700),
	CALL("make a link elsewhere", SYS_symlink, P("own"), P("link")),
	ACT("open the host's settings in /proc/sys for writing", write_sysctl),
	ACT("open /dev/kvm for writing", write_device),
	CALL("chmod 04755 of root's file", SYS_chmod, P("roots"), 04755),
	CALL("chmod of its user's file", SYS_chmod, P("own"), 0640),
	CALL("chmod beneath write=", SYS_chmod, P("writable/kept"), 0640),
	ACT("fchmod", fchmod_file),
	CALL("fchmodat", SYS_fchmodat, AT_FDCWD, P("own"), 0640),
	CALL("fchmodat2", SYS_FCHMODAT2, AT_FDCWD, P("own"), 0640, 0),
	CALL("chown of root's file", SYS_chown, P("roots"), 0, 0),
	ACT("chown of its user's file", chown_file),
	ACT("fchown", fchown_file),
	CALL("utimensat of root's file", SYS_utimensat, AT_FDCWD, P("roots"), 0, 0),
	CALL("utimensat of its user's file", SYS_utimensat, AT_FDCWD, P("own"), 0, 0),
	CALL("utimes", SYS_utimes, P("own"), 0),
	CALL("setxattr", SYS_setxattr, P("own"), P("user.molt"), P("x"), 1, 0),
	ACT("setxattrat", setxattrat_file),
	CALL("removexattr", SYS_removexattr, P("attributed"), P("user.molt")),
	ACT("FS_IOC_SETFLAGS", set_file_flags),
	CALL("make a device node", SYS_mknod, P("node"), S_IFCHR | 0600, 0x103),
	CALL("chroot", SYS_chroot, P(".")),
	ACT("mount a file system", mount_something),
	ACT("execute a program", execute_a_program),
	ACT("execute a setuid program, and be root", execute_setuid),
	ACT("execute a program with file capabilities, and have them", execute_with_file_capabilities),
	ACT("become another user", become_another_user),
	ACT("have a capability", regain_a_capability),
	ACT("map memory that is writable and executable", make_code),
	ACT("call the kernel as a 32-bit program", call_as_i386),
	CALL("call the kernel as an x32 program", X32 | SYS_getpid),
	CALL("personality", SYS_personality, ADDR_NO_RANDOMIZE),
	CALL("make a process", SYS_clone, SIGCHLD, 0, 0, 0, 0),
	ACT("make a thread", make_a_thread),
	CALL("clone with CLONE_NEWUSER", SYS_clone, CLONE_NEWUSER | SIGCHLD, 0, 0, 0, 0),
	CALL("clone with CLONE_NEWNS", SYS_clone, CLONE_NEWNS | SIGCHLD, 0, 0, 0, 0),
	CALL("clone with CLONE_NEWNET", SYS_clone, CLONE_NEWNET | SIGCHLD, 0, 0, 0, 0),
	CALL("clone with CLONE_NEWPID", SYS_clone, CLONE_NEWPID | SIGCHLD, 0, 0, 0, 0),
	CALL("clone with CLONE_NEWIPC", SYS_clone, CLONE_NEWIPC | SIGCHLD, 0, 0, 0, 0),
	CALL("clone with CLONE_NEWUTS", SYS_clone, CLONE_NEWUTS | SIGCHLD, 0, 0, 0, 0),
	CALL("clone with CLONE_NEWCGROUP", SYS_clone, CLONE_NEWCGROUP | SIGCHLD, 0, 0, 0, 0),
	ACT("clone3 with CLONE_NEWUSER", clone3_namespace),
	CALL("unshare with CLONE_NEWUSER", SYS_unshare, CLONE_NEWUSER),
	CALL("unshare with CLONE_NEWNS", SYS_unshare, CLONE_NEWNS),
	CALL("unshare with CLONE_NEWNET", SYS_unshare, CLONE_NEWNET),
	CALL("unshare with CLONE_NEWPID", SYS_unshare, CLONE_NEWPID),
	CALL("unshare with CLONE_NEWIPC", SYS_unshare, CLONE_NEWIPC),
	CALL("unshare with CLONE_NEWUTS", SYS_unshare, CLONE_NEWUTS),
	CALL("unshare with CLONE_NEWCGROUP", SYS_unshare, CLONE_NEWCGROUP),
	CALL("unshare with CLONE_NEWTIME", SYS_unshare, NEW_TIME),
	ACT("setns", enter_namespace),
	ACT("a packet socket in a user and network name space of its own", raw_socket_in_new_namespace),
	ACT("signal its own child", signal_own_child),
	ACT("signal a process outside", signal_victim),
	ACT("signal a process outside by pidfd", signal_victim_by_pidfd),
	CALL("signal all processes", SYS_kill, -1, 0),
	ACT("trace a process outside", trace_victim),
	ACT("process_vm_readv of a process outside", read_victims_memory),
	ACT("read /proc/PID/mem of a process outside", read_victims_proc_mem),
	ACT("pidfd_getfd of a process outside", take_victims_descriptor),
	ACT("kcmp with a process outside", compare_victims_files),
	ACT("prlimit of a process outside", limit_victim),
	ACT("sched_setaffinity of a process outside", bind_victim_to_cpu),
	ACT("sched_setscheduler of a process outside", schedule_victim),
	ACT("setpriority of a process outside", slow_victim),
	ACT("ioprio_set of a process outside", idle_victims_io),
	ACT("its own limits", limit_itself),
	ACT("its own priority", slow_itself),
	CALL("a TCP socket", SYS_socket, AF_INET, SOCK_STREAM, 0),
	CALL("a TCP socket of IPv6", SYS_socket, AF_INET6, SOCK_STREAM, 0),
	CALL("an MPTCP socket", SYS_socket, AF_INET, SOCK_STREAM, IPPROTO_MPTCP),
	CALL("a UDP socket", SYS_socket, AF_INET, SOCK_DGRAM, 0),
	CALL("a netlink socket", SYS_socket, AF_NETLINK, SOCK_RAW, 0),
	CALL("a packet socket", SYS_socket, AF_PACKET, SOCK_RAW, 0),
	CALL("a vsock socket", SYS_socket, AF_VSOCK, SOCK_STREAM, 0),
	CALL("a socket to the kernel's cryptography", SYS_socket, AF_ALG, SOCK_SEQPACKET, 0),
	ACT("connect by TCP", connect_tcp),
	ACT("connect by TCP with MSG_FASTOPEN", fast_open_tcp),
	ACT("listen by TCP without bind", listen_tcp),
	ACT("listen by MPTCP without bind", listen_mptcp),
	ACT("send by UDP", send_udp),
	ACT("listen at a Unix socket beneath write=", listen_unix),
	ACT("connect to a daemon's Unix socket by path", connect_by_path),
	ACT("connect to a daemon's abstract Unix socket", connect_abstract),
	ACT("sendto to a daemon's Unix socket", send_to_daemon),
	ACT("sendmsg to a daemon's Unix socket", sendmsg_to_daemon),
	ACT("sendmmsg to a daemon's Unix socket", sendmmsg_to_daemon),
	ACT("make a pair of Unix sockets, and send", send_to_a_peer),
	ACT("make a pair of Unix sockets, and pass a descriptor", pass_to_a_peer),
	ACT("pass a descriptor to a daemon, by its Unix socket's path", pass_to_daemon),
	ACT("read from an open descriptor", read_from_a_descriptor),
	ACT("write to an open descriptor", write_to_a_descriptor),
	ACT("type into its terminal (TIOCSTI)", type_into_the_terminal),
	CALL("userfaultfd", SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY),
	ACT("io_uring_setup", start_io_uring),
	ACT("io_uring_register with an io_uring", register_with_ring),
	ACT("read from an open descriptor by an io_uring", read_by_ring),
	ACT("open a file by an io_uring", open_by_ring),
	ACT("a TCP socket by an io_uring", socket_by_ring),
	ACT("connect to a daemon's Unix socket by an io_uring", connect_by_ring),
	ACT("sendmsg to a peer by an io_uring", send_by_ring),
	ACT("bpf", start_bpf),
	ACT("perf_event_open", start_perf),
	CALL("keyctl", SYS_keyctl, KEYCTL_GET_KEYRING_ID, KEY_SPEC_PROCESS_KEYRING, 1),
	CALL("add_key", SYS_add_key, P("user"), P("molt"), P("x"), 1, KEY_SPEC_PROCESS_KEYRING),
	CALL("fanotify_init", SYS_fanotify_init, 0, O_RDONLY),
	CALL("read the kernel's log", SYS_syslog, 10, 0, 0),
	CALL("iopl", SYS_iopl, 3),
	CALL("modify_ldt", SYS_modify_ldt, 0, P(stack), sizeof(stack)),
	ACT("set the host's name", same_host_name),
};
/* clang-format on */

static bool try(const struct attempt *a)
{
	const long *x = a->arguments;

	return a->act ? a->act() : syscall(a->nr, x[0], x[1], x[2], x[3], x[4], x[5]) >= 0;
}

/* The filter's signal; or the CPU's fault, where a kernel (one in a PVM guest) has no INT 0x80. */
static bool is_refusal(int sig, const struct attempt *a)
{
	return sig == SIGSYS || (sig == SIGSEGV && a->act == call_as_i386);
}

/* In a child: 1 possible, 0 not. By exit, not exit_group, which a vCPU thread may not call. */
static int attempt(const struct attempt *a)
{
	struct error err = ERROR_INIT;
	long pid = syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
	int status = 0;

	if (pid == 0) {
		if (strcmp(how, "vcpu") == 0 && sandbox_enter_thread(&err) < 0)
			abort();
		syscall(SYS_exit, try(a) ? POSSIBLE : 0);
	}
	if (pid < 0 || waitpid((pid_t)pid, &status, __WALL) != pid ||
	    (WIFSIGNALED(status) && !is_refusal(WTERMSIG(status), a))) {
		fprintf(stderr, "attempts: %s: cannot be tried (%d)\n", a->what, status);
		exit(1);
	}
	return WIFEXITED(status) && WEXITSTATUS(status) == POSSIBLE;
}

static int try_all(const char *output)
{
	FILE *out = fopen(output, "we");

	if (!out) {
		perror(output);
		return 1;
	}
	for (size_t i = 0; i < ARRAY_SIZE(attempts); i++)
		fprintf(out, "%s\t%s\n", attempt(&attempts[i]) ? "yes" : "no", attempts[i].what);
	return fclose(out) ? 1 : 0;
}

static int beside(void *opaque)
{
	_exit(try_all(opaque));
}

/* In a process that is made as a stand-in is. */
static int try_beside(char *output)
{
	int status = 1;
	pid_t pid = clone(beside, stack + STACK_BYTES, CLONE_VM | CLONE_VFORK | SIGCHLD, output);

	waitpid(pid, &status, 0);
	return status != 0;
}

/* Whether the file's rights came with the exec. */
static int gained(void)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[2] = { { 0 }, { 0 } };

	if (syscall(SYS_capget, &header, data) < 0)
		return 1;
	return data[0].effective || (geteuid() == 0 && getuid() != 0) ? 0 : 1;
}

static int be_victim(void)
{
	static volatile long secret = 42;
	FILE *file = fopen("victim.new", "we");

	if (!file)
		return 1;
	leave_ring_offsets();
	fprintf(file, "%d %ld\n", (int)getpid(), (long)&secret);
	if (fclose(file) || rename("victim.new", "victim") < 0)
		return 1;
	for (;;)
		pause();
}

int main(int argc, char **argv)
{
	FILE *file;
	int found;

	if (argc == 2 && strcmp(argv[1], "gained") == 0)
		return gained();
	if (argc < 4 || chdir(argv[2]) < 0) {
		fprintf(stderr, "usage: attempts plain|stand-in|vcpu|victim PLACE OUTPUT\n");
		return 2;
	}
	how = argv[1];
	log_set_fd(-1);
	if (strcmp(how, "victim") == 0)
		return be_victim();
	file = fopen("victim", "re");
	found = file ? fscanf(file, "%ld %ld", &victim, &victims_secret) : 0;
	if (found != 2) {
		fprintf(stderr, "attempts: there is no victim\n");
		return 1;
	}
	fclose(file);
	return strcmp(how, "stand-in") == 0 ? try_beside(argv[3]) : try_all(argv[3]);
}
