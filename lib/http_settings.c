/* The variables that every HTTP client of this system follows, from the environment or ecs.config.
 */
#include <stdlib.h>

#include "lib/http.h"

static const char *lookup(const struct envfile *file, const char *name)
{
	const char *value = getenv(name);

	if ((!value || !*value) && file)
		value = envfile_get(file, name);
	return value && *value ? value : NULL;
}

/* The first that is set, of two spellings. */
static const char *lookup_either(const struct envfile *file, const char *name, const char *other)
{
	const char *value = lookup(file, name);

	return value ? value : lookup(file, other);
}

void http_settings_load(const struct envfile *file, struct http_settings *ret)
{
	*ret = (struct http_settings){
		.ca_file = lookup_either(file, "AWS_CA_BUNDLE", "SSL_CERT_FILE"),
		.ca_dir = lookup(file, "SSL_CERT_DIR"),
		.https_proxy = lookup_either(file, "HTTPS_PROXY", "https_proxy"),
		.http_proxy = lookup_either(file, "HTTP_PROXY", "http_proxy"),
		.no_proxy = lookup_either(file, "NO_PROXY", "no_proxy"),
	};
}
