/* Waits that grow, and the kernel's random numbers for their jitter. */
#include "lib/backoff.h"

#include <stdio.h>
#include <sys/random.h>

uint64_t backoff_next(struct backoff *backoff, double random)
{
	uint64_t wait_usec = backoff->next_usec ? backoff->next_usec : backoff->min_usec;
	double next = (double)wait_usec * backoff->multiple;

	backoff->next_usec = next < (double)backoff->max_usec ? (uint64_t)next : backoff->max_usec;
	return wait_usec + (uint64_t)((double)wait_usec * backoff->jitter * random);
}

void backoff_reset(struct backoff *backoff)
{
	backoff->next_usec = 0;
}

/* getrandom(2) of so few bytes neither fails nor blocks once the kernel has started. */
static void random_bytes(void *buf, size_t n)
{
	while (getrandom(buf, n, 0) != (ssize_t)n)
		;
}

double random_fraction(void)
{
	uint64_t bits;

	random_bytes(&bits, sizeof(bits));
	return (double)(bits >> 11) / (double)(1ULL << 53);
}

void uuid_make(char buf[static 37])
{
	unsigned char b[16];

	random_bytes(b, sizeof(b));
	b[6] = (unsigned char)((b[6] & 0x0f) | 0x40);
	b[8] = (unsigned char)((b[8] & 0x3f) | 0x80);
	snprintf(buf, 37, "%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x",
	         b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7], b[8], b[9], b[10], b[11], b[12],
	         b[13], b[14], b[15]);
}
