/* Console of the test kernels: printf's most-used conversions, to the first serial port. */
#include "print.h"

#include "k.h"

#define COM1 0x3f8

static void put(char c)
{
	while (!(inb(COM1 + 5) & 0x20))
		relax();
	outb(COM1, (uint8_t)c);
}

static void put_number(uint64_t value, unsigned base, unsigned width, char fill)
{
	char digits[24];
	unsigned n = 0;

	do {
		digits[n++] = "0123456789abcdef"[value % base];
		value /= base;
	} while (value);
	for (; width > n; width--)
		put(fill);
	while (n)
		put(digits[--n]);
}

/* %c %s %d %u %x %p, with l, a width and 0. */
void vprint(const char *format, va_list ap)
{
	for (const char *p = format; *p; p++) {
		unsigned width = 0;
		char fill = ' ';
		bool wide = false;

		if (*p != '%') {
			put(*p);
			continue;
		}
		p++;
		if (*p == '0')
			fill = *p++;
		while (*p >= '0' && *p <= '9')
			width = width * 10 + (unsigned)(*p++ - '0');
		while (*p == 'l') {
			wide = true;
			p++;
		}
		switch (*p) {
		case 'c': put((char)va_arg(ap, int)); break;
		case 's':
			for (const char *s = va_arg(ap, const char *); *s; s++)
				put(*s);
			break;
		case 'd': {
			int64_t v = wide ? va_arg(ap, int64_t) : va_arg(ap, int);

			if (v < 0)
				put('-');
			put_number(v < 0 ? -(uint64_t)v : (uint64_t)v, 10, width, fill);
			break;
		}
		case 'u': put_number(wide ? va_arg(ap, uint64_t) : va_arg(ap, unsigned), 10, width, fill); break;
		case 'x': put_number(wide ? va_arg(ap, uint64_t) : va_arg(ap, unsigned), 16, width, fill); break;
		case 'p': put_number((uintptr_t)va_arg(ap, void *), 16, 16, '0'); break;
		default: put(*p);
		}
	}
}

void print(const char *format, ...)
{
	va_list ap;

	va_start(ap, format);
	vprint(format, ap);
	va_end(ap);
}
