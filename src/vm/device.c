/* SPDX-License-Identifier: MIT */
/*
 * Which devices a machine has, and their life.
 *
 * Board devices are told by class table and machine version alone. The others are made on a cold
 * start from the options, in the order in which these were given, and listed in the stream, a
 * section "devices" each: class, number in the class, id and the option's text. A successor makes
 * what the list says, whatever its own command line does. A machine of version 1 has board devices
 * only, so that the release which knows no list can take it over.
 */
#include <ctype.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <molt/base/end_signals.h>
#include <molt/base/fd.h>

#include "device_list.h"

#define BEFORE_RESET_NS 40000000000ull /* more than a back-end has for what is in flight */

/* One section "devices". */
struct listed {
	char name[STREAM_NAME_MAX + 1]; /* of the class */
	uint32_t instance;
	char id[DEVICE_ID_MAX + 1];
	char args[DEVICE_ARGS_MAX + 1];
};

static const struct vmstate_field listed_fields[] = {
	VMSTATE_STRING(struct listed, name),
	VMSTATE_U32(struct listed, instance),
	VMSTATE_STRING(struct listed, id),
	VMSTATE_STRING(struct listed, args),
	VMSTATE_END,
};

const struct vmstate devices_vmstate = {
	.name = "devices",
	.version = 1,
	.min_version = 1,
	.size = sizeof(struct listed),
	.fields = listed_fields,
};

/* ---- ids and arguments ---- */

static int check_id(const char *id, struct error *err)
{
	static const char more[] = "-._";
	size_t n = 1;

	while (id[0] && id[n] && (isalnum((unsigned char)id[n]) || strchr(more, id[n])))
		n++;
	if (!isalpha((unsigned char)id[0]) || id[n] || n > DEVICE_ID_MAX)
		return err_set(err, EINVAL,
			       "id '%s': it must be a letter, then letters, digits, '-', '.' and "
			       "'_', at most %d in all",
			       id, DEVICE_ID_MAX);
	return 0;
}

/* The list's "id" and the option's own keys. */
static int parse_list(const struct device_option *opt, struct value_list *list, const char *text,
		      struct error *err)
{
	const char *keys[VALUE_LIST_MAX + 1], *id;
	char what[STREAM_NAME_MAX + 3];
	size_t n = 0;
	int r;

	snprintf(what, sizeof(what), "--%s", opt->def.name);
	for (; n < VALUE_LIST_MAX - 1 && opt->keys[n]; n++)
		keys[n] = opt->keys[n];
	keys[n++] = "id";
	keys[n] = NULL;
	r = value_list_parse(list, what, text, keys, err);
	if (r < 0)
		return r;
	id = value_list_get(list, "id");
	r = id ? check_id(id, err) : 0;
	if (r < 0)
		err_prefix(err, "%s", what);
	return r;
}

int device_option_check(const struct device_option *opt, const char *text, struct error *err)
{
	struct value_list list = { 0 };
	int r = 0;

	if (strlen(text) > DEVICE_ARGS_MAX)
		return err_set(err, EINVAL, "--%s: more than %d bytes", opt->def.name,
			       DEVICE_ARGS_MAX);
	if (opt->keys)
		r = parse_list(opt, &list, text, err);
	if (r == 0 && opt->check)
		r = opt->check(text, opt->keys ? &list : NULL, err);
	value_list_fini(&list);
	return r;
}

/* ---- the plan ---- */

static int plan(struct machine *m, const struct device_class *cls, uint32_t instance,
		const char *args, struct error *err)
{
	struct device *dev;

	if (m->nplanned == MACHINE_MAX_DEVICES)
		return err_set(err, ENOSPC, "more than %d devices", MACHINE_MAX_DEVICES);
	dev = calloc(1, cls->size + cls->guest_size); /* device_told() */
	if (!dev)
		return err_set(err, ENOMEM, "no memory for device '%s'", cls->name);
	dev->args = args ? strdup(args) : NULL;
	if (args && !dev->args) {
		free(dev);
		return err_set(err, ENOMEM, "no memory for device '%s'", cls->name);
	}
	dev->cls = cls;
	dev->machine = m;
	dev->instance = instance;
	if (cls->board == 1 && instance == 0)
		snprintf(dev->id, sizeof(dev->id), "%s", cls->name);
	else
		snprintf(dev->id, sizeof(dev->id), "%s%u", cls->name, instance);
	pthread_mutex_init(&dev->lock, NULL);
	m->planned[m->nplanned++] = dev;
	return 0;
}

