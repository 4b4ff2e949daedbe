/* Host resources as sums, and ports as one counter for each port and protocol. */
#include "agent/engine/host_resources.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <unistd.h>

#include "lib/fd.h"
#include "lib/json.h"

struct host_resources {
	int64_t cpu_units, memory_mib; /* capacity */
	int64_t cpu_units_taken, memory_mib_taken;
	uint8_t ports[2][65536 / 8]; /* tcp, udp; reserved ones are taken from the start */
};

struct need {
	int64_t cpu_units, memory_mib;
};

static int64_t container_memory_mib(const struct container *c)
{
	int64_t reservation_bytes = 0;

	(void)json_get_i64(c->host_config, "MemoryReservation", 0, INT64_MAX, &reservation_bytes,
	                   NULL);
	return reservation_bytes > 0 ? reservation_bytes / (1024 * 1024) : c->memory_mib;
}

static struct need task_need(const struct task *task)
{
	struct need need = {.cpu_units = (int64_t)(task->cpu * 1024),
	                    .memory_mib = task->memory_mib};

	for (size_t i = 0; i < task->n_containers; i++) {
		if (task->cpu <= 0)
			need.cpu_units += task->containers[i].cpu_shares;
		if (task->memory_mib <= 0)
			need.memory_mib += container_memory_mib(&task->containers[i]);
	}
	return need;
}

static bool port_is_taken(const struct host_resources *host, bool udp, uint16_t port)
{
	return host->ports[udp][port / 8] & (1u << (port % 8));
}

static void port_set(struct host_resources *host, bool udp, uint16_t port, bool taken)
{
	uint8_t bit = (uint8_t)(1u << (port % 8));

	if (taken)
		host->ports[udp][port / 8] |= bit;
	else
		host->ports[udp][port / 8] &= (uint8_t)~bit;
}

/* The host port that a mapping fixes: in host mode that is the container's. 0: none. */
static uint16_t fixed_port(const struct task *task, const struct port_mapping *mapping)
{
	if (task->network_mode == NETWORK_MODE_HOST && mapping->host_port == 0)
		return mapping->container_port;
	return mapping->host_port;
}

static bool ports_are_free(const struct host_resources *host, const struct task *task)
{
	for (size_t i = 0; i < task->n_containers; i++) {
		const struct container *c = &task->containers[i];

		for (size_t k = 0; k < c->n_ports; k++) {
			uint16_t port = fixed_port(task, &c->ports[k]);

			if (port != 0 && port_is_taken(host, c->ports[k].udp, port))
				return false;
		}
	}
	return true;
}

static void set_ports(struct host_resources *host, const struct task *task, bool taken)
{
	for (size_t i = 0; i < task->n_containers; i++) {
		const struct container *c = &task->containers[i];

		for (size_t k = 0; k < c->n_ports; k++) {
			uint16_t port = fixed_port(task, &c->ports[k]);

			if (port != 0)
				port_set(host, c->ports[k].udp, port, taken);
		}
	}
}

int host_capacity_read(uint64_t reserved_memory_mib, struct host_capacity *ret, struct err *err)
{
	_cleanup_free_ char *text = NULL;
	uint64_t total_kib = 0;
	size_t len;
	int r;

	r = file_read(AT_FDCWD, "/proc/meminfo", 64 * 1024, &text, &len);
	if (r < 0)
		return err_set(err, r, "read /proc/meminfo");
	if (sscanf(text, "MemTotal: %" SCNu64, &total_kib) != 1)
		return err_text(err, -EBADMSG, "/proc/meminfo has no MemTotal");
	if (reserved_memory_mib > total_kib / 1024)
		return err_text(err, -ERANGE,
		                "ECS_RESERVED_MEMORY is %" PRIu64 " MiB, and the host has %" PRIu64
		                " MiB",
		                reserved_memory_mib, total_kib / 1024);

	*ret = (struct host_capacity){
		.cpu_units = sysconf(_SC_NPROCESSORS_ONLN) * 1024,
		.memory_mib = (int64_t)(total_kib / 1024 - reserved_memory_mib),
	};
	return 0;
}

int host_resources_new(const struct host_capacity *capacity, struct host_resources **ret)
{
	struct host_resources *host = calloc(1, sizeof(*host));

	if (!host)
		return -ENOMEM;
	host->cpu_units = capacity->cpu_units;
	host->memory_mib = capacity->memory_mib;
	for (size_t i = 0; i < capacity->n_reserved_ports; i++)
		port_set(host, false, capacity->reserved_ports[i], true);
	for (size_t i = 0; i < capacity->n_reserved_ports_udp; i++)
		port_set(host, true, capacity->reserved_ports_udp[i], true);
	*ret = host;
	return 0;
}

struct host_resources *host_resources_free(struct host_resources *host)
{
	free(host);
	return NULL;
}

int host_resources_take(struct host_resources *host, const struct task *task, struct err *err)
{
	struct need need = task_need(task);

	if (need.cpu_units > host->cpu_units)
		return err_text(err, -EINVAL,
		                "task needs %" PRId64 " CPU units, and the instance has %" PRId64,
		                need.cpu_units, host->cpu_units);
	if (need.memory_mib > host->memory_mib)
		return err_text(err, -EINVAL,
		                "task needs %" PRId64
		                " MiB of memory, and the instance has %" PRId64,
		                need.memory_mib, host->memory_mib);
	if (host->cpu_units_taken + need.cpu_units > host->cpu_units)
		return err_text(err, -EAGAIN, "waits for CPU");
	if (host->memory_mib_taken + need.memory_mib > host->memory_mib)
		return err_text(err, -EAGAIN, "waits for memory");
	if (!ports_are_free(host, task))
		return err_text(err, -EAGAIN, "waits for a host port");

	host_resources_take_anyway(host, task);
	return 0;
}

void host_resources_take_anyway(struct host_resources *host, const struct task *task)
{
	struct need need = task_need(task);

	host->cpu_units_taken += need.cpu_units;
	host->memory_mib_taken += need.memory_mib;
	set_ports(host, task, true);
}

void host_resources_give(struct host_resources *host, const struct task *task)
{
	struct need need = task_need(task);

	host->cpu_units_taken -= need.cpu_units;
	host->memory_mib_taken -= need.memory_mib;
	set_ports(host, task, false);
}
