/* One HTTP header as both the signer and the client take it. */
#pragma once

struct http_header {
	const char *name;
	const char *value;
};
