/* The steps of agent/node.h in the order in which they run. */
#include "agent/node.h"

#include <errno.h>
#include <limits.h>
#include <malloc.h>
#include <stdio.h>
#include <string.h>
#include <systemd/sd-daemon.h>

#include "agent/acs/acs.h"
#include "agent/config/registry_auth.h"
#include "agent/ecs/ecs.h"
#include "agent/ecs/instance.h"
#include "agent/ecs/poll_endpoint.h"
#include "agent/ecs/registration.h"
#include "agent/engine/discard.h"
#include "agent/engine/engine.h"
#include "agent/engine/rebuild.h"
#include "agent/facts.h"
#include "agent/identity.h"
#include "agent/watchdog.h"
#include "lib/aws_credentials.h"
#include "lib/backoff.h"
#include "lib/fd.h"
#include "lib/http.h"
#include "lib/imds.h"
#include "lib/log.h"
#include "lib/loop.h"
#include "lib/options.h"

#define ID_FILE_MAX 4096
/* How long a host that was an EC2 instance when its state was written waits to be told which. */
#define IDENTITY_WAIT_USEC (5 * 60 * 1000000ull)
#define START_MAX_USEC     (15 * 60 * 1000000ull) /* until registration begins */

struct node {
	sd_event *loop;
	const struct options *options;
	const struct config *config;
	struct state *state;
	struct log_ctx log;

	struct node_facts facts;
	struct http_settings http_settings;
	struct http_client *http;
	struct imds *imds;
	struct instance_lookup *lookup;
	struct aws_credentials *credentials;
	struct registry_auth *registry_auth;
	struct ecs_client *client;
	struct registration *registration;
	struct poll_endpoint *endpoint;
	struct acs_session *session;
	char *boot_id;    /* NULL: unknown */
	char *machine_id; /* the same */
	struct backoff lookup_backoff;
	sd_event_source *lookup_again;
	struct discard *discard;
	struct watchdog *watchdog;
	uint64_t begun_usec; /* monotonic */
	struct rebuild *rebuild;
	struct engine *engine;
	char images_dir[PATH_MAX];
};

/* The loop ends, and with it the process: with code 1 it is started again. */
static void fail(struct node *node, int code, const char *what, const struct err *err)
{
	log_err(&node->log, 0, "%s: %s", what, err->text);
	(void)sd_event_exit(node->loop, code);
}

/* What only the administrator can put right ends the agent for good. */
static int start_exit_code(int r)
{
	return r == -EXDEV || r == -ERANGE ? EXIT_TERMINAL : EXIT_FAILURE;
}

/* 6. A session with ACS. */

static void on_connected(struct acs_session *session, bool connected, void *userdata)
{
	/* userdata is the engine, whose business this is not. */
	(void)session;
	(void)userdata;
	(void)sd_notify(0, connected ? "STATUS=Connected to ECS."
	                             : "STATUS=Not connected to ECS; tasks go on.");
}

static int start_session(struct node *node, const char *arn, struct err *err)
{
	static struct acs_handlers handlers;
	struct acs_options options;
	int r;

	handlers = engine_acs_handlers;
	handlers.connected = on_connected;
	r = poll_endpoint_new(node->client, node->loop, node->config->cluster, arn,
	                      &node->endpoint);
	if (r < 0)
		return err_set(err, r, "prepare DiscoverPollEndpoint");
	options = (struct acs_options){
		.loop = node->loop,
		.http = &node->http_settings,
		.credentials = node->credentials,
		.endpoint = node->endpoint,
		.region = ecs_client_region(node->client),
		.cluster = node->config->cluster,
		.container_instance_arn = arn,
		.handlers = &handlers,
		.userdata = node->engine,
		.log = &node->log,
	};
	r = acs_session_new(&options, &node->session, err);
	if (r >= 0)
		engine_set_session(node->engine, node->session);
	return r;
}

/* 5. Registration. */

static int save_registration(struct node *node, const char *arn)
{
	const struct instance *instance = instance_lookup_result(node->lookup);
	int r;

	r = state_set(node->state, "cluster", node->config->cluster);
	if (r >= 0)
		r = state_set(node->state, "container-instance-arn", arn);
	if (r >= 0)
		r = state_set(node->state, "agent-version", PACKAGE_VERSION);
	if (r >= 0 && instance->instance_id)
		r = state_set(node->state, "ec2-instance-id", instance->instance_id);
	if (r >= 0 && node->machine_id)
		r = state_set(node->state, "machine-id", node->machine_id);
	return r;
}

