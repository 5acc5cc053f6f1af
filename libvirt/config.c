/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * qemu-dlmlock.conf: lines of KEY = VALUE, where a value is a number or a text in double quotes,
 * and comments with '#', as in libvirt's own files. Anything that is not understood is an error
 * with file and line: a lock driver that guesses does not protect disks. */
#define _GNU_SOURCE
#include "plugin.h"

#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define USEC_PER_SEC UINT64_C(1000000)
#define TIMEOUT_MAX 60 /* libvirtd's own clients wait that long at most */

struct parser {
	const char *path;
	int line;
	char *why;
	size_t why_size;
	struct config *config;
	bool require_given;
};

__attribute__((format(printf, 2, 3))) static int bad(struct parser *p, const char *format, ...)
{
	char text[256];
	va_list ap;

	va_start(ap, format);
	vsnprintf(text, sizeof(text), format, ap);
	va_end(ap);
	snprintf(p->why, p->why_size, "%s:%d: %s", p->path, p->line, text);
	return -1;
}

struct value {
	bool is_text;
	char text[256];
	long number;
};

static int need_text(struct parser *p, const char *key, const struct value *v)
{
	return v->is_text ? 0 : bad(p, "%s takes a text in double quotes", key);
}

static int set_bool(struct parser *p, const char *key, const struct value *v, bool *out)
{
	if (v->is_text || (v->number != 0 && v->number != 1))
		return bad(p, "%s takes 0 or 1", key);
	*out = v->number == 1;
	return 0;
}

/* The rules of org.example.DlmLock for lockspace names. */
static int set_lockspace(struct parser *p, const char *key, const struct value *v, char *out)
{
	size_t n = strlen(v->text);

	if (need_text(p, key, v) < 0)
		return -1;
	if (n == 0 || n > DLMLOCK_NAME_MAX || v->text[0] == '.')
		return bad(p, "%s: a lockspace name has 1 to %d characters and does not begin with a dot", key, DLMLOCK_NAME_MAX);
	for (size_t i = 0; i < n; i++) {
		if (!isalnum((unsigned char)v->text[i]) && !strchr("_-.+", v->text[i]))
			return bad(p, "%s: a lockspace name has letters, digits, '_', '-', '.' and '+' alone", key);
	}
	memcpy(out, v->text, n + 1);
	return 0;
}

static int set_choice(struct parser *p, const char *key, const struct value *v, const char *zero, const char *one,
		      int *out)
{
	if (need_text(p, key, v) < 0)
		return -1;
	if (strcmp(v->text, zero) != 0 && strcmp(v->text, one) != 0)
		return bad(p, "%s takes \"%s\" or \"%s\"", key, zero, one);
	*out = strcmp(v->text, one) == 0;
	return 0;
}

/* The rules of dlmlockd.toml for names of helpers. */
static int set_helper(struct parser *p, const char *key, const struct value *v, char *out)
{
	size_t n = strlen(v->text);

	if (need_text(p, key, v) < 0)
		return -1;
	if (n == 0 || n > DLMLOCK_NAME_MAX || strspn(v->text, "abcdefghijklmnopqrstuvwxyz0123456789-_") != n)
		return bad(p, "%s takes the NAME of a table [on-lost.NAME] in dlmlockd.toml: "
			      "lower case letters, digits, '-' and '_'", key);
	memcpy(out, v->text, n + 1);
	return 0;
}

static int set_transport(struct parser *p, const char *key, const struct value *v, enum transport *out)
{
	static const char *const names[] = {
		[TRANSPORT_AUTO] = "auto", [TRANSPORT_VARLINK] = "varlink", [TRANSPORT_DBUS] = "dbus",
	};

	if (need_text(p, key, v) < 0)
		return -1;
	for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++) {
		if (strcmp(v->text, names[i]) == 0) {
			*out = (enum transport)i;
			return 0;
		}
	}
	return bad(p, "%s takes \"auto\", \"varlink\" or \"dbus\"", key);
}

static int set_socket(struct parser *p, const char *key, const struct value *v, char *out)
{
	size_t n = strlen(v->text);

	if (need_text(p, key, v) < 0)
		return -1;
	if (v->text[0] != '/' || n > DLMLOCK_SOCKET_MAX)
		return bad(p, "%s takes an absolute path of at most %d bytes", key, DLMLOCK_SOCKET_MAX);
	memcpy(out, v->text, n + 1);
	return 0;
}

