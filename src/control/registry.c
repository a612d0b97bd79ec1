/* SPDX-License-Identifier: MIT */
/* The tables of commands and events that the rooms have added. */
#include <string.h>

#include <molt/base/log.h>

#include "internal.h"

static void add_table(struct control *c, const struct control_table *table, const char *first)
{
	if (!c)
		return;
	if (c->ntables == CONTROL_MAX_TABLES) {
		log_error("control: no room for another table ('%s' and its like)", first);
		return;
	}
	c->tables[c->ntables++] = *table;
}

void control_add_commands(struct control *c, const struct command *commands, size_t count,
			  void *opaque)
{
	const struct control_table table = {
		.commands = commands,
		.count = count,
		.opaque = opaque,
	};

	add_table(c, &table, commands[0].name);
}

void control_add_events(struct control *c, const struct command_event *events, size_t count)
{
	const struct control_table table = { .events = events, .count = count };

	add_table(c, &table, events[0].name);
}

const struct command *control_find_command(const struct control *c, const char *name, void **opaque)
{
	for (unsigned int t = 0; t < c->ntables; t++) {
		for (size_t i = 0; c->tables[t].commands && i < c->tables[t].count; i++) {
			if (strcmp(c->tables[t].commands[i].name, name) != 0)
				continue;
			*opaque = c->tables[t].opaque;
			return &c->tables[t].commands[i];
		}
	}
	return NULL;
}
