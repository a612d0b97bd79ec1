/* SPDX-License-Identifier: MIT */
/* The first C code of a guest, in ring 3: reads what the loader left, sets up what all share. */
#include "guest.h"

#define START_INFO_MAGIC 0x336ec578
#define MEMMAP_RAM 1
#define MAX_REGIONS 32

#define PM1_STATUS 0x600
#define PM1_CONTROL 0x604
#define PM1_PWRBTN 0x100
#define PM1_S5 (5u << 10 | 1u << 13)

struct start_info {
	uint32_t magic, version, flags, nr_modules;
	uint64_t modules, cmdline, rsdp, memmap;
	uint32_t memmap_entries, reserved;
};

struct memmap_entry {
	uint64_t address, size;
	uint32_t type, reserved;
};

struct mem_region ram[MAX_REGIONS];
unsigned int ram_count;

extern uint64_t start_info_gpa, pml4[512];
extern struct {
	uint16_t offset_low, selector;
	uint8_t ist, type;
	uint16_t offset_mid;
	uint32_t offset_high, reserved;
} idt[256];
extern char vector_stubs[], ud_entry[];

static char command_line[1024];

void runtime_main(void);
void trap_report(void) __attribute__((noreturn));

void *memcpy(void *to, const void *from, size_t length)
{
	void *result = to;

	__asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(length) : : "memory");
	return result;
}

void *memset(void *to, int value, size_t length)
{
	void *result = to;

	__asm__ volatile("rep stosb" : "+D"(to), "+c"(length) : "a"(value) : "memory");
	return result;
}

/* ------------------------------------------------------------------ memory */

/* The table that an entry points to, made if need be; NULL: there are no more. */
static uint64_t *table_of(uint64_t *entry)
{
	static uint64_t tables[64][512] __attribute__((aligned(4096)));
	static unsigned int used;

	if (!*entry) {
		if (used == ARRAY_SIZE(tables))
			return NULL;
		*entry = (uintptr_t)tables[used++] + PTE_TABLE;
	}
	return (uint64_t *)(uintptr_t)(*entry & ~0xfffull);
}

void map_range(uint64_t start, uint64_t end, uint64_t flags)
{
	for (uint64_t at = start & ~0x1fffffull; at < end; at += 0x200000) {
		uint64_t *table = at >> 47 ? NULL : table_of(&pml4[at >> 39]);

		if (table)
			table = table_of(&table[at >> 30 & 511]);
		if (!table)
			return;
		table[at >> 21 & 511] = at + PTE_LARGE + flags;
	}
}

/* What map_range() cannot reach is left out; so is all below the image (the loader's things). */
static void add_ram(uint64_t start, uint64_t end)
{
	if (start < (uintptr_t)image_end)
		start = (uintptr_t)image_end;
	start = (start + 4095) & ~4095ull;
	end &= ~4095ull;
	if (start >= end || ram_count == MAX_REGIONS)
		return;
	map_range(start, end, 0);
	ram[ram_count++] = (struct mem_region){ start, end };
}

void *ram_take(uint64_t size, uint64_t align)
{
	for (unsigned int i = 0; i < ram_count; i++) {
		uint64_t at = (ram[i].start + align - 1) & ~(align - 1);

		if (at + size > ram[i].end)
			continue;
		ram[i].start = (at + size + 4095) & ~4095ull;
		return memset((void *)(uintptr_t)at, 0, size);
	}
	return NULL;
}

static void read_start_info(void)
{
	const struct start_info *info = (const void *)(uintptr_t)start_info_gpa;
	const struct memmap_entry *map;
	const char *from;

	if (info->magic != START_INFO_MAGIC)
		return;
	from = (const char *)(uintptr_t)info->cmdline;
	for (size_t i = 0; from && from[i] && i < sizeof(command_line) - 1; i++)
		command_line[i] = from[i];
	if (!info->version)
		return;
	map = (const void *)(uintptr_t)info->memmap;
	for (uint32_t i = 0; map && i < info->memmap_entries; i++)
		if (map[i].type == MEMMAP_RAM)
			add_ram(map[i].address, map[i].address + map[i].size);
}

