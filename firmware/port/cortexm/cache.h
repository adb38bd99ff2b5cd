#ifndef POET_CORTEXM_CACHE_H
#define POET_CORTEXM_CACHE_H

/* Turn the caches of a Cortex-M7 on, where port.h sets POET_CACHES to 1. */
void poet_cache_enable(void);

#endif
