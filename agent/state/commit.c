/*
 * Transactions, and whom they are told to. With a loop, a thread runs them: the disk may take its
 * time, and the loop goes on meanwhile. What is queued then is the next transaction. Callbacks are
 * called a few at a time, since hundreds may wait for one transaction.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "agent/state/state_internal.h"
#include "lib/log.h"
#include "lib/loop.h"

#define RETRY_MIN_USEC (1000 * 1000ull)
#define RETRY_MAX_USEC (30 * 1000 * 1000ull)
#define CALLS_USEC     (5 * 1000ull) /* of one turn */

void state_arm(struct state *state)
{
	if (state->turn_end)
		(void)sd_event_source_set_enabled(state->turn_end, SD_EVENT_ONESHOT);
}

static bool is_durable(const struct state *state)
{
	return state->n_changes == 0 && state->n_batch == 0;
}

static bool is_busy(const struct state *state)
{
	return state->thread && commit_thread_is_busy(state->thread);
}

void state_wait_for_thread(struct state *state)
{
	if (is_busy(state))
		commit_thread_wait(state->thread);
}

/* Who waits. */

int state_after_commit(struct state *state, void (*fn)(void *userdata), void *userdata)
{
	if (state->n_waiters == state->waiters_allocated) {
		size_t n = state->waiters_allocated ? 2 * state->waiters_allocated : 16;
		void *p = reallocarray(state->waiters, n, sizeof(*state->waiters));

		if (!p)
			return -ENOMEM;
		state->waiters = p;
		state->waiters_allocated = n;
	}
	state->waiters[state->n_waiters++] = (struct state_waiter){fn, userdata};
	state_arm(state);
	return 0;
}

void state_forget(struct state *state, void *userdata)
{
	for (size_t i = 0; i < state->n_waiters; i++)
		if (state->waiters[i].userdata == userdata)
			state->waiters[i].fn = NULL;
}

static size_t less(size_t a, size_t b)
{
	return a > b ? a - b : 0;
}

/* At least one of those that are ready, and more until the time is over. */
static void call_ready(struct state *state, uint64_t end_usec)
{
	size_t n = 0;

	if (state->calling)
		return;
	state->calling = true;
	/* A callee may add others, which are not ready, or forget some. */
	while (n < state->n_ready && (n == 0 || now_usec() < end_usec)) {
		struct state_waiter waiter = state->waiters[n];

		state->waiters[n++].fn = NULL;
		if (waiter.fn)
			waiter.fn(waiter.userdata);
	}
	state->calling = false;
	if (n == 0)
		return;
	memmove(state->waiters, state->waiters + n,
	        (state->n_waiters - n) * sizeof(*state->waiters));
	state->n_waiters -= n;
	state->n_ready = less(state->n_ready, n);
	state->n_batch_waiters = less(state->n_batch_waiters, n);
}

/* Transactions. */

static int run_change(struct state *state, const struct state_change *change, struct err *err)
{
	sqlite3_stmt *stmt = state->statements[change->statement];
	int r = SQLITE_OK;

	for (size_t i = 0; i < change->n_values && r == SQLITE_OK; i++) {
		const struct state_value *value = &change->values[i];
		int column = (int)i + 1;

		if (value->type == VALUE_NULL)
			r = sqlite3_bind_null(stmt, column);
		else if (value->type == VALUE_INTEGER)
			r = sqlite3_bind_int64(stmt, column, value->integer);
		else
			r = sqlite3_bind_text(stmt, column, value->text, -1, SQLITE_STATIC);
	}
	if (r == SQLITE_OK)
		r = sqlite3_step(stmt);
	if (r == SQLITE_DONE)
		r = SQLITE_OK;
	if (r != SQLITE_OK)
		r = state_error(state->db, r, "write the state database", err);
	(void)sqlite3_reset(stmt);
	(void)sqlite3_clear_bindings(stmt);
	return r;
}

/* In the thread, if there is one: touches the database and the batch alone. */
static int run_transaction(void *userdata)
{
	struct state *state = userdata;
	uint64_t began_usec = now_usec();
	struct err *err = &state->batch_err;
	int r;

	r = sqlite3_exec(state->db, "BEGIN IMMEDIATE", NULL, NULL, NULL);
	if (r != SQLITE_OK)
		return state_error(state->db, r, "begin a transaction", err);

	for (size_t i = 0; i < state->n_batch; i++) {
		r = run_change(state, state->batch[i], err);
		if (r < 0)
			goto rollback;
	}
	r = sqlite3_exec(state->db, "COMMIT", NULL, NULL, NULL);
	state->batch_usec = now_usec() - began_usec;
	if (r == SQLITE_OK)
		return 0;
	r = state_error(state->db, r, "commit the state database", err);

rollback:
	(void)sqlite3_exec(state->db, "ROLLBACK", NULL, NULL, NULL);
	return r;
}