/* ------------------------------------------------------------------ command line */

/* The text after `name=` at the start of a word, or NULL. */
static const char *option_find(const char *name)
{
	const char *at = command_line;

	while (*at) {
		size_t i = 0;

		while (name[i] && at[i] == name[i])
			i++;
		if (!name[i] && at[i] == '=')
			return at + i + 1;
		while (*at && *at != ' ')
			at++;
		while (*at == ' ')
			at++;
	}
	return NULL;
}

static unsigned int digit_of(char c)
{
	if (c >= '0' && c <= '9')
		return (unsigned int)(c - '0');
	if (c >= 'a' && c <= 'f')
		return (unsigned int)(c - 'a') + 10;
	return 99;
}

uint64_t option_number(const char *name, uint64_t absent)
{
	const char *at = option_find(name);
	unsigned int base = 10;
	uint64_t value = 0;

	if (!at)
		return absent;
	if (at[0] == '0' && at[1] == 'x') {
		base = 16;
		at += 2;
	}
	for (; digit_of(*at) < base; at++)
		value = value * base + digit_of(*at);
	return value;
}

bool option_is(const char *name, const char *value)
{
	const char *at = option_find(name);

	if (!at)
		return false;
	while (*value && *at == *value)
		at++, value++;
	return !*value && (!*at || *at == ' ');
}

/* ------------------------------------------------------------------ power */

void power_off(void)
{
	for (;;)
		outw(PM1_CONTROL, PM1_S5);
}

bool power_button(void)
{
	if (!(inw(PM1_STATUS) & PM1_PWRBTN))
		return false;
	outw(PM1_STATUS, PM1_PWRBTN);
	return true;
}

/* ------------------------------------------------------------------ traps */

static void set_gate(unsigned int vector, const char *to)
{
	uintptr_t offset = (uintptr_t)to;

	idt[vector].offset_low = (uint16_t)offset;
	idt[vector].selector = SEL_CODE0;
	idt[vector].type = 0x8e;
	idt[vector].offset_mid = (uint16_t)(offset >> 16);
}

static void fill_idt(void)
{
	for (unsigned int vector = 0; vector < 256; vector++)
		set_gate(vector, vector_stubs + 16 * vector);
	set_gate(6, ud_entry);
}

static void in_ring0_drop_idt(void)
{
	static const struct {
		uint16_t limit;
		uint64_t base;
	} __attribute__((packed)) none = { 0, 0 };

	__asm__ volatile("lidt %0" : : "m"(none));
}

void triple_fault(void)
{
	ring0((uintptr_t)in_ring0_drop_idt, 0, 0, 0);
	__builtin_trap();
}

void trap_print(const struct cpu *cpu)
{
	print("guest: EXCEPTION vec=%lu rip=%016lx err=%lx cs=%lx rflags=%lx rsp=%016lx cr2=%016lx "
	      "cpu=%u\n",
	      cpu->trap.vector, cpu->trap.rip, cpu->trap.error, cpu->trap.cs, cpu->trap.rflags,
	      cpu->trap.rsp, cpu->trap.cr2, cpu->index);
	power_off();
}

/* Only the boot CPU prints. */
void trap_report(void)
{
	struct cpu *cpu = this_cpu();

	if (cpu->index == 0)
		trap_print(cpu);
	cpu->trapped = true;
	for (;;)
		cpu_relax();
}

void runtime_main(void)
{
	fill_idt();
	outb(0x3f8 + 2, 1); /* FIFOs on: print() fills them sixteen at a time */
	map_range(0xfec00000, 0xff000000, PTE_UNCACHED);
	read_start_info();
	pic_init();
	guest_main();
	power_off();
}
