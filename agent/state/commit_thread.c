/* What both threads look at is under the mutex; the loop is woken through an eventfd. */
#include "agent/state/commit_thread.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>

#include "lib/fd.h"

struct commit_thread {
	struct commit_thread_calls calls;
	bool busy; /* of the loop's thread alone: started, and done() not called yet */
	int done_fd;
	sd_event_source *source;

	pthread_t thread;
	bool is_running;
	pthread_mutex_t mutex;
	pthread_cond_t changed;
	bool asked, ending; /* under the mutex, and so is result */
	int result;
};

static void *run(void *userdata)
{
	struct commit_thread *thread = userdata;

	(void)pthread_mutex_lock(&thread->mutex);
	for (;;) {
		int r;

		while (!thread->asked && !thread->ending)
			(void)pthread_cond_wait(&thread->changed, &thread->mutex);
		if (!thread->asked)
			break;
		(void)pthread_mutex_unlock(&thread->mutex);
		r = thread->calls.work(thread->calls.userdata);
		(void)pthread_mutex_lock(&thread->mutex);
		thread->result = r;
		thread->asked = false;
		(void)pthread_cond_broadcast(&thread->changed);
		(void)eventfd_write(thread->done_fd, 1);
	}
	(void)pthread_mutex_unlock(&thread->mutex);
	return NULL;
}

/* The result of work that has ended, or is waited for. */
static int wait_for_result(struct commit_thread *thread)
{
	int r;

	(void)pthread_mutex_lock(&thread->mutex);
	while (thread->asked)
		(void)pthread_cond_wait(&thread->changed, &thread->mutex);
	r = thread->result;
	(void)pthread_mutex_unlock(&thread->mutex);
	return r;
}

void commit_thread_wait(struct commit_thread *thread)
{
	(void)wait_for_result(thread);
}

void commit_thread_finish(struct commit_thread *thread)
{
	eventfd_t count;
	int r;

	if (!thread->busy)
		return;
	r = wait_for_result(thread);
	(void)eventfd_read(thread->done_fd, &count);
	thread->busy = false;
	thread->calls.done(r, thread->calls.userdata);
}

static int on_done(sd_event_source *source, int fd, uint32_t events, void *userdata)
{
	(void)source;
	(void)fd;
	(void)events;
	commit_thread_finish(userdata);
	return 0;
}

/* Signals are the loop's. */
static int start_thread(struct commit_thread *thread)
{
	sigset_t all, before;
	int r;

	sigfillset(&all);
	r = pthread_sigmask(SIG_SETMASK, &all, &before);
	if (r != 0)
		return -r;
	r = pthread_create(&thread->thread, NULL, run, thread);
	(void)pthread_sigmask(SIG_SETMASK, &before, NULL);
	thread->is_running = r == 0;
	return -r;
}

int commit_thread_new(sd_event *loop, const struct commit_thread_calls *calls,
                      struct commit_thread **ret, struct err *err)
{
	_cleanup_(commit_thread_freep) struct commit_thread *thread = calloc(1, sizeof(*thread));
	int r;

	if (!thread)
		return err_oom(err);
	thread->calls = *calls;
	(void)pthread_mutex_init(&thread->mutex, NULL); /* glibc's cannot fail */
	(void)pthread_cond_init(&thread->changed, NULL);
	thread->done_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (thread->done_fd < 0)
		return err_set(err, -errno, "make an eventfd");
	r = sd_event_add_io(loop, &thread->source, thread->done_fd, EPOLLIN, on_done, thread);
	if (r >= 0)
		r = start_thread(thread);
	if (r < 0)
		return err_set(err, r, "start the thread that commits state");
	(void)sd_event_source_set_description(thread->source, "state-committed");
	*ret = TAKE_PTR(thread);
	return 0;
}

struct commit_thread *commit_thread_free(struct commit_thread *thread)
{
	if (!thread)
		return NULL;
	if (thread->is_running) {
		(void)pthread_mutex_lock(&thread->mutex);
		thread->ending = true;
		(void)pthread_cond_broadcast(&thread->changed);
		(void)pthread_mutex_unlock(&thread->mutex);
		(void)pthread_join(thread->thread, NULL);
	}
	sd_event_source_disable_unref(thread->source);
	(void)fd_close(thread->done_fd);
	(void)pthread_cond_destroy(&thread->changed);
	(void)pthread_mutex_destroy(&thread->mutex);
	free(thread);
	return NULL;
}

void commit_thread_start(struct commit_thread *thread)
{
	thread->busy = true;
	(void)pthread_mutex_lock(&thread->mutex);
	thread->asked = true;
	(void)pthread_cond_broadcast(&thread->changed);
	(void)pthread_mutex_unlock(&thread->mutex);
}

bool commit_thread_is_busy(const struct commit_thread *thread)
{
	return thread->busy;
}
