/* SPDX-License-Identifier: MIT */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <molt/hw/classes.h>

#include "serial_cable.h"

static int dial(const char *path)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);

	assert_true(fd >= 0);
	assert_true(strlen(path) < sizeof(addr.sun_path));
	memcpy(addr.sun_path, path, strlen(path));
	assert_int_equal(connect(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	return fd;
}

const char *socket_path(const struct cable *c)
{
	return strchr(c->spec, '=') + 1;
}

void plug_in(struct cable *c)
{
	c->peer = dial(socket_path(c));
	fake_settle(&c->f);
}

void cable_start_unplugged(struct cable *c)
{
	struct error err = ERROR_INIT;

	strcpy(c->dir, "/tmp/molt-serial-XXXXXX");
	assert_non_null(mkdtemp(c->dir));
	snprintf(c->spec, sizeof(c->spec), "socket=%s/com1", c->dir);
	fake_machine_init(&c->f);
	c->f.args = c->spec;
	assert_int_equal(fake_device_create(&c->f, &serial_class, NULL, NULL, &err), 0);
	c->peer = -1;
}

void cable_start(struct cable *c)
{
	cable_start_unplugged(c);
	plug_in(c);
	fake_inb(&c->f, MSR);
}

void cable_stop(struct cable *c)
{
	if (c->peer >= 0)
		close(c->peer);
	fake_machine_fini(&c->f);
	assert_int_equal(rmdir(c->dir), 0);
}

void say(struct cable *c, const char *text)
{
	assert_int_equal(send(c->peer, text, strlen(text), 0), (ssize_t)strlen(text));
	fake_settle(&c->f);
}

void assert_heard(struct cable *c, const char *text)
{
	char buf[256] = "";
	ssize_t n;

	fake_settle(&c->f);
	n = recv(c->peer, buf, sizeof(buf) - 1, MSG_DONTWAIT);
	assert_int_equal(n < 0 ? 0 : n, (ssize_t)strlen(text));
	assert_string_equal(buf, text);
}

int cable_setup(void **state)
{
	*state = calloc(1, sizeof(struct cable));
	assert_non_null(*state);
	cable_start(*state);
	return 0;
}

int cable_teardown(void **state)
{
	cable_stop(*state);
	free(*state);
	return 0;
}

void program(struct cable *c, uint8_t fcr, uint8_t ier)
{
	fake_outb(&c->f, FCR, fcr);
	fake_outb(&c->f, MCR, OUT2 | 0x03);
	fake_outb(&c->f, IER, ier);
}
