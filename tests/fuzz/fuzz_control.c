/* SPDX-License-Identifier: MIT */
/*
 * The control server with its real commands, over a machine and an update that do nothing. The
 * input is what a client sends; five control characters, which no JSON can hold, steer the server:
 *
 *	01		the server takes what was sent so far
 *	02		an update: the server is saved and goes on as another one
 *	03		the client leaves and another one comes
 *	05		a descriptor comes with the next byte that is sent
 *	04 AT AT XOR	a saved server is spoilt at that place and loaded; it is thrown away
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <molt/base/fd.h>
#include <molt/base/log.h>
#include <molt/control/commands.h>

#include "../../src/control/internal.h"
#include "../../src/update/steps.h"
#include "fuzz.h"

#define DELIVER 1
#define UPDATE 2
#define RECONNECT 3
#define SPOIL 4
#define DESCRIPTOR 5
#define ANSWERS_MAX (4u << 20)

static struct {
	struct loop *loop;
	struct control *control;
	struct update *update;
	struct update *checking; /* waits for the answer of a successor in check mode */
	struct machine machine;
	struct vcpu vcpus[2];
	struct crew_member members[2];
	char dir[32];
	int client;
	bool with_fd; /* the next byte sent brings a descriptor */
	char *answers;
	size_t answered;
} f;

/* ---- the machine and the update below the commands ---- */

const char *run_state_name(enum run_state state)
{
	return state == RUN_STATE_RUNNING ? "running" : "paused";
}

static int set_state(struct machine *m, enum run_state state, enum machine_event ev)
{
	m->guest.run_state = state;
	control_machine_event(f.control, ev, NULL);
	return 0;
}

int machine_pause(struct machine *m, struct error *err)
{
	(void)err;
	return set_state(m, RUN_STATE_PAUSED, MACHINE_EVENT_STOP);
}

int machine_resume(struct machine *m, struct error *err)
{
	(void)err;
	return set_state(m, RUN_STATE_RUNNING, MACHINE_EVENT_RESUME);
}

int machine_park_in_time(struct machine *m, struct crew *next, uint64_t *stopped_ns,
			 struct error *err)
{
	(void)m;
	(void)next;
	(void)err;
	*stopped_ns = 0;
	return 0;
}

int machine_reset(struct machine *m, const char *reason, struct error *err)
{
	(void)m;
	(void)err;
	control_machine_event(f.control, MACHINE_EVENT_RESET, reason);
	return 0;
}

int machine_power_button(struct machine *m, struct error *err)
{
	(void)m;
	return err_set(err, ENODEV, "this machine has no power button");
}

void machine_exit(struct machine *m, int code, const char *reason)
{
	(void)code;
	m->guest.run_state = RUN_STATE_SHUTDOWN;
	control_machine_event(f.control, MACHINE_EVENT_SHUTDOWN, reason);
}

int update_run_steps(struct update *u, struct error *err)
{
	const struct update_request *req = &u->request;

	if (req->command && req->command[0][0] == 'f')
		return err_set(err, ENOENT, "'%s' is not there", req->command[0]);
	if (req->no_check && !req->check_only)
		return update_go_on(u, err);
	f.checking = u;
	return STEP_WAITS;
}

int update_go_on(struct update *u, struct error *err)
{
	(void)u;
	return err_set(err, EIO, "no update in here");
}

int update_step_over(struct update *u, int r, struct error *err)
{
	(void)u;
	(void)err;
	return r;
}

void update_undo(struct update *u)
{
	(void)u;
	f.checking = NULL;
}

void update_take_back(struct update *u, bool stood_in)
{
	(void)u;
	(void)stood_in;
}

static void reply(void *opaque, uint32_t client, const char *id, json_t *result,
		  const struct error *err)
{
	(void)opaque;
	control_reply(f.control, client, id, result, err);
}

static void event(void *opaque, const char *name, json_t *data)
{
	(void)opaque;
	control_event(f.control, name, data);
}

