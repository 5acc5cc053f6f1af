/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The calls of org.example.DlmLock.
 *
 * Every call has a connection of its own: no mutex is held during a call, and nobody waits for an
 * answer to somebody else. Unused connections are kept for the next call, but only few: libvirtd
 * has a thread for each guest, and a bus allows one user 256 connections. All waits together have
 * one deadline, including that for the connection to the bus, for which sd-bus alone would allow 90
 * seconds.
 *
 * A call that does not get its answer in time is withdrawn by closing the connection: the service
 * cancels the unanswered calls of a client that leaves the bus. If the service or the bus goes away
 * during a call, the call is repeated until the deadline. That is safe because both calls ask for a
 * state, not for a change. */
#define _GNU_SOURCE
#include "plugin.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <systemd/sd-bus.h>
#include <time.h>
#include <unistd.h>

#define SERVICE "org.example.DlmLock"
#define OBJECT "/org/example/DlmLock"
#define ERRORS SERVICE ".Error."
#define SYSTEM_BUS "unix:path=/run/dbus/system_bus_socket"
#define RETRY_USEC 50000
#define IDLE_MAX 8

struct connection {
	sd_bus *bus;
	pid_t owner; /* a forked child must leave its parent's connection alone */
};

/* Taken and given back without a mutex, which a forked child might find locked. */
static _Atomic(struct connection *) idle[IDLE_MAX];

uint64_t clock_usec(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000 + (uint64_t)ts.tv_nsec / 1000;
}

static uint64_t left(uint64_t deadline)
{
	uint64_t now = clock_usec();

	return now < deadline ? deadline - now : 0;
}

static void disconnect(struct connection *c)
{
	if (c->bus)
		sd_bus_close_unref(c->bus);
	c->bus = NULL;
}

/* Returns a connection that nobody else uses; it may not be open yet. */
static struct connection *take_connection(void)
{
	for (size_t i = 0; i < IDLE_MAX; i++) {
		struct connection *c = atomic_exchange(&idle[i], NULL);

		if (c && c->owner == getpid())
			return c;
		/* Otherwise it belongs to the parent, and this child only forgets it. */
	}
	return calloc(1, sizeof(struct connection));
}

static void give_back(struct connection *c)
{
	for (size_t i = 0; c->bus && i < IDLE_MAX; i++) {
		struct connection *none = NULL;

		if (atomic_compare_exchange_strong(&idle[i], &none, c))
			return;
	}
	disconnect(c);
	free(c);
}

void bus_close(void)
{
	for (size_t i = 0; i < IDLE_MAX; i++) {
		struct connection *c = atomic_exchange(&idle[i], NULL);

		if (c)
			disconnect(c);
		free(c);
	}
}

/* Waits until the bus has answered our greeting. */
static int greet(sd_bus *bus, uint64_t deadline)
{
	for (;;) {
		int r = sd_bus_is_ready(bus);

		if (r != 0)
			return r < 0 ? r : 0;
		r = sd_bus_process(bus, NULL);
		if (r < 0)
			return r;
		if (r > 0)
			continue;
		if (left(deadline) == 0)
			return -ETIMEDOUT;
		r = sd_bus_wait(bus, left(deadline));
		if (r < 0 && r != -EINTR)
			return r;
	}
}

static int connect_bus(struct connection *c, uint64_t deadline)
{
	const char *address = secure_getenv("DBUS_SYSTEM_BUS_ADDRESS");
	sd_bus *bus = NULL;
	int r;

	if (c->bus && sd_bus_is_open(c->bus) > 0)
		return 0;
	disconnect(c);
	r = sd_bus_new(&bus);
	if (r < 0)
		return r;
	if ((r = sd_bus_set_address(bus, address ? address : SYSTEM_BUS)) < 0 ||
	    (r = sd_bus_set_bus_client(bus, true)) < 0 ||
	    (r = sd_bus_start(bus)) < 0 || (r = greet(bus, deadline)) < 0) {
		sd_bus_close_unref(bus);
		return r;
	}
	c->bus = bus;
	c->owner = getpid();
	return 0;
}

