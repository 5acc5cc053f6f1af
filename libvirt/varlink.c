/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The calls over Varlink: a socket, one JSON object and a zero byte for each message
 * (https://varlink.org). A connection has one call at a time, so what comes is the reply to that
 * call. A connection that did not bring the reply in time is closed, because the reply might come
 * later and be taken for that to the next call.
 *
 * A call needs two system calls, one to send and one to receive: the time limit is one of the
 * socket's, and is set again only if it has changed. */
#define _GNU_SOURCE
#include "service.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#define MESSAGE_MAX (8 << 20) /* as much as the service takes */
#define BUFFER_KEPT (64 << 10)
#define SLACK_USEC 20000 /* how much later than the deadline a wait may end */

__attribute__((format(printf, 4, 5))) static void fail(struct answer *a, enum fate fate, enum outcome outcome,
						       const char *format, ...)
{
	va_list ap;

	a->fate = fate;
	a->outcome = outcome;
	va_start(ap, format);
	vsnprintf(a->what, sizeof(a->what), format, ap);
	va_end(ap);
}

void varlink_disconnect(struct connection *c)
{
	if (c->fd < 0)
		return;
	/* A child that was just forked has the descriptor until it calls exec. The service is to see the end of
	 * the connection now. */
	shutdown(c->fd, SHUT_RDWR);
	close(c->fd);
	c->fd = -1;
}

/* Limits what the socket may wait, to the time that is left. */
static int limit(struct connection *c, int fd, uint64_t deadline)
{
	uint64_t left = clock_left(deadline);
	struct timeval tv;

	if (left == 0) {
		errno = ETIMEDOUT;
		return -1;
	}
	if (c->patience > left ? c->patience - left < SLACK_USEC : left - c->patience < SLACK_USEC && c->patience)
		return 0;
	tv.tv_sec = (time_t)(left / 1000000);
	tv.tv_usec = (suseconds_t)(left % 1000000);
	if (setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv)) < 0 ||
	    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof(tv)) < 0)
		return -1;
	c->patience = left;
	return 0;
}

/* Connects, or returns -1 with errno. */
static int connect_service(struct connection *c, const char *path, uint64_t deadline)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd, error;

	strcpy(address.sun_path, path); /* config.c has checked its length */
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -1;
	c->patience = 0;
	while (limit(c, fd, deadline) == 0) {
		if (connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0) {
			c->fd = fd;
			return 0;
		}
		/* EAGAIN: the time limit has passed and the queue of connections is still full. */
		if (errno != EINTR && errno != EAGAIN)
			break;
	}
	error = errno;
	close(fd);
	errno = error;
	return -1;
}

static void write_acquire(struct writing *w, const struct request *q)
{
	json_literal(w, "{\"method\":\"" SERVICE ".AcquireMany\",\"parameters\":{\"wanted\":[");
	for (size_t i = 0; i < q->count; i++) {
		const struct resource *s = &q->resources[i];

		if (i > 0)
			json_literal(w, ",");
		json_literal(w, "{\"lockspace\":");
		json_text(w, s->lockspace);
		json_literal(w, ",\"resource\":");
		json_text(w, s->name);
		json_literal(w, ",\"mode\":");
		json_text(w, s->mode);
		json_literal(w, ",\"label\":");
		json_text(w, s->label);
		json_literal(w, "}");
	}
	json_literal(w, "],\"owner\":");
	json_text(w, q->owner);
	json_literal(w, ",\"lifetime\":\"process\",\"processId\":");
	json_number(w, q->pid);
	json_literal(w, ",\"processStartTicks\":");
	json_number(w, q->start);
	if (q->on_lost) {
		json_literal(w, ",\"onLost\":");
		json_text(w, q->on_lost);
		json_literal(w, ",\"onLostData\":");
		json_text(w, q->on_lost_data);
	}
	json_raw(w, "}}", sizeof("}}"));
}

static void write_release(struct writing *w, const struct request *q)
{
	json_literal(w, "{\"method\":\"" SERVICE ".ReleaseMany\",\"parameters\":{\"resources\":[");
	for (size_t i = 0; i < q->count; i++) {
		if (i > 0)
			json_literal(w, ",");
		json_literal(w, "{\"lockspace\":");
		json_text(w, q->resources[i].lockspace);
		json_literal(w, ",\"resource\":");
		json_text(w, q->resources[i].name);
		json_literal(w, "}");
	}
	json_literal(w, "],\"owner\":");
	json_text(w, q->owner);
	json_literal(w, ",\"labels\":[");
	for (size_t i = 0; i < q->count; i++) {
		if (i > 0)
			json_literal(w, ",");
		json_text(w, q->resources[i].label);
	}
	json_raw(w, "]}}", sizeof("]}}"));
}

