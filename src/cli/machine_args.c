/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <molt/base/log.h>

#include "machine_args.h"

static int parse_cpu(const struct cli_args *args, struct machine_config *cfg, struct error *err)
{
	int r;

	cfg->cpu_model = cli_value(args, "cpu");
	r = cpu_model_check(cfg->cpu_model, err);
	if (r < 0)
		err_prefix(err, "--cpu");
	return r;
}

int cli_parse_machine(const struct cli_args *args, struct machine_config *cfg,
		      struct memory_arg *memory, struct error *err)
{
	static const char *const cpu_keys[] = { "count", NULL };
	struct value_list cpus = { 0 };
	uint64_t n = 0, version = machine_model.newest;
	int r = cli_parse_memory(cli_value(args, "memory"), memory, err);

	cfg->ram_size = memory->size;
	cfg->memory = memory->options;
	if (r == 0)
		r = value_list_parse(&cpus, "--cpus", cli_value(args, "cpus"), cpu_keys, err);
	if (r == 0)
		r = value_number("--cpus", value_list_get(&cpus, "count"), 1, MACHINE_MAX_VCPUS, &n,
				 err);
	if (r == 0 && cli_given(args, "machine"))
		r = value_number("--machine", cli_value(args, "machine"), 1, machine_model.newest,
				 &version, err);
	if (r == 0)
		r = parse_cpu(args, cfg, err);
	cfg->cpus = (uint32_t)n;
	cfg->machine_version = (uint32_t)version;
	value_list_fini(&cpus);
	return r;
}

/* False where the option makes no device. */
static bool request_of(const struct option_def *def, struct device_request *req)
{
	for (size_t i = 0; machine_model.classes[i]; i++) {
		const struct device_class *cls = machine_model.classes[i];

		req->cls = cls;
		req->more = cls->more && &cls->more->def == def;
		if (req->more || (cls->option && &cls->option->def == def))
			return true;
	}
	return false;
}

int cli_device_requests(const struct cli_args *args, struct device_requests *requests,
			struct error *err)
{
	*requests = (struct device_requests){
		.list = calloc(args->ngiven + 1, sizeof(struct device_request)),
	};
	if (!requests->list)
		return err_set(err, ENOMEM, "no memory for the list of devices");
	for (size_t i = 0; i < args->ngiven; i++) {
		struct device_request req = { .args = args->given[i].value };

		if (request_of(args->given[i].option, &req))
			requests->list[requests->count++] = req;
	}
	return 0;
}

/* As far as both have them: more than there are is refused in the check. */
static void warn_of_devices(const struct cli_args *args, const struct machine *m)
{
	struct device_requests requests = { 0 };
	struct error err = ERROR_INIT;
	unsigned int at = 0;

	if (cli_device_requests(args, &requests, &err) < 0)
		log_warn("%s", err.text);
	for (size_t i = 0; i < requests.count; i++) {
		const struct device_request *req = &requests.list[i];

		if (req->cls->board && !req->more)
			continue;
		while (at < m->ndevices && (m->devices[at]->cls != req->cls ||
					    m->devices[at]->instance < req->cls->board))
			at++;
		if (at < m->ndevices && m->devices[at]->args &&
		    strcmp(m->devices[at]->args, req->args) != 0)
			log_warn("device '%s': it stays as it was made, by '%s'",
				 m->devices[at]->id, m->devices[at]->args);
		at += at < m->ndevices;
	}
	free(requests.list);
}

void cli_warn_of_differences(const struct cli_args *args, const struct machine *m)
{
	struct machine_config asked = { 0 };
	struct error err = ERROR_INIT;
	struct memory_arg memory;

	if (cli_parse_machine(args, &asked, &memory, &err) < 0) {
		log_warn("%s; the guest keeps what it has", err.text);
		return;
	}
	if (cli_given(args, "cpus") && asked.cpus != m->guest.cpus)
		log_warn("--cpus %u: the guest keeps its %u vCPUs", asked.cpus, m->guest.cpus);
	if (cli_given(args, "cpu") && strcmp(asked.cpu_model, m->guest.cpu_model) != 0)
		log_warn("--cpu %s: the guest keeps %s", asked.cpu_model, m->guest.cpu_model);
	if (cli_given(args, "memory") && asked.ram_size != m->guest.ram_size)
		log_warn("--memory %llu: the guest keeps its %llu bytes of RAM",
			 (unsigned long long)asked.ram_size, (unsigned long long)m->guest.ram_size);
	if (cli_given(args, "machine") && asked.machine_version != m->machine_version)
		log_warn("--machine %u: the guest keeps machine version %u", asked.machine_version,
			 m->machine_version);
	warn_of_devices(args, m);
	if (memory.hugepages_given && !memory_pages_are(&m->memory, memory.options.hugepages))
		log_warn("--memory hugepages=...: guest RAM keeps its pages of %llu KiB until molt is "
			 "started anew",
			 (unsigned long long)(m->memory.page >> 10));
}