/* Appends one entry of an a{sv}. */
static int append_option(sd_bus_message *m, const char *key, const char *type, const void *value)
{
	int r;

	if ((r = sd_bus_message_open_container(m, 'e', "sv")) < 0 || (r = sd_bus_message_append_basic(m, 's', key)) < 0 ||
	    (r = sd_bus_message_open_container(m, 'v', type)) < 0 ||
		(r = sd_bus_message_append_basic(m, type[0], value)) < 0 ||
	    (r = sd_bus_message_close_container(m)) < 0)
		return r;
	return sd_bus_message_close_container(m);
}

static int append_labels(sd_bus_message *m, const struct request *q)
{
	int r;

	if ((r = sd_bus_message_open_container(m, 'e', "sv")) < 0 ||
	    (r = sd_bus_message_append_basic(m, 's', "labels")) < 0 ||
	    (r = sd_bus_message_open_container(m, 'v', "as")) < 0 || (r = sd_bus_message_open_container(m, 'a', "s")) < 0)
		return r;
	for (size_t i = 0; i < q->count; i++) {
		if ((r = sd_bus_message_append_basic(m, 's', q->resources[i].label)) < 0)
			return r;
	}
	if ((r = sd_bus_message_close_container(m)) < 0 || (r = sd_bus_message_close_container(m)) < 0)
		return r;
	return sd_bus_message_close_container(m);
}

static int fill_acquire(sd_bus_message *m, const struct request *q)
{
	int r;

	if ((r = sd_bus_message_open_container(m, 'a', "(sss)")) < 0)
		return r;
	for (size_t i = 0; i < q->count; i++) {
		const struct resource *s = &q->resources[i];

		if ((r = sd_bus_message_append(m, "(sss)", s->lockspace, s->name, s->mode)) < 0)
			return r;
	}
	if ((r = sd_bus_message_close_container(m)) < 0 || (r = sd_bus_message_open_container(m, 'a', "{sv}")) < 0 ||
	    (r = append_option(m, "owner", "s", q->owner)) < 0 || (r = append_option(m, "lifetime", "s", "process")) < 0 ||
	    (r = append_option(m, "pid", "u", &q->pid)) < 0 || (r = append_option(m, "start-time", "t", &q->start)) < 0 ||
	    (r = append_labels(m, q)) < 0)
		return r;
	if (q->on_lost && ((r = append_option(m, "on-lost", "s", q->on_lost)) < 0 ||
			   (r = append_option(m, "on-lost-data", "s", q->on_lost_data)) < 0))
		return r;
	return sd_bus_message_close_container(m);
}

static int fill_release(sd_bus_message *m, const struct request *q)
{
	int r;

	if ((r = sd_bus_message_open_container(m, 'a', "(ss)")) < 0)
		return r;
	for (size_t i = 0; i < q->count; i++) {
		if ((r = sd_bus_message_append(m, "(ss)", q->resources[i].lockspace, q->resources[i].name)) < 0)
			return r;
	}
	if ((r = sd_bus_message_close_container(m)) < 0 || (r = sd_bus_message_open_container(m, 'a', "{sv}")) < 0 ||
	    (r = append_option(m, "owner", "s", q->owner)) < 0 || (r = append_labels(m, q)) < 0)
		return r;
	return sd_bus_message_close_container(m);
}

typedef int (*filler)(sd_bus_message *m, const struct request *q);

