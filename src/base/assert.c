/* SPDX-License-Identifier: Apache-2.0
 *
 * assert.c -- the end of a process whose promises are broken.
 */
#include "base/assert.h"

#include <stdio.h>
#include <stdlib.h>

_Noreturn void km__assert_failed(const char *condition, const char *file, int line)
{
    fprintf(stderr, "keepmap: %s:%d: assertion failed: %s\n", file, line, condition);
    abort();
}
