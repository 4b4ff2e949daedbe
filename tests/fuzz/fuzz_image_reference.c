/* References: what is taken has a normal form that is taken again and stays the same. */
#include "agent/image/reference.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *text = strndup((const char *)data, size);
	char normal[REFERENCE_TEXT_N], again[REFERENCE_TEXT_N], host[300];
	struct reference ref, second;
	struct err err = {};

	if (!text)
		return 0;
	if (reference_parse(text, &ref, &err) == 0) {
		reference_to_string(&ref, normal);
		if (reference_parse(normal, &second, &err) < 0)
			abort();
		reference_to_string(&second, again);
		if (strcmp(normal, again) != 0 || strstr(ref.repository, "..") ||
		    strlen(ref.registry) + 1 + strlen(ref.repository) > REFERENCE_NAME_MAX)
			abort();
		reference_api_host(&ref, host, sizeof(host));
		if (host_is_loopback(host) && host_is_link_local(host))
			abort();
	} else if (!err.text[0]) {
		abort();
	}
	free(text);
	return 0;
}