static void on_registered(int r, const struct err *err, void *userdata)
{
	struct node *node = userdata;
	struct err failure = {0};
	const char *arn;

	if (r < 0) {
		fail(node, registration_exit_code(node->registration), "registration", err);
		return;
	}
	arn = registration_arn(node->registration);
	log_info(&node->log, "registered as %s", arn);
	r = save_registration(node, arn);
	if (r >= 0)
		r = engine_set_instance(node->engine, arn,
		                        registration_availability_zone(node->registration));
	if (r < 0)
		(void)err_set(&failure, r, "take the registration over");
	else
		r = start_session(node, arn, &failure);
	if (r < 0) {
		fail(node, EXIT_FAILURE, "start of the session with ACS", &failure);
		return;
	}
	(void)sd_notify(0, "STATUS=Registered.");
	(void)malloc_trim(0); /* what starting took is not needed again */
}

static int start_registration(struct node *node, struct err *err)
{
	_cleanup_free_ char *arn = NULL;
	int r;

	r = state_get(node->state, "container-instance-arn", &arn, err);
	if (r < 0)
		return r;
	return registration_start(
		&(struct registration_options){
			.client = node->client,
			.loop = node->loop,
			.config = node->config,
			.instance = instance_lookup_result(node->lookup),
			.facts = node->facts,
			.container_instance_arn = arn,
		},
		on_registered, node, &node->registration, err);
}

/* 4. The engine. */

static void on_keys(struct aws_keys *keys, void *userdata)
{
	struct node *node = userdata;

	engine_set_instance_keys(node->engine, keys);
}

static int start_engine(struct node *node, struct err *err)
{
	const struct instance *instance = instance_lookup_result(node->lookup);
	const struct engine_options options = {
		.loop = node->loop,
		.state = node->state,
		.config = node->config,
		.registry_auth = node->registry_auth,
		.client = node->client,
		.runtime_dir = node->options->runtime_dir,
		.images_dir = node->images_dir,
		.state_dir = node->options->state_dir,
		.boot_id = node->boot_id,
		.region = ecs_client_region(node->client),
		.availability_zone = instance->availability_zone,
		.logs_endpoint = config_endpoint_setting(node->config, "logs"),
		.ecr_endpoint = config_endpoint_setting(node->config, "ecr"),
		.no_task_limits = !node->facts.task_cgroups,
	};
	int r;

	if (snprintf(node->images_dir, sizeof(node->images_dir), "%s/images",
	             node->options->state_dir) >= (int)sizeof(node->images_dir))
		return err_text(err, -ENAMETOOLONG, "state directory %.60s... is too long",
		                node->options->state_dir);
	r = engine_new(&options, &node->engine, err);
	if (r < 0)
		return r;
	aws_credentials_watch(node->credentials, on_keys, node);
	return engine_recover(node->engine, err);
}

/* 3. State that was lost comes back from the supervisors. */

static int check_cluster(struct node *node, struct err *err);

static void use_state(struct node *node)
{
	const struct facts_sources host = {.state_dir = node->options->state_dir};
	struct err failure = {0};
	int r;

	r = facts_find(node->config, &host, &node->facts, &failure);
	if (r < 0) {
		fail(node, r == -EOPNOTSUPP ? EXIT_TERMINAL : EXIT_FAILURE, "start", &failure);
		return;
	}
	r = check_cluster(node, &failure);
	if (r >= 0)
		r = start_engine(node, &failure);
	if (r >= 0)
		r = start_registration(node, &failure);
	if (r < 0) {
		fail(node, start_exit_code(r), "start", &failure);
		return;
	}
	/* Tasks are looked after. A service manager that waited for ECS, which may be away for
	 * hours, would hold up a boot or an upgrade, and not watch us meanwhile. */
	(void)sd_notify(0, "READY=1\nSTATUS=Registering with ECS.");
}

static void on_rebuilt(int r, const struct err *err, void *userdata)
{
	struct node *node = userdata;

	if (r < 0) {
		fail(node, EXIT_FAILURE, "state", err);
		return;
	}
	node->rebuild = rebuild_free(node->rebuild);
	use_state(node);
}

static int start_rebuild(struct node *node, struct err *err)
{
	const struct rebuild_options options = {
		.loop = node->loop,
		.state = node->state,
		.runtime_dir = node->options->runtime_dir,
		.cluster = node->config->cluster,
		.instance_id = instance_lookup_result(node->lookup)->instance_id,
		.machine_id = node->machine_id,
	};

	return rebuild_start(&options, on_rebuilt, node, &node->rebuild, err);
}

/* 2. Is the state that of this node? */

static int check_cluster(struct node *node, struct err *err)
{
	_cleanup_free_ char *saved = NULL;
	int r;

	r = state_get(node->state, "cluster", &saved, err);
	if (r < 0)
		return r;
	if (saved && strcmp(saved, node->config->cluster) != 0)
		return err_text(
			err, -EXDEV,
			"ECS_CLUSTER is '%s', and this node is registered in '%s': set it back, "
			"or remove %s/data/" STATE_DATABASE " to register it anew",
			node->config->cluster, saved, node->options->state_dir);
	return 0;
}