static bool is_planned(const struct machine *m, const struct device_class *cls, uint32_t instance)
{
	for (unsigned int i = 0; i < m->nplanned; i++)
		if (m->planned[i]->cls == cls && m->planned[i]->instance == instance)
			return true;
	return false;
}

/* The last value that was given for a board device, or what there is without. */
static const char *board_args(const struct machine_config *cfg, const struct device_class *cls)
{
	for (size_t i = cfg->ndevices; i-- > 0;)
		if (cfg->devices[i].cls == cls && !cfg->devices[i].more)
			return cfg->devices[i].args;
	return cls->option ? cls->option->def.def : NULL;
}

static int plan_board(struct machine *m, const struct machine_config *cfg, struct error *err)
{
	int r = 0;

	for (size_t i = 0; m->model->classes[i] && r == 0; i++) {
		const struct device_class *cls = m->model->classes[i];

		if (cls->since > m->machine_version)
			continue;
		for (uint32_t n = 0; n < cls->board && r == 0; n++)
			r = plan(m, cls, n, cfg->stream ? NULL : board_args(cfg, cls), err);
	}
	return r;
}

/* Of the device that was planned last; NULL: what it has. */
static int set_id(struct machine *m, const char *id, struct error *err)
{
	struct device *dev = m->planned[m->nplanned - 1];

	if (id)
		snprintf(dev->id, sizeof(dev->id), "%s", id);
	for (unsigned int i = 0; i + 1 < m->nplanned; i++)
		if (strcmp(m->planned[i]->id, dev->id) == 0)
			return err_set(err, EINVAL, "id '%s' is that of two devices", dev->id);
	return 0;
}

/* The one that makes devices which are not the board's. */
static const struct device_option *option_of(const struct device_class *cls)
{
	return cls->more ? cls->more : cls->option;
}

static bool makes_one_more(const struct device_request *req)
{
	return req->more || !req->cls->board;
}

/* Whether the machine can have one more, of that number. */
static int check_more(const struct machine *m, const struct device_class *cls, uint32_t instance,
		      struct error *err)
{
	const struct device_option *opt = option_of(cls);
	const char *option = opt ? opt->def.name : cls->name;
	uint32_t most = cls->most > cls->board ? cls->most : cls->board;
	uint32_t since = cls->since > DEVICES_SINCE ? cls->since : DEVICES_SINCE;

	if (m->machine_version < since)
		return err_set(err, EINVAL,
			       "%s --%s needs machine version %u, and this is one of %u",
			       cls->board ? "another" : "a device by", option, since,
			       m->machine_version);
	if (instance >= most)
		return err_set(err, EINVAL, "--%s: a machine has at most %u of them", option, most);
	return 0;
}

static uint32_t instance_of(const struct machine_config *cfg, size_t index)
{
	uint32_t n = cfg->devices[index].cls->board;

	for (size_t i = 0; i < index; i++)
		n += cfg->devices[i].cls == cfg->devices[index].cls &&
		     makes_one_more(&cfg->devices[i]);
	return n;
}

static int plan_request(struct machine *m, const struct device_request *req, uint32_t instance,
			struct error *err)
{
	const struct device_option *opt = option_of(req->cls);
	struct value_list list = { 0 };
	int r = check_more(m, req->cls, instance, err);

	if (r == 0 && opt->keys)
		r = parse_list(opt, &list, req->args, err);
	if (r == 0)
		r = plan(m, req->cls, instance, req->args, err);
	if (r == 0)
		r = set_id(m, value_list_get(&list, "id"), err);
	value_list_fini(&list);
	return r;
}

