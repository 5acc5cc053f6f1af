/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Plays libvirtd: loads a lock driver and calls it as libvirtd does. Commands
 * come on standard input, one a line, and each is answered with a line: "ok", or
 * "error CODE TEXT" with what libvirt would show.
 *
 *   init CONFIG | deinit
 *   new N UUID NAME PID    N numbers the manager
 *   disk N FLAGS PATH      lease N LOCKSPACE KEY [FLAGS]
 *   acquire N FLAGS | inquire N | free N
 *   release N | detach N   release all, as for a guest that is paused, or one disk
 *   log                    what the driver has logged since, all in one line
 *   fork N FLAGS           acquire in a forked child, as libvirtd does before exec
 *   threads COUNT ROUNDS FROM  acquire and release of managers FROM..FROM+COUNT-1 at the same time
 *
 * "driver LOCKDRIVER.so bench ..." measures a lock driver (bench.c), "driver raw ..." a protocol
 * (raw.c). */
#define _GNU_SOURCE
#include "driver.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define MANAGERS 256

static __thread char error_text[2600];

/* Stands in for libvirt's function of that name, which lock drivers look up. */
void virReportErrorHelper(int domain, int code, const char *file, const char *func, size_t line, const char *format,
			  ...)
	__attribute__((format(printf, 6, 7), visibility("default")));

void virReportErrorHelper(int domain, int code, const char *file, const char *func, size_t line, const char *format,
			  ...)
{
	char text[2500];
	va_list ap;

	(void)domain;
	(void)file;
	(void)func;
	(void)line;
	va_start(ap, format);
	vsnprintf(text, sizeof(text), format, ap);
	va_end(ap);
	snprintf(error_text, sizeof(error_text), "%d %s", code, text);
}

static char logged[8192];

/* Stands in for libc's function of that name and keeps what libvirtd's log would get. The driver
 * calls it in the thread of the call. */
void syslog(int priority, const char *format, ...) __attribute__((format(printf, 2, 3), visibility("default")));

void syslog(int priority, const char *format, ...)
{
	size_t n = strlen(logged);
	va_list ap;

	(void)priority;
	va_start(ap, format);
	n += (size_t)snprintf(logged + n, sizeof(logged) - n, "%s", n ? "; " : "");
	if (n < sizeof(logged))
		vsnprintf(logged + n, sizeof(logged) - n, format, ap);
	va_end(ap);
}

const char *last_error(void)
{
	return error_text;
}

void clear_error(void)
{
	error_text[0] = '\0';
}

struct driver *driver_load(const char *so)
{
	void *handle = dlopen(so, RTLD_NOW | RTLD_LOCAL);
	struct driver *d = handle ? dlsym(handle, "virLockDriverImpl") : NULL;

	if (!d) {
		fprintf(stderr, "%s\n", dlerror());
		exit(2);
	}
	return d;
}

int driver_new(struct driver *d, struct manager *m, const struct guest *g)
{
	struct param params[] = {
		{ .type = PARAM_UUID, .key = "uuid" },
		{ .type = PARAM_STRING, .key = "name", .value.str = g->name },
		{ .type = PARAM_UINT, .key = "id", .value.ui = 1 },
		{ .type = PARAM_UINT, .key = "pid", .value.ui = g->pid },
		{ .type = PARAM_CSTRING, .key = "uri", .value.str = "qemu:///system" },
	};

	memcpy(params[0].value.uuid, g->uuid, sizeof(g->uuid));
	m->driver = d;
	return d->new(m, OBJECT_DOMAIN, sizeof(params) / sizeof(*params), params, 0);
}

static struct driver *driver;
static struct manager managers[MANAGERS];

static int new_manager(struct manager *m, char *args)
{
	struct guest g = { 0 };
	char uuid[64], name[256];

	if (sscanf(args, "%63s %255s %u", uuid, name, &g.pid) != 3)
		return -2;
	for (int i = 0, at = 0; i < 16 && uuid[at]; i++, at += 2) {
		if (uuid[at] == '-')
			at++;
		if (sscanf(uuid + at, "%2hhx", &g.uuid[i]) != 1)
			return -2;
	}
	g.name = name;
	return driver_new(driver, m, &g);
}

static int add_lease(struct manager *m, char *args)
{
	char lockspace[512], key[512];
	unsigned int flags = 0;
	struct param params[] = {
		{ .type = PARAM_CSTRING, .key = "path", .value.str = "/nowhere" },
		{ .type = PARAM_ULONG, .key = "offset" },
		{ .type = PARAM_CSTRING, .key = "lockspace", .value.str = lockspace },
	};

	if (sscanf(args, "%511s %511s %u", lockspace, key, &flags) < 2)
		return -2;
	return driver->add_resource(m, RESOURCE_LEASE, key, 3, params, flags);
}

