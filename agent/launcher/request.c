/* Parsing the request: every byte is checked here, and nothing else of it goes further. */
#include "agent/launcher/request.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>

static const struct {
	const char *name;
	bool has_task_id;
} verbs[_LAUNCHER_VERB_MAX] = {
	[LAUNCHER_VERB_TASK] = {"task", true},
	[LAUNCHER_VERB_IMAGE] = {"image", false},
	[LAUNCHER_VERB_NETWORK] = {"network", false},
	[LAUNCHER_VERB_VOLUME] = {"volume", false},
	[LAUNCHER_VERB_REAP] = {"reap", true},
	[LAUNCHER_VERB_DISCARD] = {"discard", true},
	[LAUNCHER_VERB_TASK_HOST_PID] = {"task-host-pid", true},
};

const char *launcher_verb_to_string(enum launcher_verb verb)
{
	return verbs[verb].name;
}

/* isalnum() would ask the locale. */
static bool is_id_byte(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
	       c == '-';
}

/* A leading '-' would be an option to the program that gets the id. */
static bool is_task_id(const char *text, size_t len)
{
	if (len < 1 || len > LAUNCHER_TASK_ID_MAX || text[0] == '-')
		return false;
	for (size_t i = 0; i < len; i++)
		if (!is_id_byte(text[i]))
			return false;
	return true;
}

static int find_verb(const char *text, size_t len)
{
	for (int i = 0; i < _LAUNCHER_VERB_MAX; i++)
		if (strlen(verbs[i].name) == len && memcmp(verbs[i].name, text, len) == 0)
			return i;
	return -EINVAL;
}

int launcher_request_parse(const char *line, size_t len, struct launcher_request *ret,
                           struct err *err)
{
	const char *blank = memchr(line, ' ', len);
	size_t verb_len = blank ? (size_t)(blank - line) : len;
	const char *id = blank ? blank + 1 : "";
	size_t id_len = blank ? len - verb_len - 1 : 0;
	int verb = find_verb(line, verb_len);

	if (verb < 0)
		return err_text(
			err, -EINVAL,
			"unknown request \"%.*s\", expected task, task-host-pid, image, network, volume, reap "
			"or discard",
			(int)(verb_len < 32 ? verb_len : 32), line);
	if (!verbs[verb].has_task_id && blank)
		return err_text(err, -EINVAL, "request \"%s\" takes no argument", verbs[verb].name);
	if (verbs[verb].has_task_id && !is_task_id(id, id_len))
		return err_text(
			err, -EINVAL,
			"task id \"%.*s\" of request \"%s\" must be 1 to %d letters, digits and '-'",
			(int)(id_len < 80 ? id_len : 80), id, verbs[verb].name,
			LAUNCHER_TASK_ID_MAX);

	*ret = (struct launcher_request){.verb = (enum launcher_verb)verb};
	memcpy(ret->task_id, id, id_len);
	return 0;
}
