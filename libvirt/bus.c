/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The calls over D-Bus, with sd-bus. Of libsystemd only the headers are needed where the driver is
 * built: the library is loaded at the first call that goes this way, so a host whose service is
 * reached over Varlink needs none. The waits for the connection are bounded by the deadline, too,
 * for which sd-bus alone would allow 90 seconds. */
#define _GNU_SOURCE
#include "service.h"

#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <systemd/sd-bus.h>

#define OBJECT "/org/example/DlmLock"
#define ERRORS SERVICE ".Error."
#define SYSTEM_BUS "unix:path=/run/dbus/system_bus_socket"
#define LIBRARY "libsystemd.so.0"

#define FUNCTIONS(X) \
	X(new) X(set_address) X(set_bus_client) X(start) X(is_ready) X(is_open) X(process) X(wait) X(close_unref) X(call) \
	X(error_free) X(error_has_name) X(error_is_set) X(message_new_method_call) X(message_unref) X(message_append) \
	X(message_append_basic) X(message_open_container) X(message_close_container)

/* sd_bus_new is lib.new, and so on. */
static struct {
#define POINTER(name) __typeof__(sd_bus_##name) *name;
	FUNCTIONS(POINTER)
	char missing[256]; /* why they are not there; "": they are */
} lib;

static pthread_once_t loaded = PTHREAD_ONCE_INIT;

static void load(void)
{
	void *library = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL);
	bool all = library != NULL;

#define FIND(name) all = all && (*(void **)&lib.name = dlsym(library, "sd_bus_" #name));
	FUNCTIONS(FIND)
	if (!all)
		snprintf(lib.missing, sizeof(lib.missing), "%s", dlerror());
}

void bus_disconnect(struct connection *c)
{
	if (c->bus)
		lib.close_unref(c->bus);
	c->bus = NULL;
}

/* Waits until the bus has answered our greeting. */
static int greet(sd_bus *b, uint64_t deadline)
{
	for (;;) {
		int r = lib.is_ready(b);

		if (r != 0)
			return r < 0 ? r : 0;
		r = lib.process(b, NULL);
		if (r < 0)
			return r;
		if (r > 0)
			continue;
		if (clock_left(deadline) == 0)
			return -ETIMEDOUT;
		r = lib.wait(b, clock_left(deadline));
		if (r < 0 && r != -EINTR)
			return r;
	}
}

static int connect_bus(struct connection *c, uint64_t deadline)
{
	const char *address = secure_getenv("DBUS_SYSTEM_BUS_ADDRESS");
	sd_bus *b = NULL;
	int r;

	if (c->bus && lib.is_open(c->bus) > 0)
		return 0;
	bus_disconnect(c);
	r = lib.new(&b);
	if (r < 0)
		return r;
	if ((r = lib.set_address(b, address ? address : SYSTEM_BUS)) < 0 || (r = lib.set_bus_client(b, true)) < 0 ||
	    (r = lib.start(b)) < 0 || (r = greet(b, deadline)) < 0) {
		lib.close_unref(b);
		return r;
	}
	c->bus = b;
	return 0;
}

/* Appends one entry of an a{sv}. */
static int append_option(sd_bus_message *m, const char *key, const char *type, const void *value)
{
	int r;

	if ((r = lib.message_open_container(m, 'e', "sv")) < 0 || (r = lib.message_append_basic(m, 's', key)) < 0 ||
	    (r = lib.message_open_container(m, 'v', type)) < 0 ||
		(r = lib.message_append_basic(m, type[0], value)) < 0 ||
	    (r = lib.message_close_container(m)) < 0)
		return r;
	return lib.message_close_container(m);
}

static int append_labels(sd_bus_message *m, const struct request *q)
{
	int r;

	if ((r = lib.message_open_container(m, 'e', "sv")) < 0 ||
	    (r = lib.message_append_basic(m, 's', "labels")) < 0 ||
	    (r = lib.message_open_container(m, 'v', "as")) < 0 || (r = lib.message_open_container(m, 'a', "s")) < 0)
		return r;
	for (size_t i = 0; i < q->count; i++) {
		if ((r = lib.message_append_basic(m, 's', q->resources[i].label)) < 0)
			return r;
	}
	if ((r = lib.message_close_container(m)) < 0 || (r = lib.message_close_container(m)) < 0)
		return r;
	return lib.message_close_container(m);
}

static int fill_acquire(sd_bus_message *m, const struct request *q)
{
	int r;

	if ((r = lib.message_open_container(m, 'a', "(sss)")) < 0)
		return r;
	for (size_t i = 0; i < q->count; i++) {
		const struct resource *s = &q->resources[i];

		if ((r = lib.message_append(m, "(sss)", s->lockspace, s->name, s->mode)) < 0)
			return r;
	}
	if ((r = lib.message_close_container(m)) < 0 || (r = lib.message_open_container(m, 'a', "{sv}")) < 0 ||
	    (r = append_option(m, "owner", "s", q->owner)) < 0 || (r = append_option(m, "lifetime", "s", "process")) < 0 ||
	    (r = append_option(m, "pid", "u", &q->pid)) < 0 || (r = append_option(m, "start-time", "t", &q->start)) < 0 ||
	    (r = append_labels(m, q)) < 0)
		return r;
	if (q->on_lost && ((r = append_option(m, "on-lost", "s", q->on_lost)) < 0 ||
			   (r = append_option(m, "on-lost-data", "s", q->on_lost_data)) < 0))
		return r;
	return lib.message_close_container(m);
}

