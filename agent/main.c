/*
 * ecs-agent: makes this host a node of an ECS cluster. Runs as the user ecs-agent without
 * capabilities; whatever needs privileges is asked of the launcher. Tasks do not notice when it
 * ends or starts.
 *
 * "ecs-agent exec" is another program under the same name: an operator's, run as root, which has
 * nothing to do with the one above.
 *
 * Exit codes: 0 after SIGTERM; 1 start again; 5 starting again cannot help.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "agent/config/config.h"
#include "agent/exec_command.h"
#include "agent/figures.h"
#include "agent/node.h"
#include "agent/state/state.h"
#include "lib/confine.h"
#include "lib/log.h"
#include "lib/loop.h"
#include "lib/options.h"

#define AGENT_USER "ecs-agent"

static int fail(int code, const char *what, const struct err *err)
{
	log_err(NULL, 0, "%s: %s", what, err->text);
	return code;
}

static int check_config(const struct config *config)
{
	return config_print(config, stdout) < 0 || fflush(stdout) != 0 ? EXIT_FAILURE
	                                                               : EXIT_SUCCESS;
}

static void log_warnings(const struct config *config)
{
	const char *warning;

	for (size_t i = 0; (warning = config_warning(config, i)); i++)
		log_warning(NULL, 0, "%s", warning);
}

/* Started as root (by hand, or by tests) it becomes its user; a service manager has done that. */
static int drop_privileges(struct err *err)
{
	const struct confinement confinement = {
		.user = geteuid() == 0 ? AGENT_USER : NULL,
		.syscalls = (const char *const[]){"fchown", NULL},
	};
	int r;

	r = confine(&confinement, err);
	return r < 0 ? r : confine_no_dumps(err);
}

static int open_state(const struct options *options, sd_event *loop, struct state **ret,
                      struct err *err)
{
	_cleanup_free_ char *path = NULL;

	if (asprintf(&path, "%s/data", options->state_dir) < 0)
		return err_oom(err);
	return state_open(path, loop, ret, err);
}

static int run(const struct options *options, const struct config *config)
{
	_cleanup_(sd_event_unrefp) sd_event *loop = NULL;
	_cleanup_(state_closep) struct state *state = NULL;
	_cleanup_(node_freep) struct node *node = NULL;
	_cleanup_(figures_done) struct figures figures = {0};
	struct loop_times times = {0};
	struct err err = {0};
	int r;

	r = loop_new(&loop, &err);
	if (r < 0)
		return fail(EXIT_FAILURE, "event loop", &err);
	r = open_state(options, loop, &state, &err);
	if (r < 0)
		return fail(r == -EPROTONOSUPPORT ? EXIT_TERMINAL : EXIT_FAILURE, "state", &err);
	r = node_start(loop, options, config, state, &node, &err);
	if (r < 0)
		return fail(EXIT_FAILURE, "start", &err);
	figures = (struct figures){.times = &times, .state = state, .node = node};
	r = figures_watch(&figures, loop, &err);
	if (r < 0)
		return fail(EXIT_FAILURE, "start", &err);

	r = loop_run(loop, &times);
	if (r < 0) {
		(void)err_set(&err, r, "wait for events");
		return fail(EXIT_FAILURE, "event loop", &err);
	}
	figures_log(&figures);
	log_info(NULL, "ending with code %d; tasks go on", r);
	return r;
}

int main(int argc, char **argv)
{
	_cleanup_(config_freep) struct config *config = NULL;
	bool only_check = false;
	const struct option_spec specs[] = {
		{.name = "check-config",
	         .help = "print every setting and where it comes from, then exit",
	         .flag = &only_check},
	};
	struct options options = {0};
	struct err err = {0};
	int first = 0, r;

	log_init("ecs-agent");
	r = options_parse(argc, argv, "ecs-agent [OPTION]... [exec ...]", specs, ARRAY_SIZE(specs),
	                  &options, &first, &err);
	if (r > 0)
		return EXIT_SUCCESS;
	if (r == 0 && first < argc && strcmp(argv[first], "exec") == 0)
		return exec_command(argc - first, argv + first, &options);
	if (r == 0 && first < argc)
		r = err_text(&err, -EINVAL, "unexpected argument '%s'", argv[first]);
	if (r < 0)
		return fail(EXIT_FAILURE, "command line", &err);

	r = config_load(options.config, &config, &err);
	if (r < 0)
		return fail(EXIT_FAILURE, "configuration", &err);
	if (only_check)
		return check_config(config);
	if (log_set_level(config->log_level) < 0)
		log_warning(NULL, 0, "ECS_LOGLEVEL '%s' is unknown", config->log_level);
	log_warnings(config);

	r = drop_privileges(&err);
	if (r < 0)
		return fail(EXIT_FAILURE, "confinement", &err);
	return run(&options, config);
}
