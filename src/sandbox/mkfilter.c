/* SPDX-License-Identifier: MIT */
/*
 * Build-time program: compiles the lists of system calls to seccomp filters, as C tables. So
 * nothing has to be compiled, and no library linked, at run time.
 *
 * A vCPU thread's list is declared in comments beside the code that makes the calls. A declaration
 * ends with its line:
 *
 *	#syscalls LIST: CALL ...
 *	... ioctls(PREFIX)	ioctl(REQUEST) for each word that begins so in the table after the
 *				comment, up to its "};"
 *
 * Main's list is a file of its own, for it is about programs that are not in these sources. A line
 * that begins with # is a comment. "plain:" and "sanitized:" are for builds without and with a
 * sanitizer.
 *
 * CALL is a name, which allows the call, or NAME(CONDITION,...), one condition for each argument
 * from the first on; ioctl's begin with the request:
 *
 *	(nothing)	any value		!VALUE		not that
 *	VALUE		that one		!&MASK		none of these bits
 *	NULL		no pointer		&MASK=VALUE	these bits have that value
 *
 * With =ERROR behind it, it is answered with that error instead. What is in no list ends the
 * process in a vCPU thread, and is EPERM in main, or ENOSYS if it is newer than KNOWN_CALLS: C
 * libraries try new calls first, and fall back on ENOSYS alone. That number is not libseccomp's, or
 * the list would depend on who builds molt.
 *
 * usage: mkfilter plain|sanitized OUTPUT MAIN_LIST SOURCE...
 */
#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <asm/termbits.h>
#include <linux/audit.h>
#include <linux/fcntl.h>
#include <linux/filter.h>
#include <linux/fs.h>
#include <linux/ioprio.h>
#include <linux/kvm.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>

#include <seccomp.h>

#include "lists.h"

#define SYSCALLS_MAX 600
#define KNOWN_CALLS 451 /* the first number that Linux 5.17 does not have */
#define ARGUMENTS 6
#define INT_BITS 32
#define INT_MASK 0xffffffffull
#define CLONE_NEW \
	(CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER | \
	 CLONE_NEWPID | CLONE_NEWNET)
#define SANDBOX_ANSWER (SANDBOX_ERRNO + SANDBOX_LEVEL)

/* clang-format off */
#define NAME(name) { #name, (unsigned long)(name) }
/* clang-format on */

/* The names that conditions and errors may have. */
static const struct {
	const char *name;
	unsigned long value;
} names[] = {
	NAME(KVM_RUN),
	NAME(KVM_SET_MP_STATE),
	NAME(KVM_SET_SIGNAL_MASK),
	NAME(KVM_IRQ_LINE),
	NAME(KVM_SIGNAL_MSI),
	NAME(KVM_GET_MP_STATE),
	NAME(KVM_GET_VCPU_EVENTS),
	NAME(KVM_GET_REGS),
	NAME(KVM_GET_SREGS),
	NAME(KVM_GET_SREGS2),
	NAME(KVM_GET_XCRS),
	NAME(KVM_GET_XSAVE),
	NAME(KVM_GET_XSAVE2),
	NAME(KVM_GET_LAPIC),
	NAME(KVM_GET_DEBUGREGS),
	NAME(KVM_GET_MSRS),
	NAME(KVM_GET_TSC_KHZ),
	NAME(KVM_GET_DEVICE_ATTR),
	NAME(TCGETS),
	NAME(TCSETS),
	NAME(TCSETSW),
	NAME(TCSETSF),
	NAME(TCGETS2),
	NAME(TCSETS2),
	NAME(TCSETSW2),
	NAME(TCSETSF2),
	NAME(TCGETA),
	NAME(TCSBRK),
	NAME(TCSBRKP),
	NAME(TCXONC),
	NAME(TCFLSH),
	NAME(TIOCGWINSZ),
	NAME(TIOCSWINSZ),
	NAME(TIOCGPGRP),
	NAME(TIOCSPGRP),
	NAME(TIOCGSID),
	NAME(TIOCOUTQ),
	NAME(TIOCEXCL),
	NAME(TIOCNXCL),
	NAME(TIOCNOTTY),
	NAME(TIOCMGET),
	NAME(TIOCGPTN),
	NAME(TIOCSPTLCK),
	NAME(TIOCGPTLCK),
	NAME(TIOCGPTPEER),
	NAME(FIONREAD),
	NAME(FIONBIO),
	NAME(FIOCLEX),
	NAME(FIONCLEX),
	NAME(F_DUPFD_CLOEXEC),
	NAME(F_GETFL),
	NAME(F_SETFL),
	NAME(F_ADD_SEALS),
	NAME(F_GET_SEALS),
	NAME(FASYNC),
	NAME(BLKGETSIZE64),
	NAME(BLKROGET),
	NAME(BLKSSZGET),
	NAME(BLKPBSZGET),
	NAME(BLKIOMIN),
	NAME(BLKIOOPT),
	NAME(BLKALIGNOFF),
	NAME(BLKROTATIONAL),
	NAME(BLKDISCARDZEROES),
	NAME(AF_UNIX),
	NAME(CLONE_NEW),
	NAME(PROT_EXEC),
	NAME(PRIO_PROCESS),
	NAME(PR_SET_NAME),
	NAME(IOPRIO_WHO_PROCESS),
	NAME(SANDBOX_PROBE),
	NAME(SANDBOX_ANSWER),
	NAME(ENOSYS),
};

