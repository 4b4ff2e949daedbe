/* What is kept, by going through it: it is asked for now and then, by a person. */
#include "agent/engine/engine_internal.h"

void engine_count(const struct engine *engine, struct engine_counts *ret)
{
	*ret = (struct engine_counts){
		.tasks = engine->n_tasks,
		.credentials = role_credentials_count(engine->credentials),
		.reports = outbox_count(engine->outbox),
		.acknowledgements = acknowledgements_count(engine),
		.addresses = engine->addresses ? addresses_count(engine->addresses) : 0,
	};
	for (size_t i = 0; i < engine->n_tasks; i++)
		ret->ended_tasks += engine->tasks[i]->teardown == TEARDOWN_DONE;
}
