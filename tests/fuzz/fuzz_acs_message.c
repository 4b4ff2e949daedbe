/* Whatever ACS may send: frames, and the bodies of refused handshakes. */
#include "agent/acs/message.h"

#include <stdint.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Every reader meets every message: what a type says of itself is not to be trusted. */
static void read_all(struct json_object *message)
{
	struct acs_role_credentials credentials;
	struct acs_stop_verification verification;
	struct acs_manifest manifest;
	struct acs_payload payload;
	struct err err;

	if (acs_payload_read(message, &payload, &err) == 0)
		acs_payload_done(&payload);
	(void)acs_role_credentials_read(message, &credentials, &err);
	if (acs_manifest_read(message, &manifest, &err) == 0) {
		for (size_t i = 0; i < manifest.n_tasks; i++)
			(void)strlen(manifest.tasks[i].task_arn);
		acs_manifest_done(&manifest);
	}
	if (acs_stop_verification_read(message, &verification, &err) == 0)
		acs_stop_verification_done(&verification);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct acs_frame frame = {0};
	struct acs_refusal refusal;
	struct err err;

	acs_refusal_read((const char *)data, size, &refusal);
	if (acs_frame_parse((const char *)data, size, &frame, &err) == 0) {
		read_all(frame.message);
		acs_frame_done(&frame);
	}
	return 0;
}
