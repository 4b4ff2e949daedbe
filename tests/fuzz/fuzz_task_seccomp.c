/* A seccomp profile of a task: taken as a whole or refused in words. */
#include "agent/task/seccomp_profile.h"

#include <assert.h>
#include <stdint.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	_cleanup_(seccomp_profile_freep) struct seccomp_profile *profile = NULL;
	struct err err = {};
	int r = seccomp_profile_parse((const char *)data, size, &profile, &err);

	assert(r == 0 ? profile != NULL : profile == NULL && err.text[0]);
	for (size_t i = 0; profile && i < profile->n_rules; i++)
		assert(profile->rules[i].names && profile->rules[i].n_args <= SECCOMP_ARGS_MAX);
	return 0;
}