/* All that is queued, and the queue begins anew; but one that has failed comes first. */
static void take_batch(struct state *state)
{
	if (state->n_batch > 0)
		return;
	state->batch = state->changes;
	state->n_batch = state->n_changes;
	state->n_batch_waiters = state->n_waiters;
	state->changes = NULL;
	state->n_changes = state->changes_allocated = 0;
}

static int on_retry(sd_event_source *source, uint64_t usec, void *userdata)
{
	struct state *state = userdata;

	(void)source;
	(void)usec;
	state->retry = sd_event_source_disable_unref(state->retry);
	state_arm(state);
	return 0;
}

static void retry_later(struct state *state, const struct err *err)
{
	if (state->retry_usec == 0)
		log_err(NULL, 0, "state is not durable, so nothing new is acknowledged: %s",
		        err->text);
	state->retry_usec = state->retry_usec == 0 ? RETRY_MIN_USEC : 2 * state->retry_usec;
	if (state->retry_usec > RETRY_MAX_USEC)
		state->retry_usec = RETRY_MAX_USEC;
	state->retry = sd_event_source_disable_unref(state->retry);
	if (state->loop)
		(void)loop_add_timer(state->loop, state->retry_usec, state->retry_usec / 10,
		                     on_retry, state, &state->retry);
}

static void batch_succeeded(struct state *state)
{
	for (size_t i = 0; i < state->n_batch; i++)
		state_change_free(state->batch[i]);
	free(state->batch);
	state->batch = NULL;
	state->n_batch = 0;
	state->n_ready = state->n_batch_waiters;
	state->n_batch_waiters = 0;
	if (state->retry_usec > 0)
		log_info(NULL, "state is durable again");
	state->retry_usec = 0;
	state->retry = sd_event_source_disable_unref(state->retry);
	state_reserve_tell(state);
	if (state->batch_usec > state->commit_max_usec) {
		state->commit_max_usec = state->batch_usec;
		log_debug(NULL, "slowest commit of state so far: %" PRIu64 " us",
		          state->batch_usec);
	}
}

static void batch_failed(struct state *state, int r)
{
	/* The next start sets a damaged database aside. */
	if (r == -EBADMSG && state->loop)
		(void)sd_event_exit(state->loop, EXIT_FAILURE);
	retry_later(state, &state->batch_err);
}

static void batch_done(struct state *state, int r)
{
	if (r < 0)
		batch_failed(state, r);
	else
		batch_succeeded(state);
}

/* From the loop. */

static void on_thread_done(int r, void *userdata)
{
	struct state *state = userdata;

	batch_done(state, r);
	call_ready(state, now_usec() + CALLS_USEC);
	if (state->n_waiters > 0 || !is_durable(state))
		state_arm(state);
}

static int on_turn_end(sd_event_source *source, void *userdata)
{
	struct state *state = userdata;

	(void)source;
	if (!is_durable(state) && !state->retry && !is_busy(state)) {
		take_batch(state);
		commit_thread_start(state->thread);
	}
	if (is_durable(state))
		state->n_ready = state->n_waiters; /* there is nothing that is not durable */
	call_ready(state, now_usec() + CALLS_USEC);
	if (state->n_ready > 0)
		state_arm(state);
	return 0;
}

int state_commit_from(struct state *state, sd_event *loop, struct err *err)
{
	const struct commit_thread_calls calls = {
		.work = run_transaction, .done = on_thread_done, .userdata = state};
	int r;

	state->loop = sd_event_ref(loop);
	r = sd_event_add_defer(loop, &state->turn_end, on_turn_end, state);
	if (r < 0)
		return err_set(err, r, "add the commit to the event loop");
	(void)sd_event_source_set_description(state->turn_end, "state-commit");
	(void)sd_event_source_set_enabled(state->turn_end, SD_EVENT_OFF);
	return commit_thread_new(loop, &calls, &state->thread, err);
}

/* Here and now. */

int state_commit(struct state *state, struct err *err)
{
	int r;

	if (state->thread)
		commit_thread_finish(state->thread);
	while (!is_durable(state)) {
		take_batch(state);
		r = run_transaction(state);
		batch_done(state, r);
		if (r < 0) {
			if (err)
				*err = state->batch_err;
			return r;
		}
	}
	state->n_ready = state->n_waiters;
	call_ready(state, UINT64_MAX);
	if (state->n_waiters > 0 || !is_durable(state))
		state_arm(state);
	return 0;
}
