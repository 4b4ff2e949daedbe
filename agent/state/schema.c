/* The tables of agent.db and how an older database becomes a current one. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "agent/state/state_internal.h"

/* upgrades[n] brings version n to version n + 1; each is one transaction. */
static const char *const upgrades[STATE_SCHEMA_VERSION] = {
	"CREATE TABLE instance (key TEXT PRIMARY KEY NOT NULL, value TEXT NOT NULL);"
	"CREATE TABLE tasks (arn TEXT PRIMARY KEY NOT NULL, document TEXT NOT NULL,"
	"  desired TEXT NOT NULL, known TEXT NOT NULL, sent TEXT NOT NULL, reason TEXT,"
	"  sequence INTEGER NOT NULL, stop_sequence INTEGER NOT NULL, received_usec INTEGER NOT NULL, pull_started_usec INTEGER NOT NULL,"
	"  pull_stopped_usec INTEGER NOT NULL, execution_stopped_usec INTEGER NOT NULL,"
	"  stopped_usec INTEGER NOT NULL, launched INTEGER NOT NULL, admitted INTEGER NOT NULL);"
	"CREATE TABLE containers (task_arn TEXT NOT NULL, name TEXT NOT NULL,"
	"  runtime_id TEXT, endpoint_id TEXT, desired TEXT NOT NULL, known TEXT NOT NULL,"
	"  sent TEXT NOT NULL, exit_code INTEGER, reason TEXT, image_digest TEXT, image_id TEXT,"
	"  address TEXT, bindings TEXT, image_config TEXT, layers TEXT,"
	"  cgroup_id INTEGER NOT NULL, created_usec INTEGER NOT NULL,"
	"  started_usec INTEGER NOT NULL, finished_usec INTEGER NOT NULL,"
	"  PRIMARY KEY (task_arn, name));"
	"CREATE TABLE outbox (id INTEGER PRIMARY KEY AUTOINCREMENT, task_arn TEXT NOT NULL,"
	"  body TEXT NOT NULL);"
	"CREATE TABLE images (reference TEXT PRIMARY KEY NOT NULL, digest TEXT NOT NULL);",
};

const char *const state_statements[_STATEMENT_MAX] = {
	[STATEMENT_SET] = "INSERT OR REPLACE INTO instance VALUES (?,?)",
	[STATEMENT_UNSET] = "DELETE FROM instance WHERE key=?",
	[STATEMENT_PUT_TASK] =
		"INSERT OR REPLACE INTO tasks (arn,document,desired,known,sent,reason,sequence,"
		"stop_sequence,received_usec,pull_started_usec,pull_stopped_usec,"
		"execution_stopped_usec,stopped_usec,launched,admitted)"
		" VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
	[STATEMENT_PUT_CONTAINER] =
		"INSERT OR REPLACE INTO containers (task_arn,name,runtime_id,endpoint_id,desired,"
		"known,sent,exit_code,reason,image_digest,image_id,address,bindings,image_config,"
		"layers,cgroup_id,created_usec,started_usec,finished_usec)"
		" VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
	[STATEMENT_REMOVE_CONTAINERS] = "DELETE FROM containers WHERE task_arn=?",
	[STATEMENT_REMOVE_TASK] = "DELETE FROM tasks WHERE arn=?",
	[STATEMENT_ADD_EVENT] = "INSERT INTO outbox (id,task_arn,body) VALUES (?,?,?)",
	[STATEMENT_REMOVE_EVENT] = "DELETE FROM outbox WHERE id=?",
	[STATEMENT_PUT_IMAGE] = "INSERT OR REPLACE INTO images VALUES (?,?)",
};

static int read_version(sqlite3 *db, int *ret, struct err *err)
{
	_cleanup_(sqlite3_finalizep) sqlite3_stmt *stmt = NULL;
	int r;

	r = sqlite3_prepare_v2(db, "PRAGMA user_version", -1, &stmt, NULL);
	if (r == SQLITE_OK)
		r = sqlite3_step(stmt);
	if (r != SQLITE_ROW)
		return state_error(db, r, "read the schema version", err);
	*ret = sqlite3_column_int(stmt, 0);
	return 0;
}

static int upgrade(sqlite3 *db, int version, struct err *err)
{
	char sql[64];
	int r;

	snprintf(sql, sizeof(sql), "PRAGMA user_version=%d; COMMIT", version + 1);
	r = sqlite3_exec(db, "BEGIN IMMEDIATE", NULL, NULL, NULL);
	if (r == SQLITE_OK)
		r = sqlite3_exec(db, upgrades[version], NULL, NULL, NULL);
	if (r == SQLITE_OK)
		r = sqlite3_exec(db, sql, NULL, NULL, NULL);
	if (r == SQLITE_OK)
		return 0;

	r = state_error(db, r, "create the tables", err);
	(void)sqlite3_exec(db, "ROLLBACK", NULL, NULL, NULL);
	return r;
}

int schema_apply(sqlite3 *db, bool *ret_created, struct err *err)
{
	int version = 0, r;

	r = read_version(db, &version, err);
	if (r < 0)
		return r;
	if (version < 0 || version > STATE_SCHEMA_VERSION)
		return err_text(
			err, -EPROTONOSUPPORT,
			"state database has schema version %d, and this ecs-agent knows "
			"versions up to %d: install the ecs-agent that wrote it or a newer one",
			version, STATE_SCHEMA_VERSION);

	*ret_created = version == 0;
	for (; version < STATE_SCHEMA_VERSION; version++) {
		r = upgrade(db, version, err);
		if (r < 0)
			return r;
	}
	return 0;
}

int schema_check(sqlite3 *db, struct err *err)
{
	_cleanup_(sqlite3_finalizep) sqlite3_stmt *stmt = NULL;
	const char *text;
	int r;

	r = sqlite3_prepare_v2(db, "PRAGMA quick_check(1)", -1, &stmt, NULL);
	if (r == SQLITE_OK)
		r = sqlite3_step(stmt);
	if (r != SQLITE_ROW)
		return state_error(db, r, "check the state database", err);

	text = (const char *)sqlite3_column_text(stmt, 0);
	if (!text || strcmp(text, "ok") != 0)
		return err_text(err, -EBADMSG, "check of the state database: %s",
		                text ? text : "no answer");
	return 0;
}
