/* Owned locals release themselves: declare each with its cleanup and an empty value. */
#pragma once

#include <stdio.h>
#include <stdlib.h>

#define _cleanup_(f) __attribute__((__cleanup__(f), __unused__))

/* Makes f##p() for _cleanup_() out of a destructor that copes with NULL. */
#define DEFINE_CLEANUP(type, f)                                                                    \
	static inline void f##p(type *p)                                                           \
	{                                                                                          \
		if (*p)                                                                            \
			f(*p);                                                                     \
		*p = NULL;                                                                         \
	}

#define TAKE_PTR(p)                                                                                \
	({                                                                                         \
		__auto_type _p = &(p);                                                             \
		__auto_type _v = *_p;                                                              \
		*_p = NULL;                                                                        \
		_v;                                                                                \
	})

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))

static inline void freep(void *p)
{
	free(*(void **)p);
	*(void **)p = NULL;
}
#define _cleanup_free_ _cleanup_(freep)

DEFINE_CLEANUP(FILE *, fclose)
#define _cleanup_fclose_ _cleanup_(fclosep)
