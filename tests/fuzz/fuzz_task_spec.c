/* The "container" of a create request: whatever it is, it is taken as a whole or refused in words.
 */
#include "agent/task/spec.h"

#include <assert.h>
#include <stdint.h>
#include <string.h>

#include "lib/json.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	_cleanup_json_ struct json_object *json = NULL;

	if (json_parse_object((const char *)data, size, 1 << 20, &json, NULL) < 0)
		return 0;
	for (enum network_mode mode = NETWORK_BRIDGE; mode <= NETWORK_NONE; mode++) {
		_cleanup_(container_spec_freep) struct container_spec *spec = NULL;
		struct err err = {};
		const struct task_spec task = {.network_mode = mode};
		int r = container_spec_parse(json, &task, &spec, &err);

		assert(r == 0 ? spec != NULL : spec == NULL && err.text[0] && err.name);
		/* A member whose value was wiped with the specification must still be a string. */
		assert(json_to_text(json, NULL));
	}
	return 0;
}
