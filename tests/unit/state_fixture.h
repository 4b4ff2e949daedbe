/* A state store in a temporary place, and what is read back from it. */
#pragma once

#include "tests/unit/cmocka_prelude.h"

#include "agent/state/state.h"

#define ARN "arn:aws:ecs:us-west-2:111122223333:task/blue/aa"

/* Of the test that runs: setup and teardown of each. */
extern char state_dir[];
int make_dir(void **unused);
int remove_dir(void **unused);

/* A failure fails the test. */
struct state *open_state(void);
/* A task that is to run and is known to do nothing yet. */
void put_task(struct state *state, const char *arn, uint64_t sequence);

/* For the functions that read: userdata is a struct seen, which takes what they are told. */
struct seen {
	char arns[8][64];
	char bodies[8][64];
	uint64_t ids[8];
	struct state_container container;
	char reason[64];
	size_t n;
};

int see_task(const struct state_task *task, void *userdata);
int see_container(const struct state_container *container, void *userdata);
int see_event(uint64_t id, const char *arn, const char *body, void *userdata);

#define TEST(f) cmocka_unit_test_setup_teardown(f, make_dir, remove_dir)
