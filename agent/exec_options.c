/* The command line of "ecs-agent exec", in the way of docker exec. */
#include "agent/exec_options.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "lib/cleanup.h"

const char exec_options_usage[] =
	"Usage: ecs-agent [--runtime-dir FOLDER] exec [OPTION]... TASK CONTAINER [--] COMMAND [ARG]...\n"
	"\n"
	"Run a command in a container of this host. TASK is a task's ARN or id, or as much of the\n"
	"id as no other task here begins with.\n"
	"\n"
	"  -i, --interactive        pass standard input on\n"
	"  -t, --tty                give the command a terminal\n"
	"  -u, --user USER[:GROUP]  run as this user; names are the container's (its own user)\n"
	"  -w, --workdir FOLDER     run in this folder of the container (its own)\n"
	"  -e, --env NAME=VALUE     set a variable; may be repeated\n"
	"      --help               show this\n";

/* The value of an option: "--user=U", "--user U", "-u U" or "-uU". */
static int take_value(int argc, char **argv, int *i, const char *attached, const char **ret,
                      struct err *err)
{
	const char *option = argv[*i];

	if (attached && *attached == '=' && strncmp(option, "--", 2) == 0)
		*ret = attached + 1;
	else if (attached && *attached)
		*ret = attached;
	else if (*i + 1 < argc)
		*ret = argv[++*i];
	else
		return err_text(err, -EINVAL, "option %s needs a value", option);
	return **ret ? 0 : err_text(err, -EINVAL, "option %s has an empty value", option);
}

static int add_env(struct exec_options *options, const char *text, struct err *err)
{
	if (text[0] == '=' || !strchr(text, '='))
		return err_text(err, -EINVAL, "--env \"%.100s\" must be NAME=VALUE", text);
	if (options->n_env == EXEC_ENV_MAX - 1)
		return err_text(err, -EINVAL, "more than %d variables", EXEC_ENV_MAX - 1);
	options->env[options->n_env++] = text;
	return 0;
}

static int take_valued(int argc, char **argv, int *i, char letter, const char *attached,
                       struct exec_options *options, struct err *err)
{
	const char *value = NULL;
	int r = take_value(argc, argv, i, attached, &value, err);

	if (r < 0)
		return r;
	if (letter == 'u')
		options->user = value;
	else if (letter == 'w')
		options->workdir = value;
	else
		return add_env(options, value, err);
	return 0;
}

static int take_long(int argc, char **argv, int *i, struct exec_options *options, struct err *err)
{
	static const struct {
		const char *name;
		char letter;
	} valued[] = {{"user", 'u'}, {"workdir", 'w'}, {"env", 'e'}};
	const char *name = argv[*i] + 2;
	size_t len = strcspn(name, "=");

	for (size_t k = 0; k < ARRAY_SIZE(valued); k++)
		if (strlen(valued[k].name) == len && strncmp(valued[k].name, name, len) == 0)
			return take_valued(argc, argv, i, valued[k].letter, name + len, options,
			                   err);
	if (strcmp(name, "interactive") == 0)
		options->interactive = true;
	else if (strcmp(name, "tty") == 0)
		options->tty = true;
	else if (strcmp(name, "help") == 0)
		options->help = true;
	else
		return err_text(err, -EINVAL, "unknown option --%.60s (see ecs-agent exec --help)",
		                name);
	return 0;
}

/* Letters may stand together: -it, -iu root. */
static int take_short(int argc, char **argv, int *i, struct exec_options *options, struct err *err)
{
	for (const char *p = argv[*i] + 1; *p; p++) {
		if (*p == 'i')
			options->interactive = true;
		else if (*p == 't')
			options->tty = true;
		else if (strchr("uwe", *p))
			return take_valued(argc, argv, i, *p, p + 1, options, err);
		else
			return err_text(err, -EINVAL,
			                "unknown option -%c (see ecs-agent exec --help)", *p);
	}
	return 0;
}

int exec_options_parse(int argc, char **argv, struct exec_options *options, struct err *err)
{
	int i, r = 0;

	for (i = 1; r == 0 && i < argc; i++) {
		if (strcmp(argv[i], "--") == 0) {
			i++;
			break;
		}
		if (strncmp(argv[i], "--", 2) == 0)
			r = take_long(argc, argv, &i, options, err);
		else if (argv[i][0] == '-' && argv[i][1])
			r = take_short(argc, argv, &i, options, err);
		else if (!options->task)
			options->task = argv[i];
		else if (!options->container)
			options->container = argv[i];
		else
			break;
	}
	if (r < 0 || options->help)
		return r;
	if (!options->task)
		return err_text(err, -EINVAL,
		                "a task and a container must be named (see ecs-agent exec --help)");
	if (!options->container)
		return err_text(err, -EINVAL,
		                "a container of task %.64s must be named (see ecs-agent exec "
		                "--help)",
		                options->task);
	if (i >= argc)
		return err_text(err, -EINVAL, "no command is given for container %.100s",
		                options->container);
	options->args = argv + i;
	if (options->workdir && options->workdir[0] != '/')
		return err_text(err, -EINVAL, "--workdir \"%.100s\" must be an absolute path",
		                options->workdir);
	if (options->tty && options->interactive && !isatty(STDIN_FILENO))
		return err_text(
			err, -EINVAL,
			"standard input is no terminal, which -i and -t together need; leave "
			"-t out");
	return 0;
}
