/* SPDX-License-Identifier: MIT */
/* The tables of commands that the rooms have added. */
#include <string.h>

#include <molt/base/log.h>

#include "internal.h"

void control_add_commands(struct control *c, const struct command *commands, size_t count,
			  void *opaque)
{
	if (!c)
		return;
	if (c->ntables == CONTROL_MAX_TABLES) {
		log_error("control: no room for another command table ('%s' and its like)",
			  commands[0].name);
		return;
	}
	c->tables[c->ntables++] = (struct control_table){
		.commands = commands, .count = count, .opaque = opaque,
	};
}

const struct command *control_find_command(const struct control *c, const char *name,
					   void **opaque)
{
	for (unsigned int t = 0; t < c->ntables; t++) {
		for (size_t i = 0; i < c->tables[t].count; i++) {
			if (strcmp(c->tables[t].commands[i].name, name) != 0)
				continue;
			*opaque = c->tables[t].opaque;
			return &c->tables[t].commands[i];
		}
	}
	return NULL;
}