static int sanitized;
/* Calls that main's list names: for every guest, and for one with back-ends. */
static char in_main[KNOWN_CALLS], in_main_with_back_ends[KNOWN_CALLS];

static void die(const char *file, const char *what, const char *word)
{
	fprintf(stderr, "%s: %s '%s'\n", file, what, word);
	exit(1);
}

static int number_of(const char *file, const char *name)
{
	int nr = seccomp_syscall_resolve_name(name);

	if (nr == __NR_SCMP_ERROR)
		die(file, "libseccomp knows no system call", name);
	return nr;
}

static void must(const char *file, const char *word, int r)
{
	if (r < 0 && r != -EEXIST)
		die(file, strerror(-r), word);
}

static unsigned long value_of(const char *file, const char *text)
{
	char *end;
	unsigned long value = strtoul(text, &end, 0);

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		if (strcmp(names[i].name, text) == 0)
			return names[i].value;
	if (!*text || *end)
		die(file, "add to the table in mkfilter.c the name", text);
	return value;
}

/* Of an int the kernel looks at the lower half alone, and nobody says what is in the upper one. */
static struct scmp_arg_cmp bits(unsigned int argument, unsigned long mask, unsigned long value)
{
	return SCMP_CMP64(argument, SCMP_CMP_MASKED_EQ, mask & INT_MASK, value & mask & INT_MASK);
}

/* All but "!VALUE", which takes more than one rule. */
static struct scmp_arg_cmp condition_of(const char *file, unsigned int argument, char *text)
{
	char *value = strchr(text, '=');

	if (strcmp(text, "NULL") == 0)
		return SCMP_CMP64(argument, SCMP_CMP_EQ, 0, 0);
	if (text[0] == '!' && text[1] == '&')
		return bits(argument, value_of(file, text + 2), 0);
	if (text[0] != '&')
		return bits(argument, INT_MASK, value_of(file, text));
	if (!value)
		die(file, "what value are these bits to have?", text);
	*value++ = '\0';
	return bits(argument, value_of(file, text + 1), value_of(file, value));
}

struct rule {
	const char *file;
	int nr;
	uint32_t action;
	unsigned int count;
	struct scmp_arg_cmp conditions[ARGUMENTS];
};

static void add_rule(scmp_filter_ctx ctx, const struct rule *r, const char *word)
{
	must(r->file, word, seccomp_rule_add_array(ctx, r->action, r->nr, r->count, r->conditions));
}

/*
 * "!VALUE": one bit at least is another one. A comparison of all 64 bits would let the value past
 * with anything in the upper half.
 */
static void add_unequal(scmp_filter_ctx ctx, struct rule *r, unsigned int argument,
			unsigned long value, const char *word)
{
	unsigned int at = r->count++;

	for (unsigned int bit = 0; bit < INT_BITS; bit++) {
		r->conditions[at] = bits(argument, 1ul << bit, ~value);
		add_rule(ctx, r, word);
	}
}

