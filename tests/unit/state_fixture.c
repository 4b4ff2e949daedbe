/* A state store in a temporary place. */
#include "tests/unit/state_fixture.h"

#include <fcntl.h>
#include <string.h>

#include "lib/fd.h"

char state_dir[] = "/tmp/test-state-XXXXXX";

int make_dir(void **unused)
{
	(void)unused;
	strcpy(state_dir, "/tmp/test-state-XXXXXX");
	return mkdtemp(state_dir) ? 0 : -1;
}

int remove_dir(void **unused)
{
	(void)unused;
	return dir_remove_all(AT_FDCWD, state_dir);
}

struct state *open_state(void)
{
	struct state *state = NULL;
	struct err err = {0};

	if (state_open(state_dir, NULL, &state, &err) < 0)
		fail_msg("%s", err.text);
	return state;
}

void put_task(struct state *state, const char *arn, uint64_t sequence)
{
	struct state_task task = {.arn = arn,
	                          .document = "{}",
	                          .desired = "RUNNING",
	                          .known = "NONE",
	                          .sent = "NONE",
	                          .sequence = sequence};

	assert_int_equal(state_put_task(state, &task), 0);
}

int see_task(const struct state_task *task, void *userdata)
{
	struct seen *seen = userdata;

	strcpy(seen->arns[seen->n++], task->arn);
	return 0;
}

int see_container(const struct state_container *container, void *userdata)
{
	struct seen *seen = userdata;

	seen->container = *container;
	strcpy(seen->reason, container->reason ? container->reason : "(null)");
	seen->n++;
	return 0;
}

int see_event(uint64_t id, const char *arn, const char *body, void *userdata)
{
	struct seen *seen = userdata;

	strcpy(seen->arns[seen->n], arn);
	strcpy(seen->bodies[seen->n], body);
	seen->ids[seen->n++] = id;
	return 0;
}