static int set_key(struct parser *p, const char *key, const struct value *v)
{
	struct config *c = p->config;
	int choice = 0;

	if (strcmp(key, "lockspace") == 0)
		return set_lockspace(p, key, v, c->lockspace);
	if (strcmp(key, "lvm_lockspace") == 0)
		return set_lockspace(p, key, v, c->lvm_lockspace);
	if (strcmp(key, "scsi_lockspace") == 0)
		return set_lockspace(p, key, v, c->scsi_lockspace);
	if (strcmp(key, "on_lost") == 0)
		return set_helper(p, key, v, c->on_lost);
	if (strcmp(key, "auto_disk_leases") == 0)
		return set_bool(p, key, v, &c->auto_disk_leases);
	if (strcmp(key, "require_lease_for_disks") == 0) {
		p->require_given = true;
		return set_bool(p, key, v, &c->require_lease_for_disks);
	}
	if (strcmp(key, "timeout") == 0) {
		if (v->is_text || v->number < 1 || v->number > TIMEOUT_MAX)
			return bad(p, "timeout takes 1 to %d seconds", TIMEOUT_MAX);
		c->timeout_usec = (uint64_t)v->number * USEC_PER_SEC;
		return 0;
	}
	if (strcmp(key, "transport") == 0)
		return set_transport(p, key, v, &c->transport);
	if (strcmp(key, "varlink_socket") == 0)
		return set_socket(p, key, v, c->varlink_socket);
	if (strcmp(key, "readonly_disks") == 0) {
		if (set_choice(p, key, v, "shared", "ignore", &choice) < 0)
			return -1;
		c->readonly_disks = choice ? READONLY_IGNORE : READONLY_SHARED;
		return 0;
	}
	if (strcmp(key, "on_service_missing") == 0) {
		if (set_choice(p, key, v, "refuse", "allow", &choice) < 0)
			return -1;
		c->on_service_missing = choice ? MISSING_ALLOW : MISSING_REFUSE;
		return 0;
	}
	return bad(p, "unknown key %.40s", key);
}

static char *skip(char *s)
{
	while (*s == ' ' || *s == '\t' || *s == '\r')
		s++;
	return s;
}

/* Reads the value at *s and moves *s behind it. */
static int parse_value(struct parser *p, const char *key, char **s, struct value *v)
{
	char *at = *s;

	memset(v, 0, sizeof(*v));
	if (*at == '"') {
		char *end = strchr(++at, '"');

		if (!end)
			return bad(p, "the text of %.40s has no end; a double quote is missing", key);
		if ((size_t)(end - at) >= sizeof(v->text))
			return bad(p, "the text of %.40s is too long", key);
		v->is_text = true;
		memcpy(v->text, at, (size_t)(end - at));
		*s = end + 1;
		return 0;
	}
	errno = 0;
	v->number = strtol(at, s, 10);
	if (*s == at || errno)
		return bad(p, "%.40s takes a number, or a text in double quotes", key);
	return 0;
}

static int parse_line(struct parser *p, char *line)
{
	char *key = skip(line), *s = key;
	struct value v;
	size_t n;

	while (isalnum((unsigned char)*s) || *s == '_')
		s++;
	n = (size_t)(s - key);
	if (n == 0)
		return *s == '\0' || *s == '\n' || *s == '#' ? 0 : bad(p, "a line is KEY = VALUE, or begins with '#'");
	s = skip(s);
	if (*s != '=')
		return bad(p, "a '=' is missing after %.*s", (int)(n > 40 ? 40 : n), key);
	*s++ = ' ';
	key[n] = '\0';
	s = skip(s);
	if (parse_value(p, key, &s, &v) < 0)
		return -1;
	s = skip(s);
	if (*s != '\0' && *s != '\n' && *s != '#')
		return bad(p, "there is something behind the value of %.40s", key);
	return set_key(p, key, &v);
}

static void defaults(struct config *c)
{
	memset(c, 0, sizeof(*c));
	strcpy(c->lockspace, "libvirt");
	strcpy(c->varlink_socket, "/run/dlmlock/org.example.DlmLock");
	c->auto_disk_leases = true;
	c->timeout_usec = 5 * USEC_PER_SEC;
}

int config_load(struct config *c, const char *path, char *why, size_t why_size)
{
	struct parser p = { .path = path, .why = why, .why_size = why_size, .config = c };
	char *line = NULL;
	size_t size = 0;
	ssize_t got;
	int ret = 0;
	FILE *f;

	defaults(c);
	f = fopen(path, "re");
	if (!f && errno == ENOENT)
		return 0;
	if (!f) {
		snprintf(why, why_size, "%s: %m", path);
		return -1;
	}
	while (ret == 0 && (got = getline(&line, &size, f)) >= 0) {
		p.line++;
		ret = strlen(line) == (size_t)got ? parse_line(&p, line) : bad(&p, "a zero byte is in the line");
	}
	if (ret == 0 && ferror(f)) {
		snprintf(why, why_size, "%s: %m", path);
		ret = -1;
	}
	free(line);
	fclose(f);
	/* As with virtlockd: without automatic disk leases every domain needs leases. */
	if (ret == 0 && !p.require_given)
		c->require_lease_for_disks = !c->auto_disk_leases;
	return ret;
}