/* The conditions between the parentheses; only the last may be a "!VALUE". */
static void add_conditions(scmp_filter_ctx ctx, struct rule *r, char *text, const char *word)
{
	unsigned int argument = strcmp(word, "ioctl") == 0 ? 1 : 0;
	char *next;

	for (; text; argument++, text = next) {
		next = strchr(text, ',');
		if (next)
			*next++ = '\0';
		if (argument == ARGUMENTS || (text[0] == '!' && text[1] != '&' && next))
			die(r->file, "conditions of", word);
		if (text[0] == '!' && text[1] != '&') {
			add_unequal(ctx, r, argument, value_of(r->file, text + 1), word);
			return;
		}
		if (*text)
			r->conditions[r->count++] = condition_of(r->file, argument, text);
	}
	add_rule(ctx, r, word);
}

/* NAME, NAME(CONDITION,...), either with =ERROR. The number, below 0 where there is no such call. */
static int add_call(scmp_filter_ctx ctx, const char *file, char *word)
{
	char *open = strchr(word, '('), *close = strrchr(word, ')');
	char *error = strchr(close ? close : word, '=');
	struct rule r = { .file = file, .action = SCMP_ACT_ALLOW };

	if (error) {
		*error++ = '\0';
		r.action = SCMP_ACT_ERRNO((uint16_t)value_of(file, error));
	}
	if (open && !close)
		die(file, "there is no ) in", word);
	if (open)
		*open = *close = '\0';
	r.nr = number_of(file, word);
	if (r.nr >= KNOWN_CALLS)
		die(file, "newer than KNOWN_CALLS in mkfilter.c is", word);
	if (r.nr >= 0)
		add_conditions(ctx, &r, open ? open + 1 : NULL, word);
	return r.nr;
}

/*
 * The words of a C table that begin with prefix, as requests of ioctl; in stands before it, and
 * after it then.
 */
static void allow_table(scmp_filter_ctx ctx, const char *file, const char *prefix, FILE *in)
{
	static const char word_end[] = " \t\n,(){}[];=.*/&\"";
	char line[512], call[600], *save = NULL;
	int found = 0;

	while (fgets(line, sizeof(line), in) && strncmp(line, "};", 2) != 0)
		for (char *word = strtok_r(line, word_end, &save); word;
		     word = strtok_r(NULL, word_end, &save))
			if (strncmp(word, prefix, strlen(prefix)) == 0) {
				snprintf(call, sizeof(call), "ioctl(%s)", word);
				add_call(ctx, file, call);
				found++;
			}
	if (!found)
		die(file, "no table with words that begin with", prefix);
}

/* A vCPU thread has main's filter as well. */
static void must_be_in_main(const char *file, const char *list, int nr, const char *word)
{
	const char *main_list = strcmp(list, "io") == 0 ? in_main_with_back_ends : in_main;

	if (nr >= 0 && !main_list[nr])
		die(file, "main's list, which this one comes on top of, does not have", word);
}

/* What the comments of a source declare for the list. */
static int collect(scmp_filter_ctx ctx, const char *file, const char *list)
{
	static const char keyword[] = "#syscalls ";
	char line[512], *save = NULL;
	FILE *in = fopen(file, "r");
	int found = 0;

	if (!in)
		die(file, strerror(errno), "");
	while (fgets(line, sizeof(line), in)) {
		char *at = strstr(line, keyword), *colon = at ? strchr(at, ':') : NULL;

		if (!colon)
			continue;
		*colon = '\0';
		if (strcmp(at + strlen(keyword), list) != 0)
			continue;
		for (char *word = strtok_r(colon + 1, " \t\n", &save);
		     word && strcmp(word, "*/") != 0; word = strtok_r(NULL, " \t\n", &save)) {
			if (strncmp(word, "ioctls(", 7) == 0) {
				word[strcspn(word, ")")] = '\0';
				allow_table(ctx, file, word + 7, in);
			} else {
				must_be_in_main(file, list, add_call(ctx, file, word), word);
			}
			found++;
		}
	}
	fclose(in);
	return found;
}

static int strip(char **line, const char *prefix)
{
	if (strncmp(*line, prefix, strlen(prefix)) != 0)
		return 0;
	*line += strlen(prefix);
	return 1;
}

/* Whether the line is for this build and this list; its words are what *line points to then. */
static int is_for_this_list(char **line, int back_ends)
{
	if (strip(line, "back-ends:"))
		return back_ends;
	if (strip(line, "plain:"))
		return !sanitized;
	if (strip(line, "sanitized:"))
		return sanitized;
	return **line != '#';
}

