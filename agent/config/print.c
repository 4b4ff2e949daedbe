/* What --check-config shows: each setting, its value, and who said so. */
#include <errno.h>
#include <string.h>

#include "agent/config/settings.h"

/* The user and password of a proxy URL are nobody's business. */
static void print_passed_on(const char *value, FILE *out)
{
	const char *host = strstr(value, "://"), *at;

	host = host ? host + 3 : value;
	at = strchr(host, '@');
	if (at && at < host + strcspn(host, "/"))
		fprintf(out, "%.*s***%s", (int)(host - value), value, at);
	else
		fputs(value, out);
}

static void print_value(const struct config *config, const struct setting *setting, FILE *out)
{
	const char *value = config_get(config, setting->name);

	if (setting->is_secret)
		fputs(value ? "***" : "", out);
	else if (setting->kind == KIND_TEXT)
		print_passed_on(value ? value : "", out);
	else
		setting_print(config, setting, out);
}

static void print_origin(const struct config_origin *origin, FILE *out)
{
	switch (origin->source) {
	case SOURCE_DEFAULT:
		fputs("  (default)\n", out);
		break;
	case SOURCE_FILE:
		fprintf(out, "  (ecs.config line %zu)\n", origin->line);
		break;
	case SOURCE_ENVIRONMENT:
		fputs("  (environment)\n", out);
		break;
	}
}

/* Says nothing unless it is set: no default of ours, or another name of the next one. */
static bool is_spare(size_t i)
{
	return settings[i].kind == KIND_TEXT ||
	       (i + 1 < n_settings && settings[i].offset == settings[i + 1].offset);
}

int config_print(const struct config *config, FILE *out)
{
	const char *warning;

	for (size_t i = 0; i < n_settings; i++) {
		const struct config_origin *origin = &config->origins->items[i];

		if (settings[i].support == SETTING_UNSUPPORTED ||
		    settings[i].support == SETTING_FOREIGN)
			continue; /* those that are set are in the warnings */
		if (origin->source == SOURCE_DEFAULT && is_spare(i))
			continue;
		fprintf(out, "%s=", settings[i].name);
		print_value(config, &settings[i], out);
		print_origin(origin, out);
	}
	for (size_t i = 0; (warning = config_warning(config, i)); i++)
		fprintf(out, "warning: %s\n", warning);
	return fflush(out) == 0 && !ferror(out) ? 0 : -EIO;
}
