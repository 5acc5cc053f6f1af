/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Reports errors the way libvirt shows them: through its own virReportErrorHelper, which is looked
 * up in the running process. Built without libvirt's headers, the driver works with every release
 * of it. Without that function (in a program that is not libvirtd) the text goes to standard error. */
#define _GNU_SOURCE
#include "plugin.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>

#define VIR_FROM_LOCKING 42 /* virErrorDomain, libvirt/virterror.h */

typedef void (*report_helper)(int domain, int code, const char *file, const char *func, size_t line,
			      const char *format, ...);

static report_helper helper;
static pthread_once_t found = PTHREAD_ONCE_INIT;

static void find(void)
{
	*(void **)&helper = dlsym(RTLD_DEFAULT, "virReportErrorHelper");
}

void report_at(enum report_code code, const char *file, const char *func, size_t line, const char *format, ...)
{
	char text[2048];
	va_list ap;

	va_start(ap, format);
	vsnprintf(text, sizeof(text), format, ap);
	va_end(ap);
	pthread_once(&found, find);
	if (helper)
		helper(VIR_FROM_LOCKING, (int)code, file, func, line, "%s", text);
	else
		fprintf(stderr, "dlmlock: %s\n", text);
}