static int fill_release(sd_bus_message *m, const struct request *q)
{
	int r;

	if ((r = lib.message_open_container(m, 'a', "(ss)")) < 0)
		return r;
	for (size_t i = 0; i < q->count; i++) {
		if ((r = lib.message_append(m, "(ss)", q->resources[i].lockspace, q->resources[i].name)) < 0)
			return r;
	}
	if ((r = lib.message_close_container(m)) < 0 || (r = lib.message_open_container(m, 'a', "{sv}")) < 0 ||
	    (r = append_option(m, "owner", "s", q->owner)) < 0 || (r = append_labels(m, q)) < 0)
		return r;
	return lib.message_close_container(m);
}

static int call_once(struct connection *c, enum method method, const struct request *q, sd_bus_error *error)
{
	const char *member = method == ACQUIRE_MANY ? "AcquireMany" : "ReleaseMany";
	uint64_t timeout = clock_left(q->deadline);
	sd_bus_message *m = NULL, *reply = NULL;
	int r;

	r = lib.message_new_method_call(c->bus, &m, SERVICE, OBJECT, SERVICE, member);
	if (r >= 0)
		r = method == ACQUIRE_MANY ? fill_acquire(m, q) : fill_release(m, q);
	if (r >= 0)
		r = lib.call(c->bus, m, timeout ? timeout : 1, error, &reply); /* 0 would mean sd-bus's own default */
	lib.message_unref(m);
	lib.message_unref(reply);
	return r;
}

/* The service or the bus went away during the call, or is not there yet. */
static bool transient(const sd_bus_error *error, int r)
{
	static const char *const names[] = {
		SD_BUS_ERROR_NO_REPLY, SD_BUS_ERROR_SERVICE_UNKNOWN, SD_BUS_ERROR_NAME_HAS_NO_OWNER, SD_BUS_ERROR_DISCONNECTED,
		ERRORS "ShuttingDown",
	};
	static const int numbers[] = { ECONNRESET, ENOTCONN, EPIPE, ECONNREFUSED, ENOENT, ESHUTDOWN, EAGAIN };

	for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++) {
		if (lib.error_has_name(error, names[i]))
			return true;
	}
	if (lib.error_is_set(error) && strncmp(error->name, ERRORS, strlen(ERRORS)) == 0)
		return false;
	for (size_t i = 0; i < sizeof(numbers) / sizeof(*numbers); i++) {
		if (r == -numbers[i])
			return true;
	}
	return false;
}

/* Nobody listens on the bus's socket (any more). That libvirtd has no descriptor or memory left, or
 * that the bus has no room, does not mean that the bus is missing. */
static bool no_bus(int r)
{
	return r == -ENOENT || r == -ECONNREFUSED || r == -ECONNRESET || r == -EPIPE || r == -ENOTCONN || r == -ESHUTDOWN;
}

/* Explains a call that has failed. A service that is running but does not answer is not missing: it
 * may be waiting for a cluster that is just recovering from the crash of the node that has the
 * disk. */
static void explain(const sd_bus_error *error, int r, struct answer *a)
{
	const char *text = lib.error_is_set(error) && error->message ? error->message : strerror(-r);

	bool unanswered = lib.error_has_name(error, SD_BUS_ERROR_NO_REPLY); /* for which sd-bus also has ETIMEDOUT */

	if (!unanswered && (r == -ETIMEDOUT || lib.error_has_name(error, SD_BUS_ERROR_TIMEOUT))) {
		a->fate = FATE_SILENT;
		return;
	}
	snprintf(a->what, sizeof(a->what), "%s", text);
	if (transient(error, r)) {
		a->fate = FATE_GONE;
		if (unanswered || r == -EAGAIN)
			return;
		a->outcome = OUTCOME_MISSING;
		snprintf(a->what, sizeof(a->what), "dlmlockd can't be reached on the system bus: %s; "
			 "see 'systemctl status dlmlockd'", text);
		return;
	}
	if (!lib.error_is_set(error))
		return;
	a->fate = FATE_ANSWERED;
	if (lib.error_has_name(error, ERRORS "NoSuchLockspace"))
		a->outcome = OUTCOME_NO_LOCKSPACE;
	else if (lib.error_has_name(error, ERRORS "AlreadyHeld"))
		a->outcome = OUTCOME_HELD;
	else if (lib.error_has_name(error, ERRORS "WouldBlock"))
		a->outcome = OUTCOME_BUSY;
}

void bus_call(struct connection *c, enum method method, const struct request *q, struct answer *a)
{
	sd_bus_error error = SD_BUS_ERROR_NULL;
	int r;

	a->fate = FATE_FAULT;
	a->outcome = OUTCOME_FAILED;
	pthread_once(&loaded, load);
	if (lib.missing[0]) {
		snprintf(a->what, sizeof(a->what), "the system bus can't be used: %.200s", lib.missing);
		return;
	}
	r = connect_bus(c, q->deadline);
	if (r < 0) {
		a->fate = transient(&error, r) ? FATE_UNREACHABLE : FATE_FAULT;
		a->outcome = no_bus(r) ? OUTCOME_MISSING : OUTCOME_FAILED;
		snprintf(a->what, sizeof(a->what), "the system bus can't be reached: %s; see 'systemctl status dbus'", strerror(-r));
		return;
	}
	r = call_once(c, method, q, &error);
	if (r >= 0) {
		a->fate = FATE_ANSWERED;
		a->outcome = OUTCOME_OK;
	} else {
		explain(&error, r, a);
	}
	lib.error_free(&error);
}