static int add_disk(struct manager *m, char *args)
{
	char *path;
	unsigned int flags = (unsigned int)strtoul(args, &path, 10);

	return *path == ' ' ? driver->add_resource(m, RESOURCE_DISK, path + 1, 0, NULL, flags) : -2;
}

static int acquire(struct manager *m, unsigned int flags)
{
	int fd = 77;
	int r = driver->acquire(m, NULL, flags, 0, &fd);

	return r < 0 ? r : fd == -1 ? 0 : -2;
}

static int forked(struct manager *m, unsigned int flags)
{
	int status;
	pid_t pid = fork();

	if (pid == 0)
		_exit(acquire(m, flags) == 0 ? 0 : 1);
	return pid > 0 && waitpid(pid, &status, 0) == pid && status == 0 ? 0 : -1;
}

struct round {
	struct manager *m;
	unsigned int rounds;
	int failed;
	char why[2600];
};

static void *go_round(void *p)
{
	struct round *r = p;
	char *state;

	for (unsigned int i = 0; i < r->rounds && !r->failed; i++) {
		if (acquire(r->m, 0) < 0 || driver->release(r->m, &state, 0) < 0) {
			r->failed = 1;
			snprintf(r->why, sizeof(r->why), "%s", last_error());
		}
	}
	return NULL;
}

static int threads(char *args)
{
	unsigned int count, rounds, from, started;
	pthread_t ids[MANAGERS];
	struct round *r;
	int failed = 0;

	if (sscanf(args, "%u %u %u", &count, &rounds, &from) != 3 || from + count > MANAGERS)
		return -2;
	r = calloc(count, sizeof(*r));
	for (started = 0; r && started < count; started++) {
		r[started].m = &managers[from + started];
		r[started].rounds = rounds;
		if (pthread_create(&ids[started], NULL, go_round, &r[started]) != 0)
			break;
	}
	for (unsigned int i = 0; i < started; i++) {
		pthread_join(ids[i], NULL);
		if (r[i].failed) {
			snprintf(error_text, sizeof(error_text), "%s", r[i].why);
			failed = -1;
		}
	}
	free(r);
	return failed;
}

static int run(char *line)
{
	char *verb = strsep(&line, " "), *number;
	struct manager *m;
	char *state = (char *)"not set";

	if (strcmp(verb, "init") == 0)
		return driver->init(driver->version, line, 0);
	if (strcmp(verb, "deinit") == 0)
		return driver->deinit();
	if (strcmp(verb, "log") == 0) {
		printf("log %s\n", logged);
		logged[0] = '\0';
		return 1;
	}
	if (strcmp(verb, "threads") == 0)
		return threads(line);
	number = strsep(&line, " ");
	if (!number || strtoul(number, NULL, 10) >= MANAGERS)
		return -2;
	m = &managers[strtoul(number, NULL, 10)];
	if (strcmp(verb, "new") == 0)
		return new_manager(m, line);
	if (strcmp(verb, "disk") == 0)
		return add_disk(m, line);
	if (strcmp(verb, "lease") == 0)
		return add_lease(m, line);
	if (strcmp(verb, "acquire") == 0)
		return acquire(m, (unsigned int)strtoul(line, NULL, 10));
	if (strcmp(verb, "fork") == 0)
		return forked(m, (unsigned int)strtoul(line, NULL, 10));
	if (strcmp(verb, "release") == 0)
		return driver->release(m, &state, 0) < 0 ? -1 : state ? -2 : 0;
	if (strcmp(verb, "detach") == 0)
		return driver->release(m, NULL, 0);
	if (strcmp(verb, "inquire") == 0)
		return driver->inquire(m, &state, 0) < 0 ? -1 : state ? -2 : 0;
	if (strcmp(verb, "free") == 0) {
		driver->free(m);
		return 0;
	}
	return -2;
}

int main(int argc, char **argv)
{
	char *line = NULL;
	size_t size = 0;

	if (argc > 1 && strcmp(argv[1], "raw") == 0)
		return raw(argc, argv);
	if (argc > 2 && strcmp(argv[2], "bench") == 0)
		return bench(argc, argv);
	if (argc != 2) {
		fprintf(stderr, "usage: %s LOCKDRIVER.so [bench ...]\n", argv[0]);
		return 2;
	}
	driver = driver_load(argv[1]);
	while (getline(&line, &size, stdin) > 0) {
		int r;

		line[strcspn(line, "\n")] = '\0';
		clear_error();
		r = run(line);
		if (r == -1)
			printf("error %s\n", last_error());
		else if (r != 1)
			printf(r == 0 ? "ok\n" : "bad command or answer\n");
		fflush(stdout);
	}
	free(line);
	return 0;
}
