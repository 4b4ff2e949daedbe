/* Times are told in microseconds, so that programs can read them as well. */
#include "agent/figures.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>

#include "lib/heap.h"
#include "lib/log.h"

void figures_log(const struct figures *figures)
{
	const struct loop_times *times = figures->times;
	struct heap_size heap = heap_size();
	struct engine_counts counts;

	node_count(figures->node, &counts);
	log_info(NULL,
	         "%zu tasks; %" PRIu64 " turns of the loop, the longest of %" PRIu64
	         " us, the busiest of %" PRIu64 " us of CPU time; slowest commit of state: %" PRIu64
	         " us",
	         counts.tasks, times->turns, times->longest_usec, times->busiest_usec,
	         state_commit_max_usec(figures->state));
	log_info(NULL,
	         "kept: %zu ended tasks, %zu credentials, %zu reports, %zu acknowledgements, %zu "
	         "addresses; heap: %zu KiB in use of %zu KiB",
	         counts.ended_tasks, counts.credentials, counts.reports, counts.acknowledgements,
	         counts.addresses, heap.used_bytes / 1024, heap.total_bytes / 1024);
}

static int on_signal(sd_event_source *source, const struct signalfd_siginfo *info, void *userdata)
{
	(void)source;
	(void)info;
	figures_log(userdata);
	return 0;
}

int figures_watch(struct figures *figures, sd_event *loop, struct err *err)
{
	sigset_t mask;
	int r;

	/* sd_event takes signals through a signalfd, so they must be blocked first. */
	sigemptyset(&mask);
	sigaddset(&mask, SIGUSR1);
	r = sigprocmask(SIG_BLOCK, &mask, NULL) < 0 ? -errno : 0;
	if (r == 0)
		r = sd_event_add_signal(loop, &figures->on_signal, SIGUSR1, on_signal, figures);
	return r < 0 ? err_set(err, r, "watch for SIGUSR1") : 0;
}

void figures_done(struct figures *figures)
{
	figures->on_signal = sd_event_source_disable_unref(figures->on_signal);
}