static int take_fd(void *opaque, uint32_t client, const char *name, struct error *err)
{
	(void)opaque;
	return control_take_fd(f.control, client, name, err);
}

/* ---- life of the server ---- */

static void remove_dir(void)
{
	control_destroy(f.control);
	rmdir(f.dir);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	struct error err = ERROR_INIT;
	char path[64];

	(void)argc;
	(void)argv;
	log_set_fd(-1);
	strcpy(f.dir, "/tmp/molt-fuzz-XXXXXX");
	fuzz_must(mkdtemp(f.dir));
	snprintf(path, sizeof(path), "%s/sock", f.dir);
	fuzz_must_work(loop_create(&f.loop, &err), &err);
	fuzz_must_work(control_create(&f.control, path, f.loop, NULL, NULL, &err), &err);
	control_start(f.control);
	f.answers = malloc(ANSWERS_MAX);
	fuzz_must(f.answers);
	f.machine.loop = f.loop;
	f.machine.vcpus = f.vcpus;
	f.machine.crew = &f.machine.crews[0];
	f.machine.crew->members = f.members;
	atexit(remove_dir);
	return 0;
}

static void add_commands(void)
{
	f.control->ntables = 2; /* the server's own */
	control_add_machine_commands(f.control, &f.machine);
	control_add_commands(f.control, update_commands, update_commands_count, f.update);
	control_add_commands(f.control, migrate_commands, migrate_commands_count, f.update);
}

static void set_up(void)
{
	static const struct update_self self = {
		.version = "fuzz",
		.path = (char *)"/fuzz",
		.exe_fd = -1,
	};
	const struct update_ops ops = { .reply = reply, .event = event, .take_fd = take_fd };
	struct error err = ERROR_INIT;

	f.machine.guest = (struct machine_guest){ .cpus = 2, .run_state = RUN_STATE_RUNNING };
	strcpy(f.machine.guest.name, "fuzz");
	f.control->guest.next_number = 0;
	fuzz_must_work(update_create(&f.update, &f.machine, &self, &ops, &err), &err);
	add_commands();
}

static void connect_client(void)
{
	struct error err = ERROR_INIT;
	struct control_client *cl;
	int pair[2];

	fuzz_must(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) == 0);
	cl = control_client_add(f.control, pair[0], f.control->guest.next_number++);
	fuzz_must(cl);
	fuzz_must_work(control_client_watch(cl, &err), &err);
	control_client_send(cl, control_greeting(), NULL);
	control_client_start(cl);
	f.client = pair[1];
}

static void take_answers(void)
{
	ssize_t n;

	while ((n = recv(f.client, f.answers + f.answered, ANSWERS_MAX - f.answered, 0)) > 0)
		f.answered += (size_t)n;
}

static void pump(size_t turns)
{
	while (turns-- && f.control->nclients) {
		fuzz_must(loop_turn(f.loop, 0) == 0);
		take_answers();
		if (f.checking) {
			struct error err = ERROR_INIT;
			struct update *u = f.checking;

			err_set(&err, EPROTO, "not this time");
			f.checking = NULL;
			u->server->waited(u, u->request.timeout_ms % 2 ? &err : NULL);
		}
	}
}

/* All that was answered is whole lines of JSON objects. */
static void check_answers(void)
{
	char *line = f.answers, *end = f.answers + f.answered;

	while (line < end) {
		char *crlf = memmem(line, (size_t)(end - line), "\r\n", 2);
		json_t *msg;

		fuzz_must(crlf);
		msg = json_loadb(line, (size_t)(crlf - line), JSON_REJECT_DUPLICATES, NULL);
		fuzz_must(json_is_object(msg));
		json_decref(msg);
		line = crlf + 2;
	}
	f.answered = 0;
}

/* The client reads to the end, which must come, and soon: one message a turn. */
static void disconnect_client(size_t sent)
{
	shutdown(f.client, SHUT_WR);
	pump(sent + 100);
	fuzz_must(f.control->nclients == 0);
	check_answers();
	close(f.client);
}

/* ---- updates ---- */