static int call_once(struct connection *c, const char *member, filler fill, const struct request *q,
		     uint64_t deadline, sd_bus_error *error)
{
	sd_bus_message *m = NULL, *reply = NULL;
	uint64_t timeout = left(deadline);
	int r;

	if ((r = sd_bus_message_new_method_call(c->bus, &m, SERVICE, OBJECT, SERVICE, member)) >= 0 && (r = fill(m, q)) >= 0)
		r = sd_bus_call(c->bus, m, timeout ? timeout : 1, error, &reply); /* 0 would mean sd-bus's own default */
	sd_bus_message_unref(m);
	sd_bus_message_unref(reply);
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
		if (sd_bus_error_has_name(error, names[i]))
			return true;
	}
	if (sd_bus_error_is_set(error) && strncmp(error->name, ERRORS, strlen(ERRORS)) == 0)
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
static enum outcome explain(const struct request *q, const sd_bus_error *error, int r, char *what, size_t what_size)
{
	if (r == -ETIMEDOUT || sd_bus_error_has_name(error, SD_BUS_ERROR_TIMEOUT)) {
		snprintf(what, what_size, "dlmlockd has not answered for %u s; it hangs, or the cluster is recovering: "
			"see 'dlmlockctl status'",
			 (unsigned)(q->timeout_usec / 1000000));
		return OUTCOME_FAILED;
	}
	if (transient(error, r) && r != -EAGAIN) {
		snprintf(what, what_size, "dlmlockd can't be reached on the system bus: %s; see 'systemctl status dlmlockd'",
			 sd_bus_error_is_set(error) && error->message ? error->message : strerror(-r));
		return OUTCOME_MISSING;
	}
	snprintf(what, what_size, "%s", sd_bus_error_is_set(error) && error->message ? error->message : strerror(-r));
	if (sd_bus_error_has_name(error, ERRORS "NoSuchLockspace"))
		return OUTCOME_NO_LOCKSPACE;
	if (sd_bus_error_has_name(error, ERRORS "AlreadyHeld"))
		return OUTCOME_HELD;
	return sd_bus_error_has_name(error, ERRORS "WouldBlock") ? OUTCOME_BUSY : OUTCOME_FAILED;
}

/* Connects and calls until there is an answer or little time is left. */
static enum outcome call_on(struct connection *c, const char *member, filler fill, const struct request *q,
			    char *what, size_t what_size)
{
	for (;;) {
		sd_bus_error error = SD_BUS_ERROR_NULL;
		int r = connect_bus(c, q->deadline);
		bool connected = r >= 0;
		enum outcome o;

		if (connected)
			r = call_once(c, member, fill, q, q->deadline, &error);
		if (r >= 0) {
			sd_bus_error_free(&error);
			return OUTCOME_OK;
		}
		/* The last attempt needs time for an answer, too. */
		if (transient(&error, r) && left(q->deadline) > q->timeout_usec / 4 + RETRY_USEC) {
			sd_bus_error_free(&error);
			usleep(RETRY_USEC);
			continue;
		}
		if (connected) {
			o = explain(q, &error, r, what, what_size);
		} else {
			snprintf(what, what_size, "the system bus can't be reached: %s; see 'systemctl status dbus'", strerror(-r));
			o = no_bus(r) ? OUTCOME_MISSING : OUTCOME_FAILED;
		}
		if (r == -ETIMEDOUT || o == OUTCOME_MISSING)
			disconnect(c); /* which withdraws the call */
		sd_bus_error_free(&error);
		return o;
	}
}

static enum outcome call(const char *member, filler fill, const struct request *q, char *what, size_t what_size)
{
	struct connection *c = take_connection();
	enum outcome o;

	if (!c) {
		snprintf(what, what_size, "out of memory");
		return OUTCOME_FAILED;
	}
	o = call_on(c, member, fill, q, what, what_size);
	give_back(c);
	return o;
}

enum outcome bus_acquire(const struct request *r, char *what, size_t what_size)
{
	return call("AcquireMany", fill_acquire, r, what, what_size);
}

enum outcome bus_release(const struct request *r, char *what, size_t what_size)
{
	return call("ReleaseMany", fill_release, r, what, what_size);
}
