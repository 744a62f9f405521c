#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# all_c.sh -- print src/all.c: every source file of the library, included into one.
set -eu -o pipefail
cd "$(dirname "$0")/.."

cat <<'HEAD'
/* SPDX-License-Identifier: Apache-2.0
 *
 * all.c -- the whole library as one file to compile, with include/ and src/ on the include path.
 *
 * Made by `make src/all.c`; `make check` compiles it, and says when it is out of date.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

HEAD
for source in src/*/*.c; do
    [ -f "$source" ] || continue
    printf '#include "%s"\n' "${source#src/}"
done | LC_ALL=C sort
