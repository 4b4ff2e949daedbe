/* The world as a whole: the engine's life in it, what ACS is told and tells, waiting and looking.
 */
#include "tests/unit/engine_world_internal.h"

#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent/state/state_internal.h"
#include "lib/fd.h"
#include "lib/json.h"
#include "lib/log.h"
#include "lib/loop.h"

/* --- the journal --- */

void world_note(struct world *world, const char *fmt, ...)
{
	size_t n = strlen(world->journal);
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(world->journal + n, sizeof(world->journal) - n, fmt, ap);
	va_end(ap);
	n = strlen(world->journal);
	assert_true(n + 2 < sizeof(world->journal));
	strcpy(world->journal + n, " ");
}

unsigned int world_count(const struct world *world, const char *word)
{
	size_t len = strlen(word);
	unsigned int n = 0;

	for (const char *p = world->journal; (p = strstr(p, word)); p += len)
		if ((p == world->journal || p[-1] == ' ') && p[len] == ' ')
			n++;
	return n;
}

static const char *find_word(const struct world *world, const char *word)
{
	size_t len = strlen(word);

	for (const char *p = world->journal; (p = strstr(p, word)); p += len)
		if ((p == world->journal || p[-1] == ' ') && p[len] == ' ')
			return p;
	fail_msg("no '%s' in: %s", word, world->journal);
	return NULL;
}

bool world_is_before(const struct world *world, const char *first, const char *second)
{
	return find_word(world, first) < find_word(world, second);
}

/* --- what the engine says to ACS --- */

static struct world *the_world;

int acs_ack(struct acs_session *session, const char *cluster, const char *container_instance,
            const char *message_id)
{
	(void)session;
	(void)cluster;
	(void)container_instance;
	world_note(the_world, "ack:%s", message_id);
	return 0;
}

int acs_credentials_ack(struct acs_session *session, const char *message_id, const char *expiration,
                        const char *credentials_id)
{
	(void)session;
	(void)message_id;
	(void)expiration;
	world_note(the_world, "credentials-ack:%s", credentials_id);
	return 0;
}

int acs_stop_candidates(struct acs_session *session, const char *message_id,
                        const struct acs_task_identifier *candidates, size_t n)
{
	(void)session;
	(void)message_id;
	for (size_t i = 0; i < n; i++)
		world_note(the_world, "candidate:%s", strrchr(candidates[i].task_arn, '/') + 1);
	return 0;
}

/* --- waiting and looking --- */

void world_turn(struct world *world, uint64_t usec)
{
	int r = sd_event_run(world->loop, usec);

	assert_true(r >= 0);
}

void world_wait_word(struct world *world, const char *word, unsigned int n)
{
	uint64_t end = now_usec() + DEADLINE_USEC;

	while (world_count(world, word) < n) {
		if (now_usec() > end)
			fail_msg("no '%s' (%u times) in: %s", word, n, world->journal);
		world_turn(world, 10 * 1000);
	}
}

const struct task *world_find(struct world *world, const char *id)
{
	for (size_t i = 0; i < engine_task_count(world->engine); i++)
		if (strcmp(engine_task(world->engine, i)->id, id) == 0)
			return engine_task(world->engine, i);
	return NULL;
}

void world_wait_known(struct world *world, const char *id, enum task_status status)
{
	uint64_t end = now_usec() + DEADLINE_USEC;
	const struct task *task;

	for (;;) {
		task = world_find(world, id);
		if (status == TASK_STATUS_NONE ? !task : task && task->known == status)
			return;
		if (now_usec() > end)
			fail_msg("task %s is %s, not %s; journal: %s", id,
			         task ? task_status_to_string(task->known) : "gone",
			         task_status_to_string(status), world->journal);
		world_turn(world, 10 * 1000);
	}
}

void world_settle(struct world *world)
{
	int quiet = 0;

	/* A turn without an event, three times over, since a peer may be one accept behind. A
	 * commit that the disk has not ended yet is one to come. */
	while (quiet < 3) {
		int r;

		if (world->state)
			state_wait_for_thread(world->state);
		r = sd_event_run(world->loop, 1000);
		assert_true(r >= 0);
		quiet = r == 0 ? quiet + 1 : 0;
	}
}

/* --- the engine --- */

static void on_rebuilt(int r, const struct err *err, void *userdata)
{
	struct world *world = userdata;

	if (r < 0)
		fail_msg("%s", err->text);
	world_note(world, "rebuilt:%zu", rebuild_count(world->private->rebuild));
	world->private->rebuild = rebuild_free(world->private->rebuild);
}

