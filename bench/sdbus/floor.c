/*
 * The empty method in C, on sd-bus: it takes the arguments of Acquire and Release, and answers
 * with the same kinds of values. What the bus and a C service cost is what the service is
 * compared with.
 *
 * floor ADDRESS NAME: serves until the bus is gone.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <systemd/sd-bus.h>

static void check(int r, const char *what)
{
	if (r < 0) {
		fprintf(stderr, "floor: %s: %s\n", what, strerror(-r));
		exit(1);
	}
}

/* Reads all options, as a service has to. */
static int read_options(sd_bus_message *m)
{
	int r = sd_bus_message_enter_container(m, 'a', "{sv}");

	while (r >= 0 && (r = sd_bus_message_enter_container(m, 'e', "sv")) > 0) {
		const char *name, *value;

		if ((r = sd_bus_message_read(m, "sv", &name, "s", &value)) >= 0)
			r = sd_bus_message_exit_container(m);
	}
	return r < 0 ? r : sd_bus_message_exit_container(m);
}

static int acquire(sd_bus_message *m, void *data, sd_bus_error *error)
{
	const char *lockspace, *resource, *mode;
	int r = sd_bus_message_read(m, "sss", &lockspace, &resource, &mode);

	(void)data, (void)error;
	if (r >= 0)
		r = read_options(m);
	if (r < 0)
		return r;
	return sd_bus_reply_method_return(m, "uto", (uint32_t)1, (uint64_t)1, "/org/example/DlmLock/lock/1");
}

static int release(sd_bus_message *m, void *data, sd_bus_error *error)
{
	const char *lockspace, *resource;
	int r = sd_bus_message_read(m, "ss", &lockspace, &resource);

	(void)data, (void)error;
	if (r >= 0)
		r = read_options(m);
	return r < 0 ? r : sd_bus_reply_method_return(m, "");
}

static const sd_bus_vtable vtable[] = {
	SD_BUS_VTABLE_START(0),
	SD_BUS_METHOD("Acquire", "sssa{sv}", "uto", acquire, SD_BUS_VTABLE_UNPRIVILEGED),
	SD_BUS_METHOD("Release", "ssa{sv}", "", release, SD_BUS_VTABLE_UNPRIVILEGED),
	SD_BUS_VTABLE_END,
};

int main(int argc, char **argv)
{
	sd_bus *bus;

	if (argc != 3)
		return 2;
	check(sd_bus_new(&bus), "new");
	check(sd_bus_set_address(bus, argv[1]), "address");
	check(sd_bus_set_bus_client(bus, 1), "client");
	check(sd_bus_start(bus), "start");
	check(sd_bus_add_object_vtable(bus, NULL, "/org/example/DlmLock", argv[2], vtable, NULL), "object");
	check(sd_bus_request_name(bus, argv[2], 0), "name");
	for (;;) {
		int r = sd_bus_process(bus, NULL);

		check(r, "process");
		if (r == 0)
			check(sd_bus_wait(bus, UINT64_MAX), "wait");
	}
}
