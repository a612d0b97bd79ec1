/* SPDX-License-Identifier: MIT */
/*
 * A guest from a predecessor: the successor's half of an update (docs/live-update.md). Nothing is
 * opened by its path. The order of what is done here is that of the table in update/steps.c.
 */
#include <unistd.h>

#include <molt/base/fd.h>
#include <molt/base/log.h>

#include "confine.h"
#include "internal.h"

/*
 * How this process treats guest RAM, log and sandbox is its own command line's affair. After a way
 * back that is the one that came with the stream: the way back itself knows no options.
 */
static int take_own_config(struct vmm *v, const struct incoming *in, struct error *err)
{
	int argc = 0, r;

	while (in->failure && v->self.argv[1 + argc])
		argc++;
	if (!argc)
		return 0;
	r = v->ops.configure(v->ops.opaque, argc, v->self.argv + 1, &v->cfg, err);
	if (r < 0) {
		err_prefix(err, "the command line that this guest was started with");
		return r;
	}
	log_set_level(v->cfg.log_level);
	sandbox_hide(v->cfg.sandbox);
	return 0;
}

static int check_config(const struct vmm *v, struct error *err)
{
	const struct error *wrong = &v->cfg.wrong;

	return wrong->text[0] ? err_set(err, wrong->code, "%s", wrong->text) : 0;
}

/* What tells where this process is to go on from, and how. */
static int adopt(void *opaque, struct incoming *in, struct error *err)
{
	struct vmm *v = opaque;
	int r = vmm_adopt_parts(v, in, err);

	log_hold();
	if (r == 0)
		r = check_config(v, err);
	if (r == 0)
		r = update_self_load(&v->self, in, err);
	return r < 0 ? r : take_own_config(v, in, err);
}

static int build(void *opaque, struct incoming *in, struct update **u, struct error *err)
{
	struct vmm *v = opaque;
	int r = vmm_build_parts(v, in, err);

	if (r == 0)
		vmm_add_commands(v);
	*u = v->update;
	return r;
}

static void map_ram(void *opaque, struct incoming *in)
{
	struct vmm *v = opaque;
	struct error err = ERROR_INIT;

	if (!update_is_lazy(in) && v->cfg.refault == REFAULT_BEFORE &&
	    update_map_ram(v->update, in, &v->refault, v->cfg.refault_limit_ns, &err) < 0)
		log_warn("%s; the guest does it itself", err.text);
}

/* In a blackout nobody logs, and until here lines have waited. */
static void start_log(void)
{
	struct error err = ERROR_INIT;

	if (log_start(&err) < 0)
		log_error("the log is written by whoever has something to say: %s", err.text);
}

static void after(void *opaque, struct incoming *in)
{
	struct vmm *v = opaque;

	fd_close_inherited();
	confine_successor(&v->cfg, control_path(v->control), machine_has_back_ends(&v->machine));
	start_log();
	control_start(v->control);
	v->ops.compare(v->ops.opaque, &v->machine);
	memory_log_trouble(&v->machine.memory);
	machine_updated(&v->machine, update_of_devices(in));
	if (v->cfg.refault != REFAULT_LAZY && !update_is_lazy(in))
		refault_start(&v->refault, &v->machine.memory, v->loop);
}

static const struct take_over_ops take_over_ops = {
	.adopt = adopt,
	.build = build,
	.map_ram = map_ram,
	.after = after,
};

int vmm_take_over(struct vmm *v, struct error *err)
{
	struct incoming in = { .uri = v->cfg.incoming, .main_ns = v->cfg.main_ns };

	if (update_take_over(&in, &take_over_ops, v, err) < 0) {
		log_hold(); /* its reader may be slow, and that is bounded */
		log_error("%s", err->text);
		log_stop(LOG_DRAIN_MS);
		update_give_up(&in, err);
		/* Terminal, sockets and their paths are the stand-in's: nothing is torn down. */
		_exit(MACHINE_EXIT_FAILURE);
	}
	update_incoming_fini(&in);
	return 0;
}
