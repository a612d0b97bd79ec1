/* SPDX-License-Identifier: MIT */
/*
 * Prints what CPUID says for each byte that comes in on COM1, a line a subleaf: "cpuid:
 * LEAF.SUBLEAF EAX EBX ECX EDX", and then "cpuid: end BYTE". Ctrl-D ends it.
 */
#include "lib/guest.h"

#define COM1 0x3f8
#define LSR_DATA 0x01
#define CTRL_D 0x04
#define SUBLEAVES 20 /* of the leaves that have them */

static void print_leaf(uint32_t leaf, uint32_t subleaf)
{
	struct cpuid c = cpuid(leaf, subleaf);

	if (c.eax | c.ebx | c.ecx | c.edx)
		print("cpuid: %x.%u %x %x %x %x\n", leaf, subleaf, c.eax, c.ebx, c.ecx, c.edx);
}

static bool has_subleaves(uint32_t leaf)
{
	return leaf == 4 || leaf == 7 || leaf == 0xd || leaf == 0x8000001d;
}

static void print_leaves(uint32_t first)
{
	uint32_t last = cpuid(first, 0).eax;

	if (last < first || last > first + 0x100)
		return;
	for (uint32_t leaf = first; leaf <= last; leaf++)
		for (uint32_t subleaf = 0; subleaf < (has_subleaves(leaf) ? SUBLEAVES : 1);
		     subleaf++)
			print_leaf(leaf, subleaf);
}

static void print_all(char why)
{
	print_leaves(0);
	print_leaves(0x40000000);
	print_leaves(0x80000000);
	print("cpuid: end %c\n", why);
}

void guest_main(void)
{
	for (;;) {
		char c;

		while (!(inb(COM1 + 5) & LSR_DATA))
			;
		c = (char)inb(COM1);
		if (c == CTRL_D)
			return;
		print_all(c);
	}
}
