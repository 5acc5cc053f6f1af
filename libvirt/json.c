/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * A writer and a reader of JSON (RFC 8259). docs/decisions/libvirt-json.md says why it is not a
 * library. The reader takes nothing that the RFC does not allow: no other numbers, no control
 * characters or broken UTF-8 in strings, no lone surrogates, and at most JSON_DEPTH levels. It neither
 * allocates nor copies anything but the strings that are asked for. */
#define _GNU_SOURCE
#include "json.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define JSON_DEPTH 16

char *json_room(struct writing *w, size_t n)
{
	size_t size = w->size ? w->size : 1024;
	char *data;

	if (w->error)
		return NULL;
	while (size - w->length < n)
		size *= 2;
	if (size != w->size) {
		data = realloc(w->data, size);
		if (!data) {
			w->error = ENOMEM;
			return NULL;
		}
		w->data = data;
		w->size = size;
	}
	return w->data + w->length;
}

void json_raw(struct writing *w, const char *bytes, size_t n)
{
	char *to = json_room(w, n);

	if (!to)
		return;
	memcpy(to, bytes, n);
	w->length += n;
}

/* How many bytes the character at s has, or 0 if it is not UTF-8 (RFC 3629: no overlong forms, no
 * surrogates, nothing above U+10FFFF). Reads no more than n bytes, of which there is one at least. */
static size_t character(const char *s, size_t n)
{
	const unsigned char *u = (const unsigned char *)s;
	unsigned char low = 0x80, high = 0xbf;
	size_t more;

	if (u[0] < 0x80)
		return 1;
	if (u[0] >= 0xc2 && u[0] <= 0xdf)
		more = 1;
	else if (u[0] >= 0xe0 && u[0] <= 0xef)
		more = 2;
	else if (u[0] >= 0xf0 && u[0] <= 0xf4)
		more = 3;
	else
		return 0;
	if (n <= more)
		return 0;
	if (u[0] == 0xe0)
		low = 0xa0;
	if (u[0] == 0xed)
		high = 0x9f;
	if (u[0] == 0xf0)
		low = 0x90;
	if (u[0] == 0xf4)
		high = 0x8f;
	for (size_t i = 1; i <= more; i++) {
		if (u[i] < low || u[i] > high)
			return 0;
		low = 0x80;
		high = 0xbf;
	}
	return more + 1;
}

void json_text(struct writing *w, const char *text)
{
	size_t n = strlen(text), from = 0, i = 0;
	char escape[8];

	json_literal(w, "\"");
	while (i < n) {
		unsigned char c = (unsigned char)text[i];
		size_t bytes = character(text + i, n - i);

		if (bytes == 0) {
			w->error = w->error ? w->error : EILSEQ;
			return;
		}
		if (c >= 0x20 && c != '"' && c != '\\') {
			i += bytes;
			continue;
		}
		json_raw(w, text + from, i - from);
		json_raw(w, escape, (size_t)snprintf(escape, sizeof(escape), c < 0x20 ? "\\u%04x" : "\\%c", c));
		from = ++i;
	}
	json_raw(w, text + from, n - from);
	json_literal(w, "\"");
}

void json_number(struct writing *w, uint64_t n)
{
	char digits[24];

	json_raw(w, digits, (size_t)snprintf(digits, sizeof(digits), "%llu", (unsigned long long)n));
}

static void blanks(struct reading *r)
{
	while (r->at < r->end && (*r->at == ' ' || *r->at == '\t' || *r->at == '\n' || *r->at == '\r'))
		r->at++;
}

/* Reads one character, behind white space. */
static bool take(struct reading *r, char c)
{
	blanks(r);
	if (r->at == r->end || *r->at != c)
		return false;
	r->at++;
	return true;
}

int json_object(struct reading *r)
{
	return take(r, '{') ? 0 : -1;
}

bool json_end(struct reading *r)
{
	blanks(r);
	return r->at == r->end;
}

/* The four digits of a \u. */
static long digits(struct reading *r)
{
	long n = 0;

	for (int i = 0; i < 4; i++, r->at++) {
		static const char hex[] = "0123456789abcdef0123456789ABCDEF";
		const char *digit = r->at < r->end && *r->at ? strchr(hex, *r->at) : NULL;

		if (!digit)
			return -1;
		n = n * 16 + (digit - hex) % 16;
	}
	return n;
}

static size_t encode(unsigned long c, char out[4])
{
	if (c < 0x80) {
		out[0] = (char)c;
		return 1;
	}
	if (c < 0x800) {
		out[0] = (char)(0xc0 | c >> 6);
		out[1] = (char)(0x80 | (c & 0x3f));
		return 2;
	}
	if (c < 0x10000) {
		out[0] = (char)(0xe0 | c >> 12);
		out[1] = (char)(0x80 | (c >> 6 & 0x3f));
		out[2] = (char)(0x80 | (c & 0x3f));
		return 3;
	}
	out[0] = (char)(0xf0 | c >> 18);
	out[1] = (char)(0x80 | (c >> 12 & 0x3f));
	out[2] = (char)(0x80 | (c >> 6 & 0x3f));
	out[3] = (char)(0x80 | (c & 0x3f));
	return 4;
}