/* State that came with an image of another host must not be taken for this one's. */
static int compare_identity(struct node *node, enum identity_match *ret, struct err *err)
{
	const struct instance *instance = instance_lookup_result(node->lookup);
	const struct identity now = {instance->instance_id, node->machine_id};
	_cleanup_free_ char *instance_id = NULL, *machine_id = NULL, *boot_id = NULL;
	struct identity saved;
	int r;

	r = state_get(node->state, "ec2-instance-id", &instance_id, err);
	if (r >= 0)
		r = state_get(node->state, "machine-id", &machine_id, err);
	if (r >= 0)
		r = state_get(node->state, "boot-id", &boot_id, err);
	if (r < 0)
		return r;
	saved = (struct identity){instance_id, machine_id};
	*ret = identity_compare(&saved, &now);
	/* The host cannot have changed since it was started. */
	if (*ret == IDENTITY_UNSURE && boot_id && node->boot_id &&
	    strcmp(boot_id, node->boot_id) == 0)
		*ret = IDENTITY_SAME;
	if (*ret == IDENTITY_OTHER)
		log_warning(&node->log, 0,
		            "state is of %s, and this host is %s: registering as a new instance",
		            instance_id ? instance_id : "another machine",
		            now.instance_id ? now.instance_id : "a machine of its own");
	if (*ret != IDENTITY_UNSURE || now_usec() < node->begun_usec + IDENTITY_WAIT_USEC)
		return 0;

	if (!machine_id || !node->machine_id)
		return err_text(err, -ENODATA,
		                "state is of instance %s, and neither the instance metadata nor a "
		                "machine id says whether this host is it",
		                instance_id);
	log_warning(&node->log, 0,
	            "the instance metadata is silent: taken for instance %s by the machine id",
	            instance_id);
	*ret = IDENTITY_SAME;
	return 0;
}

static int make_client(struct node *node, struct err *err)
{
	const struct instance *instance = instance_lookup_result(node->lookup);
	const char *region = node->config->region ? node->config->region : instance->region;

	if (!region)
		return err_text(
			err, -ENOENT,
			"no region: set AWS_DEFAULT_REGION, since the instance metadata says none");
	return ecs_client_new(
		&(struct ecs_client_options){
			.loop = node->loop,
			.http = node->http,
			.credentials = node->credentials,
			.config = node->config,
			.region = region,
		},
		&node->client, err);
}

/* Does it get on, at whatever step it is? */
static bool is_alive(uint64_t now_usec, char *why, size_t n, void *userdata)
{
	const struct node *node = userdata;
	bool is_stuck;

	if (node->session) {
		snprintf(why, n, "the session with ACS is stuck");
		is_stuck = acs_session_is_overdue(node->session);
	} else if (node->registration) {
		snprintf(why, n, "registration is stuck");
		is_stuck = registration_is_overdue(node->registration, now_usec);
	} else {
		snprintf(why, n, "the start is stuck");
		is_stuck = now_usec > node->begun_usec + START_MAX_USEC;
	}
	return !is_stuck;
}

static int use_client(struct node *node, struct err *err)
{
	bool is_needed = false;
	int r;

	r = make_client(node, err);
	if (r >= 0)
		r = rebuild_is_needed(node->state, &is_needed, err);
	if (r < 0)
		return r;
	if (is_needed)
		return start_rebuild(node, err);
	use_state(node);
	return 0;
}

static void on_discarded(void *userdata)
{
	struct node *node = userdata;
	struct err failure = {0};
	int r;

	node->discard = discard_free(node->discard);
	r = state_reset(node->state, &failure);
	if (r >= 0)
		r = use_client(node, &failure);
	if (r < 0)
		fail(node, start_exit_code(r), "start", &failure);
}

/* 1. The instance metadata. */

static void on_instance(int r, const struct err *err, void *userdata);

static int on_lookup_again(sd_event_source *source, uint64_t usec, void *userdata)
{
	struct node *node = userdata;
	struct err failure = {0};

	(void)source;
	(void)usec;
	node->lookup_again = sd_event_source_disable_unref(node->lookup_again);
	node->lookup = instance_lookup_free(node->lookup);
	if (instance_lookup_start(node->imds, on_instance, node, &node->lookup, &failure) < 0)
		fail(node, EXIT_FAILURE, "start", &failure);
	return 0;
}

/* No task runs: it is not the boot that the state is of. */
static int look_again_later(struct node *node, struct err *err)
{
	uint64_t wait = backoff_next(&node->lookup_backoff, random_fraction());
	int r;

	log_warning(&node->log, 0,
	            "waiting for the instance metadata to say whether this is still the instance "
	            "that the state is of");
	r = loop_add_timer(node->loop, wait, wait / 10, on_lookup_again, node, &node->lookup_again);
	return r < 0 ? err_set(err, r, "wait for the instance metadata") : 0;
}

