/* Output of the test kernels: the first serial port. */
#ifndef TEST_PRINT_H
#define TEST_PRINT_H

#include <stdarg.h>

void print(const char *format, ...) __attribute__((format(printf, 1, 2)));
void vprint(const char *format, va_list ap);

#endif
