/*
 * What cannot be sent drops the connection and is not kept: the exit files and the answer to
 * "state" have it for the agent that connects next.
 */
#include "agent/task/supervisor_report.h"

#include <errno.h>

#include "agent/task/execute_command.h"
#include "agent/task/health.h"
#include "lib/json.h"
#include "lib/log.h"
#include "lib/spool_writer.h"

void supervisor_drop_connection(struct supervisor *s)
{
	s->conn = ipc_conn_free(s->conn);
}

void supervisor_send(struct supervisor *s, struct json_object *body, const int *fds, size_t n)
{
	int r;

	if (!s->conn)
		return;
	r = body ? ipc_conn_send(s->conn, body, fds, n) : -ENOMEM;
	if (r < 0) {
		log_warning(NULL, r, "send to ecs-agent");
		supervisor_drop_connection(s);
	}
}

void supervisor_send_error(struct supervisor *s, struct json_object *request, int code,
                           const struct err *err)
{
	if (s->conn && ipc_conn_send_error(s->conn, request, code, err) < 0)
		supervisor_drop_connection(s);
}

void supervisor_send_exited(struct supervisor *s, struct container *container)
{
	_cleanup_json_ struct json_object *event = container_exit_event(container);

	supervisor_send(s, event, NULL, 0);
}

void supervisor_send_dropped(struct supervisor *s, struct container *container)
{
	_cleanup_json_ struct json_object *event = NULL;
	uint64_t records, bytes;

	if (!container->output.writer)
		return;
	spool_writer_dropped(container->output.writer, &records, &bytes);
	if (records == container->dropped_told)
		return;
	container->dropped_told = records;
	event = ipc_message_new("dropped", NULL);
	if (event && (json_add_string(event, "container", container->name) < 0 ||
	              json_add_u64(event, "records", records) < 0 ||
	              json_add_u64(event, "bytes", bytes) < 0))
		return;
	supervisor_send(s, event, NULL, 0);
}

void supervisor_send_health(struct supervisor *s)
{
	for (struct container *c = s->containers; c; c = c->next) {
		_cleanup_json_ struct json_object *event = NULL;

		if (!c->health || !health_take_news(c->health))
			continue;
		event = ipc_message_new("health", NULL);
		if (event && (json_add_string(event, "container", c->name) < 0 ||
		              health_to_json(c->health, event) < 0))
			continue;
		supervisor_send(s, event, NULL, 0);
	}
}

void supervisor_send_managed_agents(struct supervisor *s)
{
	for (struct container *c = s->containers; c; c = c->next) {
		_cleanup_json_ struct json_object *event = NULL;

		if (!c->execute_command || !execute_command_take_news(c->execute_command))
			continue;
		event = ipc_message_new("managed-agent", NULL);
		if (event && (json_add_string(event, "container", c->name) < 0 ||
		              execute_command_to_json(c->execute_command, event) < 0))
			continue;
		supervisor_send(s, event, NULL, 0);
	}
}