/* Both return -1 with errno: ETIMEDOUT, or why there is no connection any more. */

static int send_call(struct connection *c, uint64_t deadline)
{
	size_t sent = 0;

	while (sent < c->buffer.length) {
		ssize_t n;

		if (limit(c, c->fd, deadline) < 0)
			return -1;
		n = send(c->fd, c->buffer.data + sent, c->buffer.length - sent, MSG_NOSIGNAL);
		if (n > 0)
			sent += (size_t)n;
		else if (errno != EINTR && errno != EAGAIN)
			return -1;
	}
	return 0;
}

/* Receives a message into the buffer, without its zero byte. EBADMSG: it is too long, or something
 * follows it. */
static int receive_reply(struct connection *c, uint64_t deadline)
{
	struct writing *w = &c->buffer;

	w->length = 0;
	for (;;) {
		char *to = json_room(w, 1024), *end;
		ssize_t n;

		if (!to) {
			errno = ENOMEM;
			return -1;
		}
		if (limit(c, c->fd, deadline) < 0)
			return -1;
		n = recv(c->fd, to, w->size - w->length, 0);
		if (n == 0)
			errno = ECONNRESET;
		if (n == 0 || (n < 0 && errno != EINTR && errno != EAGAIN))
			return -1;
		if (n < 0)
			continue;
		end = memchr(to, '\0', (size_t)n);
		w->length += (size_t)n;
		if (end && end == to + n - 1) {
			w->length--;
			return 0;
		}
		if (end || w->length > MESSAGE_MAX) {
			errno = EBADMSG;
			return -1;
		}
	}
}

/* The fields of a reply that are looked at. */
struct reply {
	char error[128];    /* "": none */
	char message[1024]; /* of the error, "": none */
	bool done;          /* what the method returns is there */
};

static int read_parameters(struct reading *r, enum method method, const struct request *q, struct reply *out)
{
	char key[32];
	int more;

	if (json_object(r) < 0)
		return -1;
	for (bool first = true; (more = json_member(r, first, key, sizeof(key))) > 0; first = false) {
		long n = 0;

		if (strcmp(key, "message") == 0)
			n = json_string(r, out->message, sizeof(out->message));
		else if (strcmp(key, "granted") == 0 && method == ACQUIRE_MANY)
			out->done = (n = json_array(r)) == (long)q->count;
		else if (strcmp(key, "released") == 0 && method == RELEASE_MANY)
			out->done = (n = json_value(r)) == 0;
		else
			n = json_value(r);
		if (n < 0)
			return -1;
	}
	return more;
}

/* Reads a reply. Parameters come before or after the error. */
static int read_reply(struct reading r, enum method method, const struct request *q, struct reply *out)
{
	bool has_error = false, has_parameters = false;
	char key[16];
	int more;

	memset(out, 0, sizeof(*out));
	if (json_object(&r) < 0)
		return -1;
	for (bool first = true; (more = json_member(&r, first, key, sizeof(key))) > 0; first = false) {
		if (strcmp(key, "error") == 0 && !has_error) {
			has_error = true;
			if (json_string(&r, out->error, sizeof(out->error)) < 0)
				return -1;
		} else if (strcmp(key, "parameters") == 0 && !has_parameters) {
			has_parameters = true;
			if (read_parameters(&r, method, q, out) < 0)
				return -1;
		} else {
			return -1; /* twice, or what a reply to such a call does not have, like "continues" */
		}
	}
	return more == 0 && json_end(&r) && (!has_error || out->error[0]) ? 0 : -1;
}

static void judge(const struct reply *reply, const char *path, struct answer *a)
{
	static const struct {
		const char *name;
		enum outcome outcome;
	} known[] = {
		{ SERVICE ".NoSuchLockspace", OUTCOME_NO_LOCKSPACE },
		{ SERVICE ".AlreadyHeld", OUTCOME_HELD },
		{ SERVICE ".WouldBlock", OUTCOME_BUSY },
	};
	const char *what = reply->message[0] ? reply->message : reply->error;

	if (!reply->error[0] && reply->done) {
		a->fate = FATE_ANSWERED;
		a->outcome = OUTCOME_OK;
		return;
	}
	if (!reply->error[0]) {
		fail(a, FATE_FAULT, OUTCOME_FAILED, "what answers at %s is not dlmlockd: its reply lacks what was asked for", path);
		return;
	}
	if (strcmp(reply->error, SERVICE ".ShuttingDown") == 0) {
		fail(a, FATE_GONE, OUTCOME_MISSING, "dlmlockd can't be reached at %s: %s; see 'systemctl status dlmlockd'", path,
		     what);
		return;
	}
	fail(a, FATE_ANSWERED, OUTCOME_FAILED, "%s", what);
	for (size_t i = 0; i < sizeof(known) / sizeof(*known); i++) {
		if (strcmp(reply->error, known[i].name) == 0)
			a->outcome = known[i].outcome;
	}
}

