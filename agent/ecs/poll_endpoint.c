/* One cached answer, one call at a time, and everyone who waits answered from a source of his own.
 */
#include "agent/ecs/poll_endpoint.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "lib/json.h"
#include "lib/loop.h"

#define ANSWER_IS_GOOD_USEC (12 * 3600 * 1000000ULL)
#define CALL_TIMEOUT_USEC   (126 * 1000000ULL)

struct poll_endpoint {
	struct ecs_client *client;
	sd_event *loop;
	char *cluster;
	char *container_instance_arn;
	char *acs_url;
	char *telemetry_url;
	uint64_t good_until_usec;
	struct ecs_call *call;
	sd_event_source *timeout;
	struct poll_endpoint_get *waiting;
};

struct poll_endpoint_get {
	struct poll_endpoint *endpoint; /* NULL once that is freed */
	struct poll_endpoint_get *next;
	poll_endpoint_fn done;
	void *userdata;
	sd_event_source *answer;
	bool is_answered;
	int r;
	struct err err;
};

int poll_endpoint_new(struct ecs_client *client, sd_event *loop, const char *cluster,
                      const char *container_instance_arn, struct poll_endpoint **ret)
{
	_cleanup_(poll_endpoint_freep) struct poll_endpoint *endpoint =
		calloc(1, sizeof(*endpoint));

	if (!endpoint)
		return -ENOMEM;
	endpoint->client = client;
	endpoint->loop = sd_event_ref(loop);
	endpoint->cluster = strdup(cluster);
	endpoint->container_instance_arn = strdup(container_instance_arn);
	if (!endpoint->cluster || !endpoint->container_instance_arn)
		return -ENOMEM;
	*ret = TAKE_PTR(endpoint);
	return 0;
}

struct poll_endpoint *poll_endpoint_free(struct poll_endpoint *endpoint)
{
	if (!endpoint)
		return NULL;
	for (struct poll_endpoint_get *get = endpoint->waiting; get; get = get->next) {
		get->answer = sd_event_source_disable_unref(get->answer);
		get->endpoint = NULL;
	}
	ecs_call_free(endpoint->call);
	sd_event_source_disable_unref(endpoint->timeout);
	free(endpoint->cluster);
	free(endpoint->container_instance_arn);
	free(endpoint->acs_url);
	free(endpoint->telemetry_url);
	sd_event_unref(endpoint->loop);
	free(endpoint);
	return NULL;
}

static int on_answer(sd_event_source *source, void *userdata)
{
	struct poll_endpoint_get *get = userdata;
	const struct poll_endpoint *endpoint = get->endpoint;

	(void)source;
	get->done(get->r, &get->err, get->r == 0 ? endpoint->acs_url : NULL,
	          get->r == 0 ? endpoint->telemetry_url : NULL, get->userdata);
	return 0;
}

static void answer(struct poll_endpoint_get *get, int r, const struct err *err)
{
	get->is_answered = true;
	get->r = r;
	get->err = *err;
	(void)sd_event_source_set_enabled(get->answer, SD_EVENT_ONESHOT);
}

static void end_call(struct poll_endpoint *endpoint, int r, const struct err *err)
{
	endpoint->call = ecs_call_free(endpoint->call);
	endpoint->timeout = sd_event_source_disable_unref(endpoint->timeout);
	if (r < 0 && endpoint->acs_url)
		r = 0; /* an old answer is better than none */
	for (struct poll_endpoint_get *get = endpoint->waiting; get; get = get->next)
		if (!get->is_answered)
			answer(get, r, err);
}

static int take_answer(struct poll_endpoint *endpoint, struct err *err)
{
	struct json_object *result = ecs_call_result(endpoint->call);
	_cleanup_free_ char *acs_url = NULL, *telemetry_url = NULL;
	const char *text;
	int r;

	r = json_get_string(result, "endpoint", &text, err);
	if (r < 0)
		return err_prefix(err, -EBADMSG, "answer to DiscoverPollEndpoint");
	acs_url = strdup(text);
	text = json_text(result, "telemetryEndpoint");
	telemetry_url = text ? strdup(text) : NULL;
	if (!acs_url || (text && !telemetry_url))
		return err_oom(err);
	free(endpoint->acs_url);
	free(endpoint->telemetry_url);
	endpoint->acs_url = TAKE_PTR(acs_url);
	endpoint->telemetry_url = TAKE_PTR(telemetry_url);
	endpoint->good_until_usec = now_usec() + ANSWER_IS_GOOD_USEC;
	return 0;
}

static void discover_done(int r, const struct err *call_err, void *userdata)
{
	struct poll_endpoint *endpoint = userdata;
	struct err err = *call_err;

	if (r == 0)
		r = take_answer(endpoint, &err);
	end_call(endpoint, r, &err);
}

static int on_timeout(sd_event_source *source, uint64_t usec, void *userdata)
{
	struct err err = {0};

	(void)source;
	(void)usec;
	err_text(&err, 0, "DiscoverPollEndpoint takes too long");
	end_call(userdata, -ETIMEDOUT, &err);
	return 0;
}

static int discover(struct poll_endpoint *endpoint, struct err *err)
{
	_cleanup_json_ struct json_object *body = json_object_new_object();
	int r;

	if (!body || json_add_string(body, "cluster", endpoint->cluster) < 0 ||
	    json_add_string(body, "containerInstance", endpoint->container_instance_arn) < 0 ||
	    json_add_string(body, "zoneId", "") < 0)
		return err_oom(err);
	r = loop_add_timer(endpoint->loop, CALL_TIMEOUT_USEC, 1000000, on_timeout, endpoint,
	                   &endpoint->timeout);
	if (r < 0)
		return err_set(err, r, "call DiscoverPollEndpoint");
	return ecs_call_start(endpoint->client, "DiscoverPollEndpoint", body, discover_done,
	                      endpoint, &endpoint->call, err);
}

int poll_endpoint_get_start(struct poll_endpoint *endpoint, poll_endpoint_fn done, void *userdata,
                            struct poll_endpoint_get **ret, struct err *err)
{
	struct poll_endpoint_get *get = calloc(1, sizeof(*get));
	struct err discover_err = {0};
	int r;

	if (!get)
		return err_oom(err);
	get->done = done;
	get->userdata = userdata;
	r = sd_event_add_defer(endpoint->loop, &get->answer, on_answer, get);
	if (r < 0) {
		free(get);
		return err_set(err, r, "get the endpoint of ACS");
	}
	(void)sd_event_source_set_enabled(get->answer, SD_EVENT_OFF);
	get->endpoint = endpoint;
	get->next = endpoint->waiting;
	endpoint->waiting = get;
	*ret = get;

	if (endpoint->acs_url && now_usec() < endpoint->good_until_usec) {
		answer(get, 0, &discover_err);
	} else if (!endpoint->call) {
		r = discover(endpoint, &discover_err);
		if (r < 0)
			end_call(endpoint, r, &discover_err);
	}
	return 0;
}

struct poll_endpoint_get *poll_endpoint_get_free(struct poll_endpoint_get *get)
{
	if (!get)
		return NULL;
	if (get->endpoint) {
		struct poll_endpoint_get **link = &get->endpoint->waiting;

		while (*link != get)
			link = &(*link)->next;
		*link = get->next;
	}
	sd_event_source_disable_unref(get->answer);
	free(get);
	return NULL;
}
