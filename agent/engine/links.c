/* Links: each is a line of /etc/hosts and a set of variables in the words of Docker. */
#include "agent/engine/links.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/json.h"
#include "lib/parse.h"

#define ALIAS_MAX 255
#define PORTS_MAX 256 /* four variables for each must fit an execve(2) */

/* --- what the payload says --- */

static int parse_link(const char *text, struct link *ret, struct err *err)
{
	const char *colon = strchr(text, ':');
	const char *alias = colon ? colon + 1 : text;

	ret->container = strndup(text, colon ? (size_t)(colon - text) : strlen(text));
	ret->alias = strdup(alias);
	if (!ret->container || !ret->alias)
		return err_oom(err);
	if (!*ret->container || !name_is_component(alias, ALIAS_MAX))
		return err_text(err, -EINVAL,
		                "\"%.100s\" must be NAME or NAME:ALIAS of 1 to %d letters, digits, "
		                "'_', '-' or '.'",
		                text, ALIAS_MAX);
	return 0;
}

static int check_alias(const struct container *c, struct err *err)
{
	const struct link *last = &c->links[c->n_links - 1];

	for (size_t i = 0; i + 1 < c->n_links; i++)
		if (strcmp(c->links[i].alias, last->alias) == 0)
			return err_text(err, -EINVAL, "the alias %.80s is taken already",
			                last->alias);
	return 0;
}

/* Every condition but that of volumesFrom includes that the other one has started. */
static int depend_on(struct container *c, const char *name, struct err *err)
{
	struct dependency *all;

	for (size_t i = 0; i < c->n_dependencies; i++)
		if (strcmp(c->dependencies[i].container, name) == 0) {
			if (c->dependencies[i].condition == DEPENDENCY_CREATE)
				c->dependencies[i].condition = DEPENDENCY_START;
			return 0;
		}
	all = reallocarray(c->dependencies, c->n_dependencies + 1, sizeof(*all));
	if (!all)
		return err_oom(err);
	c->dependencies = all;
	all[c->n_dependencies] =
		(struct dependency){.condition = DEPENDENCY_START, .container = strdup(name)};
	return all[c->n_dependencies++].container ? 0 : err_oom(err);
}

static int add_link(struct container *c, struct json_object *item, struct err *err)
{
	int r;

	if (!json_object_is_type(item, json_type_string) ||
	    strlen(json_object_get_string(item)) != (size_t)json_object_get_string_len(item))
		return err_text(err, -EINVAL, "it must be a string without a NUL byte");
	r = parse_link(json_object_get_string(item), &c->links[c->n_links++], err);
	if (r == 0)
		r = check_alias(c, err);
	return r < 0 ? r : depend_on(c, c->links[c->n_links - 1].container, err);
}

int links_parse(struct json_object *container, enum network_mode mode, struct container *c,
                struct err *err)
{
	struct json_object *list = NULL;
	size_t n;
	int r;

	r = json_optional(json_get_array(container, "links", &list, err));
	n = list ? json_object_array_length(list) : 0;
	if (r < 0 || n == 0)
		return r;
	if (mode != NETWORK_MODE_BRIDGE)
		return err_text(err, -EOPNOTSUPP,
		                "links are for network mode bridge, and the task's is %s",
		                network_mode_to_string(mode));
	c->links = calloc(n, sizeof(*c->links));
	if (!c->links)
		return err_oom(err);
	for (size_t i = 0; i < n && r == 0; i++) {
		r = add_link(c, json_object_array_get_idx(list, i), err);
		if (r < 0)
			return err_prefix(err, r, "links[%zu]", i);
	}
	return 0;
}

int links_check(const struct task *task, const struct container *c, struct err *err)
{
	for (size_t i = 0; i < c->n_links; i++) {
		const char *name = c->links[i].container;
		const struct container *other = task_container(task, name);

		if (!other)
			return err_text(err, -EINVAL,
			                "container %s: links names %.80s, which is not in the task",
			                c->name, name);
		if (other == c)
			return err_text(err, -EINVAL, "container %s: links names itself", c->name);
		if (other->network_disabled || c->network_disabled)
			return err_text(err, -EINVAL,
			                "container %s: links names %.80s, and one of the two has "
			                "disableNetworking",
			                c->name, name);
	}
	return 0;
}

struct exposed_port {
	uint16_t number;
	char protocol[8];
};

/* A key of ExposedPorts, "80/tcp" or "80". */
static int parse_exposed_port(const char *key, struct exposed_port *ret)
{
	static const char *const protocols[] = {"tcp", "udp", "sctp"};
	const char *slash = strchrnul(key, '/');
	char digits[8];
	uint64_t number = 0;

	snprintf(digits, sizeof(digits), "%.*s", (int)(slash - key), key);
	if (slash - key > 5 || parse_u64(digits, UINT16_MAX, &number) < 0 || number == 0)
		return -EINVAL;
	for (size_t i = 0; i < ARRAY_SIZE(protocols); i++)
		if (strcmp(*slash ? slash + 1 : "tcp", protocols[i]) == 0) {
			ret->number = (uint16_t)number;
			snprintf(ret->protocol, sizeof(ret->protocol), "%s", protocols[i]);
			return 0;
		}
	return -EINVAL;
}

