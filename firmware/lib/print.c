/* SPDX-License-Identifier: MIT */
/* Lines on COM1. Output is polled, one status read per FIFO full: every port access is an exit. */
#include "guest.h"

#define COM1 0x3f8
#define LSR_THRE 0x20
#define FIFO_SIZE 16

uint64_t print_gap;

static void serial_write(const char *text, size_t length)
{
	uint64_t last = rdtsc(), now;
	size_t room = 0;

	while (length--) {
		while (!room)
			room = inb(COM1 + 5) & LSR_THRE ? FIFO_SIZE : 0;
		outb(COM1, (uint8_t)*text++);
		room--;
		now = rdtsc();
		if (now - last > print_gap)
			print_gap = now - last;
		last = now;
	}
}

struct output {
	char *next, *end;
};

static void put_char(struct output *out, char c)
{
	if (out->next < out->end)
		*out->next++ = c;
}

static void put_number(struct output *out, uint64_t value, unsigned int base, int width, char pad)
{
	char digits[20];
	int count = 0;

	do {
		digits[count++] = "0123456789abcdef"[value % base];
		value /= base;
	} while (value);
	for (; width > count; width--)
		put_char(out, pad);
	while (count)
		put_char(out, digits[--count]);
}

/* %c %s %d %u %x %% with width, zero padding and any number of l. */
static void put_format(struct output *out, const char *f, va_list args)
{
	for (; *f; f++) {
		char pad = ' ';
		int width = 0;
		int longs = 0;

		if (*f != '%') {
			put_char(out, *f);
			continue;
		}
		if (*++f == '0')
			pad = *f++;
		for (; *f >= '0' && *f <= '9'; f++)
			width = width * 10 + *f - '0';
		for (; *f == 'l'; f++)
			longs++;
		switch (*f) {
		case 'c':
			put_char(out, (char)va_arg(args, int));
			break;
		case 's':
			for (const char *s = va_arg(args, const char *); *s; s++)
				put_char(out, *s);
			break;
		case 'd': {
			int64_t value = longs ? va_arg(args, int64_t) : va_arg(args, int);

			if (value < 0)
				put_char(out, '-');
			put_number(out, value < 0 ? -(uint64_t)value : (uint64_t)value, 10, width,
				   pad);
			break;
		}
		case 'u':
		case 'x': {
			uint64_t value = longs ? va_arg(args, uint64_t)
					       : va_arg(args, unsigned int);

			put_number(out, value, *f == 'x' ? 16 : 10, width, pad);
			break;
		}
		default:
			put_char(out, *f);
		}
	}
}

size_t format_args(char *buffer, size_t size, const char *format, va_list args)
{
	struct output out = { buffer, buffer + size - 1 };

	put_format(&out, format, args);
	*out.next = '\0';
	return (size_t)(out.next - buffer);
}

size_t format_line(char *buffer, size_t size, const char *format, ...)
{
	va_list args;
	size_t length;

	va_start(args, format);
	length = format_args(buffer, size, format, args);
	va_end(args);
	return length;
}

void print(const char *format, ...)
{
	char line[512];
	struct output out = { line, line + sizeof(line) };
	va_list args;

	va_start(args, format);
	put_format(&out, format, args);
	va_end(args);
	serial_write(line, (size_t)(out.next - line));
}