static void on_instance(int r, const struct err *err, void *userdata)
{
	enum identity_match match = IDENTITY_SAME;
	struct node *node = userdata;
	struct err failure = {0};

	if (r < 0)
		log_warning(&node->log, 0, "instance metadata: %s", err->text);
	r = compare_identity(node, &match, &failure);
	if (r >= 0 && match == IDENTITY_OTHER)
		r = discard_start(node->loop, node->options->runtime_dir, node->state, on_discarded,
		                  node, &node->discard, &failure);
	else if (r >= 0 && match == IDENTITY_UNSURE)
		r = look_again_later(node, &failure);
	else if (r >= 0)
		r = use_client(node, &failure);
	if (r < 0)
		fail(node, start_exit_code(r), "start", &failure);
}

/* Unreadable data costs the private images only, as users of the setting know it. */
static void load_registry_auth(struct node *node)
{
	const char *type = config_get(node->config, "ECS_ENGINE_AUTH_TYPE");
	const char *data = config_get(node->config, "ECS_ENGINE_AUTH_DATA");
	struct err err = {0};

	if (!type || !type[0])
		return;
	if (registry_auth_parse(type, data ? data : "", &node->registry_auth, &err) < 0)
		log_warning(&node->log, 0, "ECS_ENGINE_AUTH_DATA is not used: %s", err.text);
}

/* Owned by the caller: the first line of a small file of the system; NULL when it has none. */
static char *read_id(const char *path)
{
	char *text = NULL;

	if (file_read(AT_FDCWD, path, ID_FILE_MAX, &text, NULL) < 0)
		return NULL;
	text[strcspn(text, "\n")] = '\0';
	if (text[0])
		return text;
	free(text);
	return NULL;
}

static int make_clients(struct node *node, struct err *err)
{
	_cleanup_free_ char *agent = ecs_user_agent(node->config);
	int r;

	if (!agent)
		return err_oom(err);
	http_settings_load(node->config->file, &node->http_settings);
	r = http_client_new(node->loop, &node->http_settings, agent, &node->http, err);
	if (r >= 0)
		r = imds_new(node->loop, node->http,
		             config_get(node->config, "AWS_EC2_METADATA_SERVICE_ENDPOINT"),
		             &node->imds, err);
	if (r >= 0)
		r = aws_credentials_new(node->loop, node->config->file, node->imds,
		                        &node->credentials, err);
	return r;
}

int node_start(sd_event *loop, const struct options *options, const struct config *config,
               struct state *state, struct node **ret, struct err *err)
{
	_cleanup_(node_freep) struct node *node = calloc(1, sizeof(*node));
	int r;

	if (!node)
		return err_oom(err);
	node->loop = sd_event_ref(loop);
	node->options = options;
	node->config = config;
	node->state = state;
	node->log = (struct log_ctx){.field = "ECS_CLUSTER", .value = config->cluster};
	load_registry_auth(node);
	node->boot_id = read_id("/proc/sys/kernel/random/boot_id");
	node->machine_id = identity_read_machine_id("/etc/machine-id", "/etc");
	node->lookup_backoff = (struct backoff){
		.min_usec = 1000000, .max_usec = 30000000, .multiple = 2, .jitter = 0.2};

	node->begun_usec = now_usec();
	r = make_clients(node, err);
	if (r >= 0)
		r = watchdog_new(loop, is_alive, node, &node->watchdog, err);
	if (r >= 0)
		r = instance_lookup_start(node->imds, on_instance, node, &node->lookup, err);
	if (r < 0)
		return r;
	*ret = TAKE_PTR(node);
	return 0;
}

struct node *node_free(struct node *node)
{
	if (!node)
		return NULL;
	watchdog_free(node->watchdog);
	if (node->engine)
		engine_set_session(node->engine, NULL);
	acs_session_free(node->session);
	poll_endpoint_free(node->endpoint);
	registration_free(node->registration);
	if (node->credentials)
		aws_credentials_watch(node->credentials, NULL, NULL);
	rebuild_free(node->rebuild);
	discard_free(node->discard);
	sd_event_source_disable_unref(node->lookup_again);
	engine_free(node->engine);
	ecs_client_free(node->client);
	instance_lookup_free(node->lookup);
	aws_credentials_free(node->credentials);
	imds_free(node->imds);
	http_client_free(node->http);
	registry_auth_free(node->registry_auth);
	free(node->boot_id);
	free(node->machine_id);
	sd_event_unref(node->loop);
	free(node);
	return NULL;
}

void node_count(const struct node *node, struct engine_counts *ret)
{
	*ret = (struct engine_counts){0};
	if (node->engine)
		engine_count(node->engine, ret);
}