int links_check_exposed_ports(const struct container *c, struct err *err)
{
	struct json_object *exposed = json_get(c->config, "ExposedPorts");
	struct exposed_port port;

	if (!json_object_is_type(exposed, json_type_object))
		return 0;
	json_object_object_foreach (exposed, key, value) {
		(void)value;
		if (parse_exposed_port(key, &port) < 0)
			return err_text(err, -EINVAL,
			                "dockerConfig.config: ExposedPorts has \"%.64s\", it must "
			                "be 1 to 65535, alone or with /tcp, /udp or /sctp",
			                key);
	}
	return 0;
}

/* --- /etc/hosts --- */

static int find_linked(const struct task *task, const struct link *link,
                       const struct container **ret, struct err *err)
{
	const struct container *other = task_container(task, link->container);

	if (!other || other->known != TASK_STATUS_RUNNING || !other->address[0]) {
		if (err)
			err->name = "CannotStartContainerError";
		return err_text(err, -ENOTCONN,
		                "cannot link to container %s as %s: it does not run",
		                link->container, link->alias);
	}
	*ret = other;
	return 0;
}

static int add_host(const struct task *task, const struct link *link, struct json_object *list,
                    struct err *err)
{
	_cleanup_free_ char *line = NULL;
	char name[TASK_RUNTIME_NAME_SIZE];
	const struct container *other;
	const char *hostname;
	int r;

	r = find_linked(task, link, &other, err);
	if (r < 0)
		return r;
	container_runtime_name(task, other, name, sizeof(name));
	hostname = json_text(other->config, "Hostname");
	r = hostname && *hostname
	            ? asprintf(&line, "%s %s %s %s", other->address, link->alias, hostname, name)
	            : asprintf(&line, "%s %s %.12s %s", other->address, link->alias,
	                       other->runtime_id, name);
	if (r < 0) {
		line = NULL;
		return err_oom(err);
	}
	return json_append(list, json_object_new_string(line)) < 0 ? err_oom(err) : 0;
}

int links_add_hosts(const struct task *task, const struct container *c, struct json_object *obj,
                    struct err *err)
{
	struct json_object *list;
	int r = 0;

	if (c->n_links == 0)
		return 0;
	list = json_object_new_array();
	if (json_add(obj, "linkedHosts", list) < 0)
		return err_oom(err);
	for (size_t i = 0; i < c->n_links && r == 0; i++)
		r = add_host(task, &c->links[i], list, err);
	return r;
}

/* --- variables --- */

struct exposed_ports {
	struct exposed_port items[PORTS_MAX];
	size_t n;
};

static int add_port(struct exposed_ports *ports, uint16_t number, const char *protocol)
{
	struct exposed_port *port = &ports->items[ports->n];

	for (size_t i = 0; i < ports->n; i++)
		if (ports->items[i].number == number &&
		    strcmp(ports->items[i].protocol, protocol) == 0)
			return 0;
	if (ports->n == PORTS_MAX)
		return -E2BIG;
	port->number = number;
	snprintf(port->protocol, sizeof(port->protocol), "%s", protocol);
	ports->n++;
	return 0;
}

static int add_exposed_ports(struct exposed_ports *ports, struct json_object *exposed)
{
	struct exposed_port port;
	int r = 0;

	if (!json_object_is_type(exposed, json_type_object))
		return 0;
	json_object_object_foreach (exposed, key, value) {
		(void)value;
		/* What an image has there otherwise exposes nothing. */
		if (r == 0 && parse_exposed_port(key, &port) == 0)
			r = add_port(ports, port.number, port.protocol);
	}
	return r;
}

/* By number, TCP before others of the same. */
static int compare_ports(const void *a, const void *b)
{
	const struct exposed_port *x = a, *y = b;

	if (x->number != y->number)
		return x->number < y->number ? -1 : 1;
	if ((strcmp(x->protocol, "tcp") == 0) != (strcmp(y->protocol, "tcp") == 0))
		return strcmp(x->protocol, "tcp") == 0 ? -1 : 1;
	return strcmp(x->protocol, y->protocol);
}

static int find_ports(const struct container *other, struct exposed_ports *ret, struct err *err)
{
	int r = 0;

	ret->n = 0;
	for (size_t i = 0; i < other->n_ports && r == 0; i++)
		r = add_port(ret, other->ports[i].container_port,
		             other->ports[i].udp ? "udp" : "tcp");
	if (r == 0)
		r = add_exposed_ports(ret, json_get(other->config, "ExposedPorts"));
	if (r == 0)
		r = add_exposed_ports(ret, json_get(other->image_config, "ExposedPorts"));
	if (r < 0)
		return err_text(err, r,
		                "cannot link to container %s: it exposes more than %d ports, which "
		                "are too many for variables",
		                other->name, PORTS_MAX);
	qsort(ret->items, ret->n, sizeof(ret->items[0]), compare_ports);
	return 0;
}

