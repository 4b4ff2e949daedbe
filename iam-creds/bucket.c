/* Counted in what is missing from a full bucket, so that an unused one needs no setting up. */
#include "iam-creds/bucket.h"

#define TOKEN UINT64_C(1000000) /* so that one microsecond at N per second brings N */

bool bucket_take(struct bucket *bucket, const struct bucket_rate *rate, uint64_t now_usec)
{
	uint64_t elapsed = now_usec > bucket->updated_usec ? now_usec - bucket->updated_usec : 0;

	/* More than an hour fills any bucket; bounded before it is multiplied. */
	if (elapsed > 3600 * TOKEN || elapsed * rate->per_second >= bucket->missing)
		bucket->missing = 0;
	else
		bucket->missing -= elapsed * rate->per_second;
	bucket->updated_usec = now_usec;

	if (bucket->missing + TOKEN > rate->burst * TOKEN)
		return false;
	bucket->missing += TOKEN;
	return true;
}
