/* SPDX-License-Identifier: MIT */
/*
 * A program of unit tests, several files test_NAME.c: the main() of each was compiled as
 * unit_NAME(). Arguments: which of them to run, one after the other in this process; without any,
 * all.
 */
#include <stdio.h>
#include <string.h>

#define UNIT(name) int unit_##name(void);
UNITS
#undef UNIT

#define UNIT(name) { #name, unit_##name },
static const struct {
	const char *name;
	int (*run)(void);
} units[] = { UNITS };

#define COUNT (sizeof(units) / sizeof(units[0]))

static int run(const char *name)
{
	for (size_t i = 0; i < COUNT; i++)
		if (strcmp(units[i].name, name) == 0)
			return units[i].run();
	fprintf(stderr, "there is no '%s' here\n", name);
	return 1;
}

int main(int argc, char **argv)
{
	int failed = 0;

	if (argc < 2)
		for (size_t i = 0; i < COUNT; i++)
			failed |= units[i].run();
	for (int i = 1; i < argc; i++)
		failed |= run(argv[i]);
	return failed ? 1 : 0;
}
