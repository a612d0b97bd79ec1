/* SPDX-License-Identifier: MIT */
/*
 * What there is to say of an option of the command line. The rooms that have options of their own
 * (a device class) say it in their files, and src/cli/options.c makes parser and --help of it.
 */
#ifndef MOLT_BASE_OPTION_H
#define MOLT_BASE_OPTION_H

struct option_def {
	const char *name; /* without the dashes; NULL ends the table */
	const char *arg;  /* placeholder of the value, NULL for a flag */
	const char *help;
	const char *def;      /* value when it is not given, or NULL */
	const char *values;   /* for completion: what it may be, between blanks; NULL: see arg */
	const char *alias_of; /* another name of that option; the rest is NULL then */
};

#endif
