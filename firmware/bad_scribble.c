/* SPDX-License-Identifier: MIT */
/*
 * The second CPU writes over the victim's rings while a device works with them: at any moment, for
 * that is what it must be proof against. In half of the rounds it writes registers as well, while
 * the BAR is moved beneath it. What it writes is by a seed mostly nearly right (an index
 * that is one too large, an address close to the end of RAM), since nonsense is soon refused.
 *
 * It writes nothing but the rings, the indirect tables and the buffer, and the device writes only
 * where the rings say: some of that is guest RAM which is nobody's, chosen so that it is not this
 * program's. Both CPUs' choices come from the seed; how they meet is up to the host.
 */
#include "bad.h"
#include "bad_scribble.h"

#define VEC_GO 0x54
#define SCRATCH 0x100000u /* nobody's */
#define KICKS 24

static volatile bool scribbling, stop, registers;
static uint64_t scratch, state;

static uint32_t chance(uint32_t below)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return (uint32_t)(state >> 32) % below;
}

static uint64_t some_address(void)
{
	switch (chance(8)) {
	case 0:
		return ram_end - chance(64);
	case 1:
		return ram_end + chance(8192);
	case 2:
		return ~0ull - chance(4096);
	case 3:
		return (uintptr_t)victim.q.tables + chance(256) * 16;
	default:
		return scratch + chance(SCRATCH / 2);
	}
}

static struct virtq_desc some_desc(void)
{
	return (struct virtq_desc){
		.address = some_address(),
		.length = chance(4)   ? chance(600)
			  : chance(2) ? 16 * chance(20)
				      : ~chance(99),
		.flags = (uint16_t)chance(chance(16) ? 8 : 65536),
		.next = (uint16_t)chance(chance(8) ? BAD_SIZE : 65536),
	};
}

/* Not the table of MSI-X: a message may as well reset a CPU. */
static void some_register(void)
{
	uint32_t at = chance(4)   ? chance(0x40)
		      : chance(2) ? victim.dev.notify + chance(8)
				  : victim.dev.isr;
	unsigned int size = 1u << chance(4);

	if (chance(2))
		virtio_read(&victim.dev, at, size);
	else
		virtio_write(&victim.dev, at, chance(2) ? chance(16) : chance(~0u), size);
}

static void scribble(void)
{
	struct virtq *q = &victim.q;

	if (registers && chance(64) == 0)
		some_register();
	switch (chance(8)) {
	case 0:
		q->avail[1] = (uint16_t)(q->published + chance(chance(16) ? 10 : 65536));
		break;
	case 1:
		q->avail[2 + chance(BAD_SIZE + 1)] = (uint16_t)chance(BAD_SIZE + (chance(8) == 0));
		break;
	case 2:
		q->avail[0] = (uint16_t)chance(3);
		break;
	case 3:
		q->used[chance(4 + 4 * BAD_SIZE)] = (uint16_t)chance(65536);
		break;
	case 4:
		q->tables[chance(BAD_SIZE)][chance(VIRTQ_SEGMENTS)] = some_desc();
		break;
	default:
		q->desc[chance(BAD_SIZE)] = some_desc();
	}
}

static void scribbler(void)
{
	const volatile uint64_t *go = &this_cpu()->irq_count[VEC_GO];
	uint64_t seen = 0;

	lapic_enable();
	for (;;) {
		while (*go == seen)
			halt_unless(go, seen);
		seen = *go;
		while (!stop)
			scribble();
		scribbling = false;
	}
}

/* Where the other CPU is about to look for registers there are none for a moment. */
static void move_bar(void)
{
	uint64_t was = victim.dev.bar;

	if (bad_random(2)) {
		pci_bar_write(victim.dev.slot, 0x5000000000 + BAR_BYTES * bad_random(1000));
		pci_bar_write(victim.dev.slot, was);
	} else {
		pci_command(victim.dev.slot, 0, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
		pci_command(victim.dev.slot, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER, 0);
	}
}

static void one_round(void)
{
	target_start(&victim, bad_random(4) ? FEATURES_ALL : F_VERSION_1, BAD_SIZE);
	scribbling = true;
	stop = false;
	lapic_write(LAPIC_ICR_HIGH, 1u << 24);
	lapic_write(LAPIC_ICR, VEC_GO);
	registers = bad_random(2);
	for (unsigned int i = 0; i < KICKS; i++) {
		if (registers && bad_random(8) == 0)
			move_bar();
		victim.q.avail[1] = ++victim.q.published;
		virtq_notify(&victim.q);
		/* One that is broken is not worth the rest, but now and then. */
		if (!registers && virtio_status(&victim.dev) & S_NEEDS_RESET && bad_random(4))
			break;
	}
	target_request(&other);
	if (bad_random(2)) /* a reset, or a new start, in the midst of it */
		virtio_reset(&victim.dev);
	stop = true;
	while (scribbling)
		cpu_relax();
}

void bad_scribble(uint64_t rounds)
{
	uint64_t broken = 0;

	if (!rounds)
		return;
	state = option_number("seed", 1) * 0xd1342543de82ef95u;
	scratch = (uintptr_t)ram_take(SCRATCH, 4096);
	if (!scratch || cpus_start(2, scribbler) != 2)
		bad_fail("no second CPU");
	for (uint64_t i = 1; i <= rounds; i++) {
		one_round();
		broken += !!(virtio_status(&victim.dev) & S_NEEDS_RESET);
		target_start(&victim, FEATURES_ALL, BAD_SIZE);
		target_request(&victim);
		if (i % 64 == 0 || i == rounds)
			print("bad: scribbled rounds=%lu broken=%lu\n", i, broken);
		cpus_check_traps();
	}
}
