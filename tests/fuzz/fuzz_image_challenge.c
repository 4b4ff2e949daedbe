/* WWW-Authenticate, as any server may send it. */
#include "agent/image/challenge.h"

#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *text = strndup((const char *)data, size);
	struct challenge challenge;
	struct err err = {};
	int r;

	if (!text)
		return 0;
	r = challenge_parse(text, &challenge, &err);
	if (r == 0 && challenge.scheme == CHALLENGE_BEARER && !challenge.realm[0])
		abort();
	if (r < 0 && (r != -EBADMSG || !err.text[0]))
		abort();
	free(text);
	return 0;
}
