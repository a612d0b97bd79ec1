/* SPDX-License-Identifier: MIT */
/*
 * What a back-end's answers mean. The first back-end decides what the guest is shown; each that
 * comes after it must offer as much: of the features those that the guest has chosen, or all of
 * them while it has not; as many queues; a configuration that the owner agrees to.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include <molt/base/fd.h>
#include <molt/base/log.h>

#include "vhost_front_impl.h"

static int missing(uint64_t need, uint64_t offered, const char *whose, struct error *err)
{
	if (!(need & ~offered))
		return 0;
	return err_set(err, ENOTSUP, "it does not offer the features 0x%llx, which %s",
		       (unsigned long long)(need & ~offered), whose);
}

bool vhost_front_can_ack(const struct vhost_front *f, struct error *err)
{
	return missing(f->guest->acked, f->guest->offered, "the guest uses", err) == 0;
}

static int check_features(const struct vhost_front *f, struct error *err)
{
	const struct vhost_front_guest *g = f->guest;

	if (!g->known)
		return missing(f->setup.needed, g->offered, "molt needs", err);
	if (g->started)
		return missing(g->acked, g->offered, "the guest uses", err);
	return missing(g->features, g->offered, "the guest was shown", err);
}

int vhost_front_got_features(struct vhost_front *f, struct vhost_user_message *msg,
			     struct error *err)
{
	struct vhost_front_guest *g = f->guest;
	int r;

	if (g->step > STEP_READY)
		return vhost_front_got_confirmation(f, msg, err);
	g->offered = msg->payload.u64;
	g->protocol = 0;
	r = check_features(f, err);
	if (r == 0 && !g->known) {
		g->features = g->offered & f->setup.allowed &
			      ~BIT64(VHOST_USER_F_PROTOCOL_FEATURES);
		g->queue_num = f->setup.queues;
	}
	if (r == 0 && f->setup.config_len && !(g->offered & BIT64(VHOST_USER_F_PROTOCOL_FEATURES)))
		return err_set(err, ENOTSUP,
			       "it knows no protocol features, and so has no "
			       "configuration space to offer");
	return r;
}

int vhost_front_got_protocol(struct vhost_front *f, struct vhost_user_message *msg,
			     struct error *err)
{
	(void)err;
	f->guest->protocol = msg->payload.u64; /* the next step takes of it what it wants */
	return 0;
}

int vhost_front_got_queue_num(struct vhost_front *f, struct vhost_user_message *msg,
			      struct error *err)
{
	struct vhost_front_guest *g = f->guest;
	uint16_t need = g->known ? g->queue_num : f->setup.queues;
	uint64_t num = msg->payload.u64;

	if (num < need)
		return err_set(err, ENOTSUP, "it has %llu queues, and %u are needed",
			       (unsigned long long)num, need);
	if (!g->known)
		g->queue_num = num < UINT16_MAX ? (uint16_t)num : UINT16_MAX;
	return 0;
}

static int check_config(const struct vhost_front *f, const uint8_t *now, struct error *err)
{
	const struct vhost_front_guest *g = f->guest;

	if (f->setup.ops->check_config)
		return f->setup.ops->check_config(f->setup.opaque, g->config, now, g->config_len,
						  err);
	return err_set(err, ENOTSUP, "its configuration is not what the guest was shown");
}

int vhost_front_got_config(struct vhost_front *f, struct vhost_user_message *msg, struct error *err)
{
	struct vhost_front_guest *g = f->guest;
	const struct vhost_user_config *c = &msg->payload.config;
	uint32_t len = f->setup.config_len;
	int r;

	if (msg->hdr.size != VHOST_USER_CONFIG_HEADER + len || c->offset || c->size != len)
		return err_set(err, EPROTO,
			       "GET_CONFIG was not answered with the %u bytes that "
			       "were asked for",
			       len);
	if (g->known && memcmp(g->config, c->data, len) == 0)
		return 0;
	if (g->known) {
		r = check_config(f, c->data, err);
		if (r < 0)
			return r;
		g->tell_config = true;
	}
	g->config_len = len;
	memcpy(g->config, c->data, len);
	return 0;
}

/* What a successor would refuse (misfit()) is not taken: it would be in the way of all updates. */
static bool sane_table(const struct vhost_front *f, const struct vhost_user_inflight *i)
{
	return i->mmap_size >= f->guest->inflight_queues && i->mmap_size <= INFLIGHT_MAX &&
	       i->mmap_offset <= INT64_MAX - INFLIGHT_MAX;
}

/* It goes back to this back-end and to those after it, and over updates; molt never maps it. */
int vhost_front_got_inflight(struct vhost_front *f, struct vhost_user_message *msg,
			     struct error *err)
{
	struct vhost_front_guest *g = f->guest;
	const struct vhost_user_inflight *i = &msg->payload.inflight;
	struct stat st;

	if (msg->nfds != 1 || !sane_table(f, i))
		return err_set(err, EPROTO, "GET_INFLIGHT_FD was not answered with a table");
	/* Any memory file, sealed or not: DPDK's memfds allow no seals. */
	if (fcntl(msg->fds[0], F_GET_SEALS) < 0 || fstat(msg->fds[0], &st) < 0 ||
	    (uint64_t)st.st_size < i->mmap_offset + i->mmap_size)
		return err_set(err, EPROTO,
			       "GET_INFLIGHT_FD was answered with something that is "
			       "no memory, or too small");
	g->has_inflight = true;
	g->inflight_size = i->mmap_size;
	g->inflight_offset = i->mmap_offset;
	fd_close(&f->inflight_fd);
	f->inflight_fd = msg->fds[0];
	msg->nfds = 0;
	return 0;
}

int vhost_front_got_confirmation(struct vhost_front *f, struct vhost_user_message *msg,
				 struct error *err)
{
	struct vhost_front_guest *g = f->guest;

	(void)msg;
	(void)err;
	g->unconfirmed = false;
	vhost_front_kick_queues(f);
	if (!g->started || g->running)
		return 0;
	g->running = true;
	log_debug("%s: the vhost-user back-end has the queues", f->setup.name);
	if (f->setup.ops->running)
		f->setup.ops->running(f->setup.opaque);
	return 0;
}
