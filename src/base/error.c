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

int err_sys(struct error *err, int code, const char *fmt, ...)
{
	char reason[128];
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
	snprintf(err->text + len, sizeof(err->text) - len, ": %s",
		 strerror_r(code, reason, sizeof(reason)));
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