static void save(struct control *c, struct stream_writer *w, struct fdtable *fds)
{
	const struct stream_header header = { .producer = "fuzz" };
	struct error err = ERROR_INIT;

	fds->count = 0;
	fuzz_must_work(stream_writer_init(w, 4096, &err), &err);
	stream_begin(w, &header);
	fuzz_must_work(control_save(c, w, fds, &err), &err);
	fuzz_must_work(stream_end(w, &err), &err);
	for (uint32_t i = 0; i < fds->count; i++)
		fds->entries[i].taken = false;
}

static struct control *load(struct stream_writer *w, struct fdtable *fds, struct error *err)
{
	struct control *c = NULL;
	struct stream s;

	fuzz_duplicate_fds(fds);
	if (stream_parse(&s, w->data, w->len, err) == 0)
		control_create(&c, NULL, f.loop, fds, &s, err);
	fuzz_close_untaken(fds);
	stream_fini(&s);
	return c;
}

static void update_server(void)
{
	static struct fdtable fds, again;
	struct error err = ERROR_INIT;
	struct stream_writer a, b;
	struct control *c;

	save(f.control, &a, &fds);
	c = load(&a, &fds, &err);
	fuzz_must(c);
	save(c, &b, &again);
	fuzz_must(a.len == b.len && memcmp(a.data, b.data, a.len) == 0);
	stream_writer_fini(&a);
	stream_writer_fini(&b);
	/* The predecessor is not taken down, it is just gone. */
	f.control->started = f.control->owner = false;
	control_destroy(f.control);
	f.control = c;
	add_commands();
	control_start(c);
}

static void load_spoilt(struct fuzz_input *in)
{
	static struct fdtable fds;
	struct error err = ERROR_INIT;
	struct stream_writer w;
	uint16_t at;

	save(f.control, &w, &fds);
	at = fuzz_u16(in);
	w.data[at % w.len] ^= fuzz_u8(in);
	fuzz_repair_crcs(w.data, w.len);
	control_destroy(load(&w, &fds, &err));
	stream_writer_fini(&w);
}

/* ---- the input ---- */

static bool is_steering(uint8_t byte)
{
	return byte >= DELIVER && byte <= DESCRIPTOR;
}

static ssize_t send_with_fd(const uint8_t *byte)
{
	union {
		struct cmsghdr align;
		char buf[CMSG_SPACE(sizeof(int))];
	} rights = { .buf = { 0 } };
	struct iovec iov = { .iov_base = (void *)(uintptr_t)byte, .iov_len = 1 };
	struct msghdr msg = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = rights.buf,
		.msg_controllen = sizeof(rights.buf),
	};
	struct cmsghdr *cmsg = CMSG_FIRSTHDR(&msg);

	cmsg->cmsg_level = SOL_SOCKET;
	cmsg->cmsg_type = SCM_RIGHTS;
	cmsg->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(cmsg), &(int){ STDERR_FILENO }, sizeof(int));
	f.with_fd = false;
	return sendmsg(f.client, &msg, MSG_NOSIGNAL);
}

static void send_piece(struct fuzz_input *in)
{
	size_t n = 0;

	while (n < in->len && !is_steering(in->data[n]))
		n++;
	/* What the socket does not take is lost: then the server was not let in time. */
	if (f.with_fd && n && send_with_fd(in->data) == 1) {
		in->data++;
		in->len--;
		n--;
	}
	(void)!send(f.client, in->data, n, MSG_NOSIGNAL);
	in->data += n;
	in->len -= n;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fuzz_input in = { data, size };

	set_up();
	connect_client();
	while (in.len) {
		send_piece(&in);
		switch (fuzz_u8(&in)) {
		case UPDATE:
			update_server();
			break;
		case RECONNECT:
			disconnect_client(size);
			connect_client();
			break;
		case SPOIL:
			load_spoilt(&in);
			break;
		case DESCRIPTOR:
			f.with_fd = true;
			break;
		default:
			pump(8);
			break;
		}
	}
	disconnect_client(size);
	update_destroy(f.update);
	return 0;
}