/* Reads what follows a backslash. Returns how many bytes it stands for, or 0. */
static size_t escaped(struct reading *r, char out[4])
{
	static const char names[] = "\"\\/bfnrt", meaning[] = "\"\\/\b\f\n\r\t";
	const char *name;
	long c, low;

	if (r->at == r->end || !*r->at)
		return 0;
	if (*r->at != 'u') {
		name = strchr(names, *r->at++);
		if (!name)
			return 0;
		out[0] = meaning[name - names];
		return 1;
	}
	r->at++;
	c = digits(r);
	if (c <= 0 || (c >= 0xdc00 && c <= 0xdfff))
		return 0;
	if (c < 0xd800 || c > 0xdbff)
		return encode((unsigned long)c, out);
	if (r->end - r->at < 2 || r->at[0] != '\\' || r->at[1] != 'u')
		return 0;
	r->at += 2;
	low = digits(r);
	if (low < 0xdc00 || low > 0xdfff)
		return 0;
	return encode(0x10000 + ((unsigned long)(c - 0xd800) << 10) + (unsigned long)(low - 0xdc00), out);
}

int json_string(struct reading *r, char *out, size_t size)
{
	size_t used = 0, n;
	bool full = false;
	char bytes[4];

	if (!take(r, '"'))
		return -1;
	while (r->at < r->end) {
		if (*r->at == '"') {
			r->at++;
			if (size > 0)
				out[used] = '\0';
			return 0;
		}
		if (*r->at == '\\') {
			r->at++;
			n = escaped(r, bytes);
		} else {
			n = (unsigned char)*r->at < 0x20 ? 0 : character(r->at, (size_t)(r->end - r->at));
			memcpy(bytes, r->at, n);
			r->at += n;
		}
		if (n == 0)
			return -1;
		full = full || used + n >= size;
		if (full)
			continue;
		memcpy(out + used, bytes, n);
		used += n;
	}
	return -1;
}

int json_member(struct reading *r, bool first, char *key, size_t size)
{
	const char *begin;

	if (take(r, '}'))
		return 0;
	if (!first && !take(r, ','))
		return -1;
	blanks(r);
	begin = r->at;
	if (json_string(r, key, size) < 0)
		return -1;
	/* A key that was cut must not look like another one. An escape makes a key look longer than it is; none
	 * of the keys that are looked for needs one. */
	if ((size_t)(r->at - begin) - 2 >= size)
		key[0] = '\0';
	return take(r, ':') ? 1 : -1;
}

static bool digit(const struct reading *r)
{
	return r->at < r->end && *r->at >= '0' && *r->at <= '9';
}

static int some_digits(struct reading *r)
{
	if (!digit(r))
		return -1;
	while (digit(r))
		r->at++;
	return 0;
}

static int number(struct reading *r)
{
	if (*r->at == '-')
		r->at++;
	if (r->at < r->end && *r->at == '0')
		r->at++;
	else if (some_digits(r) < 0)
		return -1;
	if (r->at < r->end && *r->at == '.') {
		r->at++;
		if (some_digits(r) < 0)
			return -1;
	}
	if (r->at < r->end && (*r->at == 'e' || *r->at == 'E')) {
		r->at++;
		if (r->at < r->end && (*r->at == '+' || *r->at == '-'))
			r->at++;
		return some_digits(r);
	}
	return 0;
}

static int word(struct reading *r, const char *text)
{
	size_t n = strlen(text);

	if ((size_t)(r->end - r->at) < n || memcmp(r->at, text, n) != 0)
		return -1;
	r->at += n;
	return 0;
}

static int value(struct reading *r, int depth);

static long elements(struct reading *r, int depth)
{
	long n = 0;

	if (depth == 0)
		return -1;
	r->at++;
	if (take(r, ']'))
		return 0;
	do {
		if (value(r, depth - 1) < 0)
			return -1;
		n++;
	} while (take(r, ','));
	return take(r, ']') ? n : -1;
}

static int members(struct reading *r, int depth)
{
	char key[1];
	int more;

	if (depth == 0)
		return -1;
	r->at++;
	for (bool first = true; (more = json_member(r, first, key, sizeof(key))) > 0; first = false) {
		if (value(r, depth - 1) < 0)
			return -1;
	}
	return more;
}

static int value(struct reading *r, int depth)
{
	blanks(r);
	if (r->at == r->end)
		return -1;
	switch (*r->at) {
	case '{':
		return members(r, depth);
	case '[':
		return elements(r, depth) < 0 ? -1 : 0;
	case '"':
		return json_string(r, NULL, 0);
	case 't':
		return word(r, "true");
	case 'f':
		return word(r, "false");
	case 'n':
		return word(r, "null");
	}
	return number(r);
}

int json_value(struct reading *r)
{
	return value(r, JSON_DEPTH);
}

long json_array(struct reading *r)
{
	blanks(r);
	return r->at < r->end && *r->at == '[' ? elements(r, JSON_DEPTH) : -1;
}
