/* Numbers, words and names from outside. Each parser takes the whole text or refuses it. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Decimal digits only: no sign, blank or trailing byte. -EINVAL, or -ERANGE beyond max. */
int parse_u64(const char *text, uint64_t max, uint64_t *ret);
/* The same with an optional '-'. -EINVAL or -ERANGE. */
int parse_i64(const char *text, int64_t min, int64_t max, int64_t *ret);

/* The words of Go's strconv.ParseBool, which ecs.config uses: 1 t T TRUE true True, and so on. */
int parse_bool(const char *text, bool *ret);

/*
 * Go duration text such as "300ms", "1.5h", "2h45m" (units ns us ms s m h), in microseconds,
 * rounded down. A negative one is -ERANGE. Source: Go time.ParseDuration documentation.
 */
int parse_duration(const char *text, uint64_t *ret_usec);

/* The reverse for ECS reason texts: "3m0s", "1m30s", "500ms", as Go prints durations. */
void duration_to_string(uint64_t usec, char *buf, size_t n);

/*
 * Can name be one component of a path that we make: letters, digits, '_', '-', '.', not starting
 * with '.', 1 to max bytes. Task ids, container names and hex ids all are.
 */
bool name_is_component(const char *name, size_t max);

/* Do two absolute paths without ".." mean one place: "/data", "/data/" and "//./data" do. */
bool path_is_same(const char *one, const char *other);

/* Lower-case hex digits, exactly n of them. */
bool name_is_hex(const char *name, size_t n);

/* The part of an ARN after its last '/', borrowed from it; NULL when it is no ARN or has none. */
const char *arn_resource_id(const char *arn);
