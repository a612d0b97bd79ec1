/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include <molt/base/error.h>

static void set_text(struct error *err, int code, const char *fmt, va_list ap)
{
	err->code = code;
	vsnprintf(err->text, sizeof(err->text), fmt, ap);
}

int err_set(struct error *err, int code, const char *fmt, ...)
{
	va_list ap;

	if (code <= 0)
		code = EIO;
	if (err) {
		va_start(ap, fmt);
		set_text(err, code, fmt, ap);
		va_end(ap);
	}
	return -code;
}

const char *error_text(int code)
{
	const char *text = strerrordesc_np(code);

	return text ? text : "unknown error";
}

/* Of what every call that opens something may say, and nobody has a better sentence for. */
static const char *way_out(int code)
{
	return code == EMFILE ? " (raise RLIMIT_NOFILE: ulimit -n; systemd: LimitNOFILE=)" : "";
}

int err_sys(struct error *err, int code, const char *fmt, ...)
{
	va_list ap;
	size_t len;

	if (code <= 0)
		code = EIO;
	if (!err)
		return -code;
	va_start(ap, fmt);
	set_text(err, code, fmt, ap);
	va_end(ap);
	len = strlen(err->text);
	snprintf(err->text + len, sizeof(err->text) - len, ": %s%s", error_text(code),
		 way_out(code));
	return -code;
}

void err_prefix(struct error *err, const char *fmt, ...)
{
	char old[ERROR_TEXT_MAX];
	va_list ap;
	size_t len;

	if (!err || !err->code)
		return;
	memcpy(old, err->text, sizeof(old));
	va_start(ap, fmt);
	set_text(err, err->code, fmt, ap);
	va_end(ap);
	len = strlen(err->text);
	snprintf(err->text + len, sizeof(err->text) - len, ": %s", old);
}