static int plan_requested(struct machine *m, const struct machine_config *cfg, struct error *err)
{
	int r = 0;

	for (size_t i = 0; i < cfg->ndevices && r == 0; i++)
		if (makes_one_more(&cfg->devices[i]))
			r = plan_request(m, &cfg->devices[i], instance_of(cfg, i), err);
	return r;
}

static const struct device_class *find_class(const struct machine *m, const char *name)
{
	for (size_t i = 0; m->model->classes[i]; i++)
		if (strcmp(m->model->classes[i]->name, name) == 0)
			return m->model->classes[i];
	return NULL;
}

static int plan_one_listed(struct machine *m, const struct listed *l, struct error *err)
{
	const struct device_class *cls = find_class(m, l->name);
	int r;

	if (!cls)
		return err_set(err, EPROTO, "section 'devices': this molt has no device '%s'",
			       l->name);
	if (is_planned(m, cls, l->instance))
		return err_set(err, EBADMSG, "section 'devices': two devices are %s %u", l->name,
			       l->instance);
	r = check_more(m, cls, l->instance, err);
	if (r == 0)
		r = check_id(l->id, err);
	if (r == 0)
		r = plan(m, cls, l->instance, l->args, err);
	return r < 0 ? r : set_id(m, l->id, err);
}

static int plan_listed(struct machine *m, struct stream *s, struct error *err)
{
	struct listed l = { 0 };
	int r = 0;

	for (uint32_t i = 0; r == 0 && stream_find(s, devices_vmstate.name, i); i++) {
		r = vmstate_load(s, &devices_vmstate, i, &l, err);
		if (r == 0)
			r = plan_one_listed(m, &l, err);
	}
	return r;
}

int devices_plan(struct machine *m, const struct machine_config *cfg, struct error *err)
{
	int r = plan_board(m, cfg, err);

	if (r < 0)
		return r;
	return cfg->stream ? plan_listed(m, cfg->stream, err) : plan_requested(m, cfg, err);
}

/* The machine gives each a place of its own where none is asked for. */
static int check_slot(const struct device *dev, uint64_t *taken, struct error *err)
{
	const struct device_option *opt = option_of(dev->cls);
	struct value_list list = { 0 };
	const char *text;
	uint64_t slot = 0;
	int r;

	if (!opt || !opt->keys || !dev->args)
		return 0;
	r = parse_list(opt, &list, dev->args, err);
	text = r == 0 ? value_list_get(&list, "slot") : NULL;
	if (text)
		r = value_number("slot", text, 1, 63, &slot, err);
	value_list_fini(&list);
	if (r == 0 && slot && (*taken & 1ull << slot))
		r = err_set(err, EINVAL, "slot %u is that of two devices", (unsigned int)slot);
	*taken |= 1ull << slot;
	return r;
}

int machine_check_devices(const struct machine_config *cfg, struct error *err)
{
	struct machine *m = calloc(1, sizeof(*m));
	uint64_t slots = 0;
	int r;

	if (!m)
		return err_set(err, ENOMEM, "no memory for a list of devices");
	m->model = cfg->model;
	m->machine_version = cfg->machine_version;
	r = devices_plan(m, cfg, err);
	for (unsigned int i = 0; i < m->nplanned && r == 0; i++)
		r = check_slot(m->planned[i], &slots, err);
	devices_destroy(m);
	free(m);
	return r;
}

uint32_t machine_peek_devices(struct stream *s, const struct device_class *cls)
{
	struct error err = ERROR_INIT;
	struct listed l = { 0 };
	uint32_t n = 0;

	for (uint32_t i = 0; stream_find(s, devices_vmstate.name, i); i++)
		if (vmstate_load(s, &devices_vmstate, i, &l, &err) == 0)
			n += strcmp(l.name, cls->name) == 0;
	return n;
}

