/* Two ids, and which of them counts. */
#include "agent/identity.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "lib/fd.h"

#define MACHINE_ID_LEN 32

enum identity_match identity_compare(const struct identity *saved, const struct identity *now)
{
	if (saved->instance_id && now->instance_id)
		return strcmp(saved->instance_id, now->instance_id) == 0 ? IDENTITY_SAME
		                                                         : IDENTITY_OTHER;
	if (saved->machine_id && now->machine_id && strcmp(saved->machine_id, now->machine_id) != 0)
		return IDENTITY_OTHER;
	return saved->instance_id ? IDENTITY_UNSURE : IDENTITY_SAME;
}

char *identity_read_machine_id(const char *path, const char *dir_path)
{
	struct stat file, dir;
	char *text = NULL;

	if (stat(path, &file) < 0 || stat(dir_path, &dir) < 0 || file.st_dev != dir.st_dev ||
	    file_read(AT_FDCWD, path, 4096, &text, NULL) < 0)
		return NULL;
	text[strcspn(text, "\n")] = '\0';
	/* "uninitialized" stands there before the first boot. */
	if (strlen(text) == MACHINE_ID_LEN && strspn(text, "0123456789abcdef") == MACHINE_ID_LEN)
		return text;
	free(text);
	return NULL;
}
