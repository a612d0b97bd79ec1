/* SPDX-License-Identifier: MIT */
/*
 * Prints the tables of docs/guest-abi.md that come from the code: the kinds of vCPU state with
 * the CPUID bits that need them, and the bits of CPUID that a guest may see. tests/check-docs.py
 * compares.
 */
#include <stdio.h>
#include <string.h>

#include <molt/vm/cpuid.h>

static const char *const reg_names[] = { "EAX", "EBX", "ECX", "EDX", "all" };

static void print_calls(const struct kvm_request calls[2])
{
	for (size_t i = 0; i < 2; i++)
		if (calls[i].name)
			printf("%s`%s`", i ? " " : "", calls[i].name);
	printf(" | ");
}

static void print_place(unsigned int place)
{
	if (place)
		printf("%u", place);
	printf(" | ");
}

/* AMD's copies of bits of leaf 0x1, the name of each area: once is enough. */
static int is_told_before(const struct cpuid_rule *rule, const struct cpuid_bits *bits)
{
	for (const struct cpuid_rule *r = cpuid_rules; r <= rule; r++)
		for (const struct cpuid_bits *b = r->bits; b->name && b != bits; b++)
			if (strcmp(b->name, bits->name) == 0 && b->needs == bits->needs)
				return 1;
	return 0;
}

static void print_bits_of(enum vcpu_kind_id id)
{
	const char *space = "";

	for (const struct cpuid_rule *r = cpuid_rules; r < cpuid_rules + cpuid_rules_count; r++)
		for (const struct cpuid_bits *b = r->bits; b->name; b++)
			if (b->needs == id && !is_told_before(r, b)) {
				printf("%s%s", space, b->name);
				space = " ";
			}
	printf(" |\n");
}

static void print_kinds(void)
{
	printf("| state | capability | read with | set with | read | set | CPUID bits that need it |\n"
	       "|---|---|---|---|---|---|---|\n");
	for (enum vcpu_kind_id id = 0; id < VCPU_KINDS; id++) {
		const struct vcpu_kind *k = &vcpu_kinds[id];

		printf("| %s | %s%s | ", k->name, k->cap ? k->cap : "",
		       k->optional ? ", if there" : "");
		print_calls(k->get);
		print_calls(k->set);
		print_place(k->save_at);
		print_place(id + 1);
		print_bits_of(id);
	}
	printf("| none | | | | | | ");
	print_bits_of(CPUID_NO_STATE);
}

static uint32_t mask_of(const struct cpuid_rule *rule)
{
	uint32_t mask = 0;

	for (const struct cpuid_bits *b = rule->bits; b->name; b++)
		mask |= (b->count == 32 ? ~0u : (1u << b->count) - 1) << b->first;
	return mask;
}

static void print_rules(void)
{
	printf("| leaf | subleaf | register | bits |\n|---|---|---|---|\n");
	for (const struct cpuid_rule *r = cpuid_rules; r < cpuid_rules + cpuid_rules_count; r++) {
		printf("| 0x%x | ", r->function);
		if (r->index == CPUID_ANY_INDEX)
			printf("each");
		else if (r->index == CPUID_XSAVE_AREAS)
			printf("2 and on");
		else
			printf("%u", r->index);
		printf(" | %s | 0x%08x |\n", reg_names[r->reg], mask_of(r));
	}
}

int main(void)
{
	print_kinds();
	printf("\n");
	print_rules();
	return 0;
}
