/* SPDX-License-Identifier: MIT */
/*
 * Build-time program: collects the declarations of system calls from the sources and writes the
 * seccomp filters as C tables. So nothing has to be compiled, and no library linked, at run time.
 *
 * A declaration stands in a comment beside the code that makes the call, and ends with its line:
 *
 *	#syscalls LIST: NAME ioctl(REQUEST) ...		allowed in that list; all else ends the process
 *	... ioctls(PREFIX)				the same for each word that begins so in the
 *							table after the comment, up to its "};"
 *	#refused LIST: NAME NAME!=NUMBER ...		refused with EPERM in that list; all else is
 *							allowed. With a number: unless the first argument
 *							is that
 *
 * A list "X" with all that is declared for "X-plain" is for builds without sanitizers.
 *
 * usage: mkfilter plain|sanitized OUTPUT SOURCE...
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <linux/filter.h>
#include <linux/kvm.h>
#include <linux/sched.h>
#include <sys/prctl.h>

#include <seccomp.h>

#include "lists.h"

#define SYSCALLS_MAX 600

/* clang-format off */
#define REQUEST(name) { #name, name }
/* clang-format on */

static const struct {
	const char *name;
	unsigned long value;
} requests[] = {
	REQUEST(KVM_RUN),
	REQUEST(KVM_SET_SIGNAL_MASK),
	REQUEST(KVM_IRQ_LINE),
	REQUEST(KVM_GET_MP_STATE),
	REQUEST(KVM_GET_VCPU_EVENTS),
	REQUEST(KVM_GET_REGS),
	REQUEST(KVM_GET_SREGS),
	REQUEST(KVM_GET_SREGS2),
	REQUEST(KVM_GET_XCRS),
	REQUEST(KVM_GET_XSAVE),
	REQUEST(KVM_GET_XSAVE2),
	REQUEST(KVM_GET_LAPIC),
	REQUEST(KVM_GET_DEBUGREGS),
	REQUEST(KVM_GET_MSRS),
	REQUEST(KVM_GET_TSC_KHZ),
	REQUEST(KVM_GET_DEVICE_ATTR),
};

static int sanitized;

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

static void allow_ioctl(scmp_filter_ctx ctx, const char *file, const char *request)
{
	for (size_t i = 0; i < sizeof(requests) / sizeof(requests[0]); i++) {
		if (strcmp(requests[i].name, request) != 0)
			continue;
		/* The kernel looks at the lower half alone. */
		must(file, request,
		     seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(ioctl), 1,
				      SCMP_A1(SCMP_CMP_MASKED_EQ, 0xffffffff, requests[i].value)));
		return;
	}
	die(file, "add to the table in mkfilter.c the request", request);
}

/* The words of a C table that begin with prefix; in stands before it, and after it then. */
static void allow_table(scmp_filter_ctx ctx, const char *file, const char *prefix, FILE *in)
{
	static const char word_end[] = " \t\n,(){}[];=.*/&\"";
	char line[512], *save = NULL;
	int found = 0;

	while (fgets(line, sizeof(line), in) && strncmp(line, "};", 2) != 0)
		for (char *word = strtok_r(line, word_end, &save); word;
		     word = strtok_r(NULL, word_end, &save))
			if (strncmp(word, prefix, strlen(prefix)) == 0) {
				allow_ioctl(ctx, file, word);
				found++;
			}
	if (!found)
		die(file, "no table with words that begin with", prefix);
}

/* The word between the parentheses after one of these, or NULL. */
static char *argument(char *word, const char *function)
{
	size_t len = strlen(function);

	if (strncmp(word, function, len) != 0 || word[len] != '(')
		return NULL;
	word[strcspn(word, ")")] = '\0';
	return word + len + 1;
}

static void allow(scmp_filter_ctx ctx, const char *file, char *word, FILE *in)
{
	char *request = argument(word, "ioctl"), *prefix = argument(word, "ioctls");

	if (request)
		allow_ioctl(ctx, file, request);
	else if (prefix)
		allow_table(ctx, file, prefix, in);
	else
		must(file, word, seccomp_rule_add(ctx, SCMP_ACT_ALLOW, number_of(file, word), 0));
}

static void refuse(scmp_filter_ctx ctx, const char *file, char *word, FILE *in)
{
	char *unless = strstr(word, "!=");
	int nr;

	(void)in;
	if (unless)
		*unless = '\0';
	nr = number_of(file, word);
	if (nr < 0) /* this architecture never had it */
		return;
	if (unless)
		must(file, word,
		     seccomp_rule_add(ctx, SCMP_ACT_ERRNO(EPERM), nr, 1,
				      SCMP_A0(SCMP_CMP_NE, strtoul(unless + 2, NULL, 0), 0)));
	else
		must(file, word, seccomp_rule_add(ctx, SCMP_ACT_ERRNO(EPERM), nr, 0));
}