void devices_save_list(struct machine *m, struct stream_writer *w)
{
	struct listed l = { 0 };
	uint32_t n = 0;

	for (unsigned int i = 0; i < m->nplanned; i++) {
		const struct device *dev = m->planned[i];

		if (dev->instance < dev->cls->board)
			continue;
		snprintf(l.name, sizeof(l.name), "%s", dev->cls->name);
		l.instance = dev->instance;
		snprintf(l.id, sizeof(l.id), "%s", dev->id);
		snprintf(l.args, sizeof(l.args), "%s", dev->args ? dev->args : "");
		vmstate_save(w, &devices_vmstate, n++, &l);
	}
}

/* ---- life ---- */

static int call_create(struct device *dev, const struct machine_config *cfg, struct error *err)
{
	const struct device_option *opt = dev->instance < dev->cls->board ? dev->cls->option
									  : option_of(dev->cls);
	bool has_list = opt && opt->keys && dev->args;
	uint32_t taken = cfg->fds ? cfg->fds->ntaken : 0;
	struct value_list list = { 0 };
	const struct device_env env = {
		.machine = dev->machine,
		.loop = dev->machine->loop,
		.args = dev->args,
		.list = has_list ? &list : NULL,
		.fds = cfg->fds,
		.stream = cfg->stream,
	};
	int r = has_list ? parse_list(opt, &list, dev->args, err) : 0;

	if (r == 0 && dev->cls->create)
		r = dev->cls->create(dev, &env, err);
	dev->fds_taken = cfg->fds ? cfg->fds->ntaken - taken : 0;
	value_list_fini(&list);
	return r;
}

static int add_regions(struct device *dev, struct error *err)
{
	int r = 0;

	for (unsigned int n = 0; n < dev->cls->nregions && r == 0; n++) {
		const struct bus_region *region = &dev->cls->regions[n];
		uint64_t base = dev->instance ? region->more_bases[dev->instance - 1]
					      : region->base;

		r = bus_add(&dev->machine->bus, region, base, dev, err);
	}
	return r;
}

int devices_create(struct machine *m, const struct machine_config *cfg, bool before_vcpus,
		   struct error *err)
{
	for (unsigned int i = 0; i < m->nplanned; i++) {
		struct device *dev = m->planned[i];
		int r;

		if (dev->cls->before_vcpus != before_vcpus)
			continue;
		r = call_create(dev, cfg, err);
		if (r < 0) {
			err_prefix(err, "device '%s'", dev->id);
			return r;
		}
		m->devices[m->ndevices++] = dev;
		r = add_regions(dev, err);
		if (r < 0)
			return r;
	}
	return 0;
}

int devices_attach(struct machine *m, bool before_vcpus, struct error *err)
{
	for (unsigned int i = 0; i < m->ndevices; i++) {
		struct device *dev = m->devices[i];
		int r;

		if (!dev->cls->attach || dev->cls->before_vcpus != before_vcpus)
			continue;
		r = dev->cls->attach(dev, err);
		if (r < 0) {
			err_prefix(err, "device '%s'", dev->id);
			return r;
		}
	}
	return 0;
}

static bool all_before_reset(struct machine *m, bool at_once)
{
	bool done = true;

	for (unsigned int i = 0; i < m->ndevices; i++) {
		struct device *dev = m->devices[i];

		if (dev->cls->before_reset && !dev->cls->before_reset(dev, at_once))
			done = false;
	}
	return done;
}

/*
 * All side by side: storage that hangs makes the guest wait once, not once for each disk. Whoever
 * ends molt meanwhile does not wait for it.
 */
void devices_before_reset(struct machine *m)
{
	uint64_t until = now_ns() + BEFORE_RESET_NS;

	while (!all_before_reset(m, false)) {
		if (now_ns() >= until || end_signals_pending()) {
			all_before_reset(m, true);
			return;
		}
		poll(NULL, 0, 1);
	}
}

void devices_destroy(struct machine *m)
{
	while (m->ndevices) {
		struct device *dev = m->devices[--m->ndevices];

		if (dev->cls->destroy)
			dev->cls->destroy(dev);
	}
	while (m->nplanned) {
		struct device *dev = m->planned[--m->nplanned];

		pthread_mutex_destroy(&dev->lock);
		free(dev->args);
		free(dev);
	}
}
