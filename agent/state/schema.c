/*
 * The tables of agent.db and how an older database becomes a current one.
 *
 * Two numbers say who may use a database: user_version is the version of its schema, and the key
 * "schema-compatible" of the instance table is the oldest version whose ecs-agent can still work
 * with it. A version that only adds tables, or columns with a default, leaves that number where it
 * is. So that an older ecs-agent loses nothing of the newer one's, every statement here names its
 * columns, and rows are changed in place, never replaced.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "agent/state/state_internal.h"
#include "lib/parse.h"

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
	/* Version 1 replaced whole rows, so it cannot be let near a newer database. */
	"INSERT INTO instance (key,value) VALUES ('" STATE_KEY_COMPATIBLE "','2');",
	"ALTER TABLE containers ADD COLUMN restart_count INTEGER NOT NULL DEFAULT 0;",
	"ALTER TABLE containers ADD COLUMN managed_agent TEXT;",
};

const char *const state_statements[_STATEMENT_MAX] = {
	[STATEMENT_SET] = "INSERT INTO instance (key,value) VALUES (?,?)"
			  " ON CONFLICT (key) DO UPDATE SET value=excluded.value",
	[STATEMENT_UNSET] = "DELETE FROM instance WHERE key=?",
	[STATEMENT_PUT_TASK] =
		"INSERT INTO tasks (arn,document,desired,known,sent,reason,sequence,"
		"stop_sequence,received_usec,pull_started_usec,pull_stopped_usec,"
		"execution_stopped_usec,stopped_usec,launched,admitted)"
		" VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)"
		" ON CONFLICT (arn) DO UPDATE SET document=excluded.document,"
		"desired=excluded.desired,known=excluded.known,sent=excluded.sent,"
		"reason=excluded.reason,sequence=excluded.sequence,"
		"stop_sequence=excluded.stop_sequence,received_usec=excluded.received_usec,"
		"pull_started_usec=excluded.pull_started_usec,"
		"pull_stopped_usec=excluded.pull_stopped_usec,"
		"execution_stopped_usec=excluded.execution_stopped_usec,"
		"stopped_usec=excluded.stopped_usec,launched=excluded.launched,"
		"admitted=excluded.admitted",
	[STATEMENT_PUT_CONTAINER] =
		"INSERT INTO containers (task_arn,name,runtime_id,endpoint_id,desired,"
		"known,sent,exit_code,reason,image_digest,image_id,address,bindings,image_config,"
		"layers,cgroup_id,created_usec,started_usec,finished_usec,restart_count,managed_agent)"
		" VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)"
		" ON CONFLICT (task_arn,name) DO UPDATE SET runtime_id=excluded.runtime_id,"
		"endpoint_id=excluded.endpoint_id,desired=excluded.desired,known=excluded.known,"
		"sent=excluded.sent,exit_code=excluded.exit_code,reason=excluded.reason,"
		"image_digest=excluded.image_digest,image_id=excluded.image_id,"
		"address=excluded.address,bindings=excluded.bindings,"
		"image_config=excluded.image_config,layers=excluded.layers,"
		"cgroup_id=excluded.cgroup_id,created_usec=excluded.created_usec,"
		"started_usec=excluded.started_usec,finished_usec=excluded.finished_usec,"
		"restart_count=excluded.restart_count,managed_agent=excluded.managed_agent",
	[STATEMENT_REMOVE_CONTAINERS] = "DELETE FROM containers WHERE task_arn=?",
	[STATEMENT_REMOVE_TASK] = "DELETE FROM tasks WHERE arn=?",
	[STATEMENT_ADD_EVENT] = "INSERT INTO outbox (id,task_arn,body) VALUES (?,?,?)",
	[STATEMENT_REMOVE_EVENT] = "DELETE FROM outbox WHERE id=?",
	[STATEMENT_PUT_IMAGE] = "INSERT INTO images (reference,digest) VALUES (?,?)"
				" ON CONFLICT (reference) DO UPDATE SET digest=excluded.digest",
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

/* 0 when the database does not say: then only its own version may use it. */
static int read_compatible(sqlite3 *db, int *ret)
{
	_cleanup_(sqlite3_finalizep) sqlite3_stmt *stmt = NULL;
	const char *text;
	uint64_t n = 0;
	int r;

	*ret = 0;
	r = sqlite3_prepare_v2(db,
	                       "SELECT value FROM instance WHERE key='" STATE_KEY_COMPATIBLE "'",
	                       -1, &stmt, NULL);
	if (r != SQLITE_OK)
		return 0;
	r = sqlite3_step(stmt);
	if (r == SQLITE_CORRUPT || r == SQLITE_NOTADB)
		return -EBADMSG;
	text = r == SQLITE_ROW ? (const char *)sqlite3_column_text(stmt, 0) : NULL;
	if (text && parse_u64(text, INT32_MAX, &n) == 0)
		*ret = (int)n;
	return 0;
}

static int refuse_newer(sqlite3 *db, int version, struct err *err)
{
	int compatible = 0, r;

	r = read_compatible(db, &compatible);
	if (r < 0)
		return err_text(err, r, "the schema version cannot be read");
	if (compatible > 0 && compatible <= STATE_SCHEMA_VERSION)
		return 0;
	return err_text(err, -EPROTONOSUPPORT,
	                "state database has schema version %d, and this ecs-agent knows versions "
	                "up to %d: install the ecs-agent that wrote it or a newer one",
	                version, STATE_SCHEMA_VERSION);
}

static int upgrade(sqlite3 *db, int version, const char *more, struct err *err)
{
	char sql[64];
	int r;

	snprintf(sql, sizeof(sql), "PRAGMA user_version=%d; COMMIT", version + 1);
	r = sqlite3_exec(db, "BEGIN IMMEDIATE", NULL, NULL, NULL);
	if (r == SQLITE_OK)
		r = sqlite3_exec(db, upgrades[version], NULL, NULL, NULL);
	if (r == SQLITE_OK && more)
		r = sqlite3_exec(db, more, NULL, NULL, NULL);
	if (r == SQLITE_OK)
		r = sqlite3_exec(db, sql, NULL, NULL, NULL);
	if (r == SQLITE_OK)
		return 0;

	/* SQLITE_ERROR: the tables are not those of the version that the database claims. */
	r = state_error(db, r == SQLITE_ERROR ? SQLITE_CORRUPT : r, "create the tables", err);
	(void)sqlite3_exec(db, "ROLLBACK", NULL, NULL, NULL);
	return r;
}

int schema_apply(sqlite3 *db, bool is_reset, int *ret_version, struct err *err)
{
	const char *begin = is_reset ? NULL
	                             : "INSERT INTO instance (key,value)"
	                               " VALUES ('" STATE_KEY_INCOMPLETE "','yes');";
	int version = 0, r;

	r = read_version(db, &version, err);
	if (r < 0)
		return r;
	if (version < 0)
		return err_text(err, -EBADMSG, "schema version %d", version);
	if (version > STATE_SCHEMA_VERSION) {
		r = refuse_newer(db, version, err);
		if (r < 0)
			return r;
	}

	*ret_version = version;
	for (; version < STATE_SCHEMA_VERSION; version++) {
		r = upgrade(db, version, version == 0 ? begin : NULL, err);
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