static int is_wanted(const char *list, const char *name, size_t len)
{
	size_t own = strlen(list);

	if (len == own && memcmp(list, name, len) == 0)
		return 1;
	return !sanitized && len == own + 6 && memcmp(list, name, own) == 0 &&
	       memcmp(name + own, "-plain", 6) == 0;
}

static int collect(scmp_filter_ctx ctx, const char *file, const char *list, const char *keyword,
		   void (*add)(scmp_filter_ctx ctx, const char *file, char *word, FILE *in))
{
	char line[512], *save = NULL;
	FILE *in = fopen(file, "r");
	int found = 0;

	if (!in)
		die(file, strerror(errno), "");
	while (fgets(line, sizeof(line), in)) {
		char *at = strstr(line, keyword), *colon = at ? strchr(at, ':') : NULL;

		if (!colon || at[strlen(keyword)] != ' ')
			continue;
		at += strlen(keyword) + 1;
		if (!is_wanted(list, at, (size_t)(colon - at)))
			continue;
		for (char *word = strtok_r(colon + 1, " \t\n", &save);
		     word && strcmp(word, "*/") != 0; word = strtok_r(NULL, " \t\n", &save)) {
			add(ctx, file, word, in);
			found++;
		}
	}
	fclose(in);
	return found;
}

static void print_filter(FILE *out, const char *name, scmp_filter_ctx ctx)
{
	FILE *raw = tmpfile();
	struct sock_filter f;

	if (!raw || seccomp_export_bpf(ctx, fileno(raw)) < 0)
		die(name, "cannot be exported", "");
	rewind(raw);
	fprintf(out, "static const struct sock_filter %s[] = {\n", name);
	while (fread(&f, sizeof(f), 1, raw) == 1)
		fprintf(out, "\t{ 0x%02x, %u, %u, 0x%08x },\n", f.code, f.jt, f.jf, f.k);
	fprintf(out, "};\n\n");
	fclose(raw);
	seccomp_release(ctx);
}

/* What a thread may do; anything else is a trap, which ends the process with a line in the log. */
static void write_thread_list(FILE *out, const char *list, char **files, int n)
{
	scmp_filter_ctx ctx = seccomp_init(SCMP_ACT_TRAP);
	char name[64];
	int found = 0;

	must(list, "bad architecture",
	     seccomp_attr_set(ctx, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_TRAP));
	must(list, "priority", seccomp_syscall_priority(ctx, SCMP_SYS(ioctl), 255));
	for (int i = 0; i < n; i++)
		found += collect(ctx, files[i], list, "#syscalls", allow);
	if (!found)
		die(list, "nothing is declared for", list);
	snprintf(name, sizeof(name), "filter_%s", list);
	print_filter(out, name, ctx);
}

/* What main must not do. Another architecture's calls would be a way around the list. */
static void write_main_list(FILE *out, char **files, int n)
{
	scmp_filter_ctx ctx = seccomp_init(SCMP_ACT_ALLOW);
	int found = 0;

	must("main", "bad architecture",
	     seccomp_attr_set(ctx, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_ERRNO(ENOSYS)));
	must("main", "optimization", seccomp_attr_set(ctx, SCMP_FLTATR_CTL_OPTIMIZE, 2));
	must("main", "probe",
	     seccomp_rule_add(ctx, SCMP_ACT_ERRNO(SANDBOX_ERRNO + SANDBOX_LEVEL), SCMP_SYS(prctl),
			      1, SCMP_A0(SCMP_CMP_EQ, SANDBOX_PROBE, 0)));
	for (int i = 0; i < n; i++)
		found += collect(ctx, files[i], "main", "#refused", refuse);
	if (!found)
		die("main", "nothing is declared for", "main");
	print_filter(out, "filter_main", ctx);
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

	if (argc < 4)
		die("mkfilter", "usage:", "mkfilter plain|sanitized OUTPUT SOURCE...");
	sanitized = strcmp(argv[1], "sanitized") == 0;
	out = fopen(argv[2], "w");
	if (!out)
		die(argv[2], strerror(errno), "");
	fprintf(out, "/* Made by mkfilter from the declarations in the sources. */\n");
	write_thread_list(out, "vcpu", argv + 3, argc - 3);
	write_main_list(out, argv + 3, argc - 3);
	write_names(out);
	return fclose(out) ? 1 : 0;
}