static void rebuild(struct world *world)
{
	const struct rebuild_options options = {
		.loop = world->loop,
		.state = world->state,
		.runtime_dir = world->dir,
		.cluster = "blue",
		.instance_id = world->instance_id,
	};
	struct err err = {0};

	if (rebuild_start(&options, on_rebuilt, world, &world->private->rebuild, &err) < 0)
		fail_msg("%s", err.text);
	while (world->private->rebuild)
		world_turn(world, DEADLINE_USEC);
}

void world_start_engine(struct world *world)
{
	struct engine_options options = {
		.loop = world->loop,
		.config = &world->config,
		.runtime_dir = world->dir,
		.images_dir = world->images_dir,
		.state_dir = world->state_dir,
		.boot_id = world->boot_id,
		.region = "us-west-2",
		.availability_zone = "us-west-2a",
	};
	struct err err = {0};
	bool is_needed = false;
	char path[128];

	if (!world->state) {
		snprintf(path, sizeof(path), "%s/data", world->dir);
		if (state_open(path, world->loop, &world->state, &err) < 0)
			fail_msg("%s", err.text);
	}
	options.state = world->state;
	if (rebuild_is_needed(world->state, &is_needed, &err) < 0)
		fail_msg("%s", err.text);
	if (is_needed)
		rebuild(world);
	if (engine_new(&options, &world->engine, &err) < 0 ||
	    engine_recover(world->engine, &err) < 0)
		fail_msg("%s", err.text);
	/* Any pointer will do: the session's functions are above. */
	engine_set_session(world->engine, (struct acs_session *)(uintptr_t)world);
}

void world_stop_engine(struct world *world)
{
	world->engine = engine_free(world->engine);
	world->state = state_close(world->state);
	world_settle(world);
}

void world_lose_state(struct world *world)
{
	char path[128];

	snprintf(path, sizeof(path), "%s/data/agent.db", world->dir);
	assert_int_equal(truncate(path, 0), 0);
	snprintf(path, sizeof(path), "%s/data/agent.db-wal", world->dir);
	(void)unlink(path);
}

void world_restart_host(struct world *world, const char *boot_id)
{
	struct world_private *p = world->private;
	char path[128];

	for (size_t i = 0; i < p->n_tasks; i++)
		if (p->tasks[i]->listening)
			world_kill_supervisor(world, p->tasks[i]->id);
	snprintf(path, sizeof(path), "%s/tasks", world->dir);
	assert_int_equal(dir_remove_all(AT_FDCWD, path), 0);
	world->boot_id = boot_id;
}

/* --- setting up --- */

static int listen_at(struct world *world, const char *name, sd_event_io_handler_t fn,
                     sd_event_source **ret)
{
	struct err err = {0};
	char path[256];
	int fd;

	snprintf(path, sizeof(path), "%s/%s", world->dir, name);
	fd = ipc_listen(path, 0600, (gid_t)-1, &err);
	if (fd < 0)
		fail_msg("%s", err.text);
	assert_int_equal(sd_event_add_io(world->loop, ret, fd, EPOLLIN, fn, world), 0);
	return fd;
}

static void set_config(struct config *config)
{
	const uint64_t minute = 60 * 1000 * 1000ull;

	*config = (struct config){
		.cluster = (char *)"blue",
		.region = (char *)"us-west-2",
		.task_iam_role = true,
		.task_cleanup_wait_usec = 180 * minute,
		.container_stop_timeout_usec = minute / 2,
		.container_start_timeout_usec = 3 * minute,
		.container_create_timeout_usec = 4 * minute,
		.cgroup_cpu_period_usec = 100000,
		.manifest_pull_timeout_usec = minute,
		.image_pull_inactivity_timeout_usec = minute,
		.image_pull_timeout_usec = 120 * minute,
		.image_cleanup_interval_usec = 30 * minute,
		.image_cleanup_age_usec = 60 * minute,
		.image_cleanup_count = 5,
		.untracked_image_cleanup_age_usec = 60 * minute,
		.dynamic_port_first = 32768,
		.dynamic_port_last = 60999,
		.metadata_rate = 40,
		.metadata_burst = 60,
	};
}

