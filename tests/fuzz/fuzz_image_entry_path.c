/* Names of tar entries: what is taken stays below the root and is in its plain form. */
#include "agent/image/entry_path.h"

#include <limits.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *name = strndup((const char *)data, size);
	char clean[PATH_MAX], again[PATH_MAX];

	if (!name)
		return 0;
	if (entry_path_clean(name, clean, sizeof(clean), NULL) == 0) {
		if (clean[0] == '/' || strstr(clean, "//") || !strncmp(clean, "../", 3) ||
		    strstr(clean, "/../") || !strcmp(clean, ".."))
			abort();
		if (entry_path_clean(clean, again, sizeof(again), NULL) < 0 ||
		    strcmp(clean, again) != 0)
			abort();
	}
	free(name);
	return 0;
}