/* Explains why there is no connection. Only that nobody listens means that the service is missing:
 * libvirtd may have no descriptor left, or not be allowed to connect. */
static void not_connected(const char *path, int error, struct answer *a)
{
	bool nobody = error == ENOENT || error == ECONNREFUSED || error == ENOTDIR;

	if (error == ETIMEDOUT)
		fail(a, FATE_SILENT, OUTCOME_FAILED, "%s", "");
	else if (nobody || error == EACCES || error == EPERM)
		fail(a, FATE_UNREACHABLE, nobody ? OUTCOME_MISSING : OUTCOME_FAILED, "dlmlockd can't be reached at %s: %s; "
		     "see 'systemctl status dlmlockd-varlink.socket'", path, strerror(error));
	else
		fail(a, FATE_FAULT, OUTCOME_FAILED, "dlmlockd can't be reached at %s: %s", path, strerror(error));
}

/* Explains why there is no reply, and closes the connection. That the service has closed it does
 * not mean that it is missing: it closes connections also at its limits. */
static void no_reply(struct connection *c, const char *path, int error, struct answer *a)
{
	varlink_disconnect(c);
	if (error == ETIMEDOUT)
		fail(a, FATE_SILENT, OUTCOME_FAILED, "%s", "");
	else if (error == EPIPE || error == ECONNRESET)
		fail(a, FATE_GONE, OUTCOME_FAILED, "dlmlockd has closed the connection at %s; see 'systemctl status dlmlockd'",
		     path);
	else if (error == EBADMSG)
		fail(a, FATE_FAULT, OUTCOME_FAILED, "what answers at %s is not dlmlockd: its reply is not one of Varlink", path);
	else
		fail(a, FATE_FAULT, OUTCOME_FAILED, "the connection to dlmlockd at %s has failed: %s", path, strerror(error));
}

/* Writes the call into the buffer, or says why that can't be done. */
static bool write_call(struct connection *c, enum method method, const struct request *q, struct answer *a)
{
	struct writing *w = &c->buffer;

	w->length = 0;
	w->error = 0;
	if (method == ACQUIRE_MANY)
		write_acquire(w, q);
	else
		write_release(w, q);
	if (w->error == EILSEQ)
		fail(a, FATE_FAULT, OUTCOME_FAILED, "a path or the name of the domain is not UTF-8");
	else if (w->error)
		fail(a, FATE_FAULT, OUTCOME_FAILED, "%s", strerror(w->error));
	return !w->error;
}

static void call_connected(struct connection *c, enum method method, const struct request *q, struct answer *a)
{
	const char *path = q->config->varlink_socket;
	struct reply reply;
	struct reading r;

	if (!write_call(c, method, q, a))
		return;
	if (send_call(c, q->deadline) < 0 || receive_reply(c, q->deadline) < 0) {
		no_reply(c, path, errno, a);
		return;
	}
	r = (struct reading){ c->buffer.data, c->buffer.data + c->buffer.length };
	if (read_reply(r, method, q, &reply) < 0)
		no_reply(c, path, EBADMSG, a);
	else
		judge(&reply, path, a);
	if (a->fate == FATE_GONE)
		varlink_disconnect(c);
}

void varlink_call(struct connection *c, enum method method, const struct request *q, struct answer *a)
{
	const char *path = q->config->varlink_socket;
	bool kept = c->fd >= 0;

	if (!kept && connect_service(c, path, q->deadline) < 0) {
		not_connected(path, errno, a);
		return;
	}
	call_connected(c, method, q, a);
	/* A daemon that has ended since the connection was made may have come back, so the first retry is at once,
	 * on a new connection. It is safe: service.c. */
	if (kept && a->fate == FATE_GONE)
		varlink_call(c, method, q, a);
	if (c->buffer.size > BUFFER_KEPT) {
		free(c->buffer.data);
		memset(&c->buffer, 0, sizeof(c->buffer));
	}
}