int world_setup(void **state)
{
	struct world *world = calloc(1, sizeof(*world));
	char path[128];

	(void)log_set_level(getenv("ECS_TEST_LOG") ? getenv("ECS_TEST_LOG") : "crit");
	assert_non_null(world);
	the_world = world;
	world->private = calloc(1, sizeof(*world->private));
	assert_non_null(world->private);
	world->private->next_port = 32767;
	strcpy(world->dir, "/tmp/test-engine-XXXXXX");
	assert_non_null(mkdtemp(world->dir));
	snprintf(path, sizeof(path), "%s/data", world->dir);
	assert_int_equal(mkdir(path, 0700), 0);
	snprintf(world->state_dir, sizeof(world->state_dir), "%s/state", world->dir);
	assert_int_equal(mkdir(world->state_dir, 0700), 0);
	world->boot_id = "boot-1";
	snprintf(path, sizeof(path), "%s/metadata", world->dir);
	assert_int_equal(mkdir(path, 0700), 0);
	set_config(&world->config);
	assert_int_equal(sd_event_new(&world->loop), 0);
	world->private->launcher_fd =
		listen_at(world, "launcher.sock", on_launcher_accept, &world->private->launcher);
	world->private->metadata_fd = listen_at(world, "metadata/control.sock", on_metadata_accept,
	                                        &world->private->metadata);
	world_start_engine(world);
	/* What the node's registration writes. */
	assert_int_equal(state_set(world->state, "cluster", "blue"), 0);
	assert_int_equal(state_set(world->state, "container-instance-arn", WORLD_INSTANCE), 0);
	assert_int_equal(state_set(world->state, "ec2-instance-id", "i-1"), 0);
	*state = world;
	return 0;
}

int world_teardown(void **state)
{
	struct world *world = *state;
	struct world_private *p = world->private;

	engine_free(world->engine);
	state_close(world->state);
	for (size_t i = 0; i < p->n_peers; i++) {
		peer_gone(p->peers[i]);
		free(p->peers[i]);
	}
	for (size_t i = 0; i < p->n_tasks; i++) {
		fake_task_stop_listening(p->tasks[i]);
		json_object_put(p->tasks[i]->record);
		free(p->tasks[i]);
	}
	sd_event_source_disable_unref(p->launcher);
	sd_event_source_disable_unref(p->metadata);
	close(p->launcher_fd);
	close(p->metadata_fd);
	sd_event_unref(world->loop);
	(void)dir_remove_all(AT_FDCWD, world->dir);
	json_object_put(p->metadata_served);
	free(p);
	free(world);
	return 0;
}

/* --- payloads --- */

const char *world_container(const char *name, const char *more)
{
	static char text[8][1024];
	static unsigned int next;
	char *t = text[next++ % 8];

	snprintf(t, sizeof(text[0]),
	         "{\"name\":\"%s\",\"image\":\"registry/%s:1\",\"cpu\":10,\"memory\":16,"
	         "\"essential\":true,\"dockerConfig\":{\"config\":\"{}\","
	         "\"hostConfig\":\"{\\\"NetworkMode\\\":\\\"bridge\\\"}\"}%s}",
	         name, name, more ? more : "");
	return t;
}

const char *world_task(const char *id, const char *containers, const char *more)
{
	static char text[8][4096];
	static unsigned int next;
	char *t = text[next++ % 8];

	snprintf(t, sizeof(text[0]),
	         "{\"arn\":\"" WORLD_ARN "%s\",\"desiredStatus\":\"RUNNING\",\"family\":\"web\","
	         "\"version\":\"3\",\"networkMode\":\"bridge\",\"containers\":[%s]%s}",
	         id, containers, more ? more : "");
	return t;
}

void world_payload(struct world *world, const char *message_id, int64_t seq_num, const char *tasks)
{
	struct json_object *message = NULL;
	struct acs_payload payload;
	struct err err = {0};
	char text[20000];

	snprintf(
		text, sizeof(text),
		"{\"messageId\":\"%s\",\"clusterArn\":\"arn:c\",\"containerInstanceArn\":\"arn:i\","
		"\"tasks\":[%s]}",
		message_id, tasks);
	if (json_parse_object(text, strlen(text), sizeof(text), &message, &err) < 0)
		fail_msg("%s in %s", err.text, text);
	payload = (struct acs_payload){
		.message = message,
		.message_id = json_text(message, "messageId"),
		.cluster_arn = json_text(message, "clusterArn"),
		.container_instance_arn = json_text(message, "containerInstanceArn"),
		.seq_num = seq_num,
		.tasks = json_get(message, "tasks"),
	};
	engine_acs_handlers.payload((struct acs_session *)(uintptr_t)world, &payload,
	                            world->engine);
	json_object_put(message);
}

void world_run_one(struct world *world, const char *id)
{
	world_payload(world, "m-1", 1, world_task(id, world_container("app", NULL), NULL));
	world_wait_known(world, id, TASK_STATUS_RUNNING);
}

void world_manifest(struct world *world, const char *id, int64_t timeline, const char *running)
{
	const struct acs_task_identifier task = {
		.task_arn = running, .task_cluster_arn = "", .desired_status = "RUNNING"};
	const struct acs_manifest m = {.message_id = id,
	                               .cluster_arn = "arn:c",
	                               .container_instance_arn = "arn:i",
	                               .timeline = timeline,
	                               .tasks = &task,
	                               .n_tasks = running ? 1 : 0};

	engine_acs_handlers.manifest(NULL, &m, world->engine);
}
