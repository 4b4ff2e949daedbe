/* A token bucket: so many requests per second, and a burst. Zeroed, it is full. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct bucket_rate {
	uint64_t per_second; /* 1 to 1000000 */
	uint64_t burst;      /* 1 to 1000000 */
};

struct bucket {
	uint64_t updated_usec;
	uint64_t missing; /* millionths of tokens below a full bucket */
};

/* Take one token; false when there is none. now_usec: monotonic. */
bool bucket_take(struct bucket *bucket, const struct bucket_rate *rate, uint64_t now_usec);
