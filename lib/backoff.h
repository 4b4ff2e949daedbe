/* How long to wait before trying again: grows by a factor up to a limit, with random jitter. */
#pragma once

#include <stdint.h>

struct backoff {
	uint64_t min_usec;
	uint64_t max_usec;
	double multiple;
	double jitter; /* up to this part of the wait is added at random */
	/* private */
	uint64_t next_usec; /* 0: min_usec */
};

/* The next wait; random in [0,1) (see random_fraction()). */
uint64_t backoff_next(struct backoff *backoff, double random);
void backoff_reset(struct backoff *backoff);

/* Uniform in [0,1), from the kernel. */
double random_fraction(void);
/* A version 4 UUID in lower case. */
void uuid_make(char buf[static 37]);