static void read_main_list(scmp_filter_ctx ctx, const char *file, int back_ends)
{
	char buf[512], *save = NULL;
	FILE *in = fopen(file, "r");

	if (!in)
		die(file, strerror(errno), "");
	while (fgets(buf, sizeof(buf), in)) {
		char *line = buf;

		if (!is_for_this_list(&line, back_ends))
			continue;
		for (char *word = strtok_r(line, " \t\n", &save); word;
		     word = strtok_r(NULL, " \t\n", &save)) {
			int nr = add_call(ctx, file, word);

			if (nr >= 0)
				(back_ends ? in_main_with_back_ends : in_main)[nr] = 1;
		}
	}
	fclose(in);
}

static void print_instructions(FILE *out, const struct sock_filter *f, size_t n)
{
	for (size_t i = 0; i < n; i++)
		fprintf(out, "\t{ 0x%02x, %u, %u, 0x%08x },\n", f[i].code, f[i].jt, f[i].jf,
			f[i].k);
}

/* Our own instructions first; libseccomp's jumps are relative. */
static void print_filter(FILE *out, const char *name, scmp_filter_ctx ctx,
			 const struct sock_filter *first, size_t nfirst)
{
	FILE *raw = tmpfile();
	struct sock_filter f;

	if (!raw || seccomp_export_bpf(ctx, fileno(raw)) < 0)
		die(name, "cannot be exported", "");
	rewind(raw);
	fprintf(out, "static const struct sock_filter filter_%s[] = {\n", name);
	print_instructions(out, first, nfirst);
	while (fread(&f, sizeof(f), 1, raw) == 1)
		print_instructions(out, &f, 1);
	fprintf(out, "};\n\n");
	fclose(raw);
	seccomp_release(ctx);
}

/* What a thread may do; anything else is a trap, which ends the process with a line in the log. */
static void write_thread_list(FILE *out, const char *list, char **files, int n)
{
	scmp_filter_ctx ctx = seccomp_init(SCMP_ACT_TRAP);
	int found = 0;

	must(list, "bad architecture",
	     seccomp_attr_set(ctx, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_TRAP));
	must(list, "priority", seccomp_syscall_priority(ctx, SCMP_SYS(ioctl), 255));
	for (int i = 0; i < n; i++)
		found += collect(ctx, files[i], list);
	if (!found)
		die(list, "nothing is declared for", list);
	print_filter(out, list, ctx, NULL, 0);
}

/*
 * Another architecture's calls would be a way around the list. x32's have a bit that makes them
 * newer than all that are known.
 */
static void write_main_list(FILE *out, const char *name, const char *file, int back_ends)
{
	static const struct sock_filter newer[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 0, 2),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, KNOWN_CALLS, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS),
	};
	scmp_filter_ctx ctx = seccomp_init(SCMP_ACT_ERRNO(EPERM));

	must(name, "bad architecture",
	     seccomp_attr_set(ctx, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_ERRNO(ENOSYS)));
	must(name, "optimization", seccomp_attr_set(ctx, SCMP_FLTATR_CTL_OPTIMIZE, 2));
	read_main_list(ctx, file, back_ends);
	print_filter(out, name, ctx, newer, sizeof(newer) / sizeof(newer[0]));
}

static void write_names(FILE *out)
{
	fprintf(out, "static const char *const syscall_names[] = {\n");
	for (int nr = 0; nr < SYSCALLS_MAX; nr++) {
		char *name = seccomp_syscall_resolve_num_arch(SCMP_ARCH_X86_64, nr);

		if (name)
			fprintf(out, "\t[%d] = \"%s\",\n", nr, name);
		free(name);
	}
	fprintf(out, "};\n");
}

int main(int argc, char **argv)
{
	FILE *out;

	if (argc < 5)
		die("mkfilter", "usage:", "mkfilter plain|sanitized OUTPUT MAIN_LIST SOURCE...");
	sanitized = strcmp(argv[1], "sanitized") == 0;
	out = fopen(argv[2], "w");
	if (!out)
		die(argv[2], strerror(errno), "");
	fprintf(out,
		"/* Made by mkfilter from main.list and the declarations in the sources. */\n");
	write_main_list(out, "main", argv[3], 0);
	write_main_list(out, "main_with_back_ends", argv[3], 1);
	write_thread_list(out, "vcpu", argv + 4, argc - 4);
	write_thread_list(out, "io", argv + 4, argc - 4);
	write_names(out);
	return fclose(out) ? 1 : 0;
}