static int set(struct json_object *env, const char *prefix, const char *name, const char *value)
{
	_cleanup_free_ char *whole = NULL;

	if (asprintf(&whole, "%s_%s", prefix, name) < 0) {
		whole = NULL;
		return -ENOMEM;
	}
	if (json_object_object_get_ex(env, whole, NULL))
		return 0;
	return json_add_string(env, whole, value);
}

static int set_port(struct json_object *env, const char *prefix, const char *address,
                    const struct exposed_port *port, bool first)
{
	char name[32], field[48], protocol[8], number[8], url[64];
	size_t i = 0;

	for (; port->protocol[i]; i++)
		protocol[i] = (char)toupper((unsigned char)port->protocol[i]);
	protocol[i] = '\0';
	snprintf(name, sizeof(name), "PORT_%u_%s", port->number, protocol);
	snprintf(number, sizeof(number), "%u", port->number);
	snprintf(url, sizeof(url), "%s://%s:%s", port->protocol, address, number);

	if ((first && set(env, prefix, "PORT", url) < 0) || set(env, prefix, name, url) < 0)
		return -ENOMEM;
	snprintf(field, sizeof(field), "%s_ADDR", name);
	if (set(env, prefix, field, address) < 0)
		return -ENOMEM;
	snprintf(field, sizeof(field), "%s_PORT", name);
	if (set(env, prefix, field, number) < 0)
		return -ENOMEM;
	snprintf(field, sizeof(field), "%s_PROTO", name);
	return set(env, prefix, field, port->protocol);
}

static int set_variable(struct json_object *env, const char *prefix, const char *name,
                        const char *value)
{
	_cleanup_free_ char *field = NULL;

	if (strcmp(name, "HOME") == 0 || strcmp(name, "PATH") == 0)
		return 0;
	if (asprintf(&field, "ENV_%s", name) < 0) {
		field = NULL;
		return -ENOMEM;
	}
	return set(env, prefix, field, value);
}

/* Of its definition first: what the image says under the same name does not count then. */
static int set_environment(struct json_object *env, const char *prefix,
                           const struct container *other)
{
	struct json_object *own = json_get(other->document, "environment");
	struct json_object *image = json_get(other->image_config, "Env");
	size_t n =
		json_object_is_type(image, json_type_array) ? json_object_array_length(image) : 0;

	if (json_object_is_type(own, json_type_object)) {
		json_object_object_foreach (own, name, value) {
			if (set_variable(env, prefix, name, json_object_get_string(value)) < 0)
				return -ENOMEM;
		}
	}
	for (size_t i = n; i > 0; i--) { /* of two that are the same the last one counts */
		const char *entry = json_object_get_string(json_object_array_get_idx(image, i - 1));
		const char *equals = entry ? strchr(entry, '=') : NULL;
		_cleanup_free_ char *name = NULL;

		if (!equals || equals == entry)
			continue;
		name = strndup(entry, (size_t)(equals - entry));
		if (!name || set_variable(env, prefix, name, equals + 1) < 0)
			return -ENOMEM;
	}
	return 0;
}

static int set_name(struct json_object *env, const char *prefix, const struct task *task,
                    const struct container *c, const struct link *link)
{
	char name[TASK_RUNTIME_NAME_SIZE];
	_cleanup_free_ char *value = NULL;

	container_runtime_name(task, c, name, sizeof(name));
	if (asprintf(&value, "/%s/%s", name, link->alias) < 0) {
		value = NULL;
		return -ENOMEM;
	}
	return set(env, prefix, "NAME", value);
}

static int add_variables(const struct task *task, const struct container *c,
                         const struct link *link, struct json_object *env, struct err *err)
{
	const struct container *other;
	struct exposed_ports ports;
	char prefix[ALIAS_MAX + 1];
	int r;

	r = find_linked(task, link, &other, err);
	if (r == 0)
		r = find_ports(other, &ports, err);
	if (r < 0)
		return r;
	for (size_t i = 0; i <= strlen(link->alias); i++)
		prefix[i] =
			link->alias[i] == '-' ? '_' : (char)toupper((unsigned char)link->alias[i]);
	for (size_t i = 0; i < ports.n && r == 0; i++)
		r = set_port(env, prefix, other->address, &ports.items[i], i == 0);
	if (r == 0)
		r = set_name(env, prefix, task, c, link);
	if (r == 0)
		r = set_environment(env, prefix, other);
	return r < 0 ? err_oom(err) : 0;
}

int links_add_environment(const struct task *task, const struct container *c,
                          struct json_object *env, struct err *err)
{
	int r = 0;

	for (size_t i = 0; i < c->n_links && r == 0; i++)
		r = add_variables(task, c, &c->links[i], env, err);
	return r;
}
