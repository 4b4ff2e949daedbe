/* Token buckets, on a clock of the test's own. */
#include "tests/unit/cmocka_prelude.h"

#include "iam-creds/bucket.h"

static const struct bucket_rate rate = {.per_second = 40, .burst = 60};

static unsigned take_all(struct bucket *bucket, uint64_t now)
{
	unsigned n = 0;

	while (n < 1000 && bucket_take(bucket, &rate, now))
		n++;
	return n;
}

static void test_a_new_bucket_holds_a_burst(void **state)
{
	struct bucket bucket = {0};

	(void)state;
	assert_int_equal(take_all(&bucket, 5000000), 60);
}

static void test_it_fills_at_its_rate_and_no_further_than_a_burst(void **state)
{
	static const struct {
		uint64_t wait_usec;
		unsigned tokens;
	} cases[] = {{0, 0},        {24999, 0},    {25000, 1},          {1000000, 40},
	             {1500000, 60}, {9000000, 60}, {UINT64_MAX / 2, 60}};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct bucket bucket = {0};

		print_message("row %zu\n", i);
		(void)take_all(&bucket, 1);
		assert_int_equal(take_all(&bucket, 1 + cases[i].wait_usec), cases[i].tokens);
	}
}

static void test_a_steady_stream_at_the_rate_is_never_refused(void **state)
{
	struct bucket bucket = {0};
	uint64_t now = 1;

	(void)state;
	(void)take_all(&bucket, now);
	for (int i = 0; i < 10000; i++)
		assert_true(bucket_take(&bucket, &rate, now += 25000));
}

static void test_a_clock_that_goes_back_gives_nothing(void **state)
{
	struct bucket bucket = {0};

	(void)state;
	(void)take_all(&bucket, 5000000);
	assert_int_equal(take_all(&bucket, 4000000), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_a_new_bucket_holds_a_burst),
		cmocka_unit_test(test_it_fills_at_its_rate_and_no_further_than_a_burst),
		cmocka_unit_test(test_a_steady_stream_at_the_rate_is_never_refused),
		cmocka_unit_test(test_a_clock_that_goes_back_gives_nothing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
