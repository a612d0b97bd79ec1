/* SPDX-License-Identifier: MIT */
/* What attempts.c tries and takes more than one call: true if it was possible. */
#ifndef MOLT_TESTS_ACTS_H
#define MOLT_TESTS_ACTS_H

#include <netinet/in.h>
#include <stdbool.h>

#ifndef IPPROTO_MPTCP
#define IPPROTO_MPTCP 262
#endif
#define POSSIBLE 42 /* the status of whoever did it */

/* A process of the same user outside of any sandbox, and where it has a word of memory. */
extern long victim, victims_secret;

/* files */
bool read_a_file(void);
bool list_a_directory(void);
bool write_own(void);
bool create_setuid(void);
bool write_outside(void);
bool create_outside(void);
bool write_sysctl(void);
bool write_device(void);
bool fchmod_file(void);
bool chown_file(void);
bool fchown_file(void);
bool setxattrat_file(void);
bool set_file_flags(void);
bool type_into_the_terminal(void);

/* programs and rights */
bool execute_a_program(void);
bool execute_setuid(void);
bool execute_with_file_capabilities(void);
bool become_another_user(void);
bool regain_a_capability(void);
bool make_code(void);
bool call_as_i386(void);

/* processes */
bool make_a_thread(void);
bool clone3_namespace(void);
bool raw_socket_in_new_namespace(void);
bool enter_namespace(void);
bool mount_something(void);
bool signal_own_child(void);
bool signal_victim(void);
bool signal_victim_by_pidfd(void);
bool trace_victim(void);
bool read_victims_memory(void);
bool read_victims_proc_mem(void);
bool take_victims_descriptor(void);
bool compare_victims_files(void);
bool limit_victim(void);
bool bind_victim_to_cpu(void);
bool slow_victim(void);
bool schedule_victim(void);
bool idle_victims_io(void);
bool slow_itself(void);
bool limit_itself(void);

/* sockets */
bool listen_tcp(void);
bool listen_mptcp(void);
bool connect_tcp(void);
bool fast_open_tcp(void);
bool send_udp(void);
bool listen_unix(void);
bool connect_by_path(void);
bool connect_abstract(void);
bool send_to_daemon(void);
bool sendmsg_to_daemon(void);
bool sendmmsg_to_daemon(void);
bool send_to_a_peer(void);
bool pass_to_a_peer(void);
bool pass_to_daemon(void);

/* the kernel's other doors */
bool start_bpf(void);
bool start_perf(void);
bool same_host_name(void);
bool write_to_a_descriptor(void);
bool read_from_a_descriptor(void);

/* ring_acts.c: by an io_uring that is open, or one of its own; the first is the victim's part */
void leave_ring_offsets(void);
bool start_io_uring(void);
bool read_by_ring(void);
bool open_by_ring(void);
bool socket_by_ring(void);
bool connect_by_ring(void);
bool send_by_ring(void);
bool register_with_ring(void);

#endif
