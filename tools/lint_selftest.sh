#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# lint_selftest.sh -- show each rule of lint.py something bad and see it found, at the right line;
# and see that good code has no findings. Prints "N passed, N failed".
set -u
cd "$(dirname "$0")" || exit 1
lint=$PWD/lint.py
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
passed=0
failed=0
head='/* SPDX-License-Identifier: Apache-2.0 */'

write() { # write PATH TEXT: the text goes after the head, so its first line is line 2
    mkdir -p "$work/tree/$(dirname "$1")"
    printf '%s\n%s\n' "$head" "$2" >"$work/tree/$1"
}

report() {
    if [ "$1" -eq 0 ]; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "FAILED: $2"
        sed 's/^/    /' "$work/output"
    fi
}

run_lint() {
    python3 "$lint" --root "$work/tree" "${flags[@]}" >"$work/output" 2>&1
    local status=$?
    rm -rf "$work/tree"
    return $status
}
flags=(--no-format)

# finds PATTERN: what was written has exactly the finding PATTERN (path:line: part of the text).
finds() {
    run_lint
    local status=$?
    [ $status -eq 1 ] && grep -qF -- "$1" "$work/output" && grep -q ', 1 findings$' "$work/output"
    report $? "finds: $1"
}

clean() {
    run_lint
    report $? "clean: $1"
}

repeat() { for _ in $(seq "$1"); do printf '%b' "$2"; done; }
in_function() { printf 'void f(int a)\n{\n%s\n}' "$1"; }

# ---- text -------------------------------------------------------------------------------------

write src/base/a.c "$(in_function "    /* $(repeat 95 x) */")"
finds "src/base/a.c:4: 105 columns"
write test/unit/a.c "$(in_function "$(printf '\tg();')")"
finds "test/unit/a.c:4: tab"
write test/unit/a.c "$(in_function "    g(); ")"
finds "test/unit/a.c:4: white space at the end"
mkdir -p "$work/tree/tools" && printf 'echo\n' >"$work/tree/tools/a.sh"
finds "tools/a.sh:1: no SPDX"
for word in TO""DO FIX""ME XX""X; do
    write cli/a.c "/* $word: later */"
    finds "cli/a.c:2: $word"
done
write cli/a.c 'const char *name = "folder-XXXXXX";'
clean "the pattern of mkstemp()"
write bench/a.c "$(repeat 1000 'int a;\n')"
finds "bench/a.c:1: 1001 lines in the file"

# ---- functions --------------------------------------------------------------------------------

write src/base/a.c "$(in_function "$(repeat 67 '    g();\n')")"
clean "a function of 70 lines"
write src/base/a.c "$(in_function "$(repeat 68 '    g();\n')")"
finds "src/base/a.c:2: f() has 71 lines"
write src/base/a.c "$(printf 'int g(int a, int b, int c, int d,\n      int e, int f, int h)\n{\n}')"
finds "src/base/a.c:2: g() has 7 parameters"
write src/base/a.c "$(printf 'int g(int a, int b, int c, int (*d)(int, int),\n')
      int e, int f, ...)
{
}"
clean "6 parameters and an ellipsis"
three='    for (;;) {\n        if (a) {\n            while (a) {\n%b            }\n        }\n    }'
in_three() { printf "$three" "                $1\n"; }
write src/base/a.c "$(in_function "$(in_three 'int b[] = {1, 2};')")"
clean "three levels"
write src/base/a.c "$(in_function "$(in_three 'do { g(); } while (a);')")"
finds "src/base/a.c:7: more than 3 levels of nesting in f()"

# ---- layers -----------------------------------------------------------------------------------

include() { write "$1" "#include $2"; }
for pair in 'base os/os.h' 'os sync/mutex.h' 'sync os/os.h' 'format os/os.h' 'index log/log.h' \
    'log index/hash.h' 'log store/store.h' 'sealed log/log.h' 'index format/record.h'; do
    read -r folder name <<<"$pair"
    include "src/$folder/a.c" "\"$name\""
    finds "src/$folder/a.c:2: \"$name\": $folder/ may not use"
done
for pair in 'os base/bytes.h' 'index sync/epoch.h' 'log format/record.h' 'store sealed/sealed.h' \
    'store log/log.h' 'base keepmap/keepmap.h' 'log log/log_internal.h'; do
    read -r folder name <<<"$pair"
    include "src/$folder/a.c" "\"$name\""
    clean "$folder uses $name"
done
include src/store/a.c '"log/log_internal.h"'
finds 'src/store/a.c:2: "log/log_internal.h" is internal to log/'
include src/log/a.c '"log.h"'
finds 'src/log/a.c:2: "log.h": name headers from src/ on'
include cli/a.c '"log/log.h"'
finds 'cli/a.c:2: "log/log.h": the tool and the examples see the public header only'
include examples/a.c '"base/bytes.h"'
finds 'examples/a.c:2: "base/bytes.h": the tool and the examples'
include cli/a.c '"keepmap/keepmap.h"'
clean "the tool uses the public header"
include src/store/a.c '<unistd.h>'
finds 'src/store/a.c:2: <unistd.h>: system headers belong'
include src/base/a.c '<pthread.h>'
finds 'src/base/a.c:2: <pthread.h>: system headers belong'
include src/os/a.c '<unistd.h>'
clean "os uses system headers"
include src/log/a.c '<immintrin.h>'
finds 'src/log/a.c:2: <immintrin.h>: intrinsics belong'
include src/base/a.c '<immintrin.h>'
clean "base uses intrinsics"
write src/log/a.c "$(in_function '    p = malloc(10);')"
finds 'src/log/a.c:4: malloc: only os/ and sync/'
write src/base/a.c "$(in_function '    p = malloc(10);')"
clean "base allocates buffers"
write src/log/a.c "$(in_function '    rc = errno;')"
finds 'src/log/a.c:4: errno: only os/ and sync/'
write src/store/a.c "$(in_function '    fprintf(stderr, "x");')"
finds 'src/store/a.c:4: fprintf: only os/ and sync/'
write src/log/a.c "$(in_function '    ops->free(snprintf(p, 1, "free()"), ops->open(p));
    km__free(p, error.errno);')"
clean "members and other names"

# ---- threads and state ------------------------------------------------------------------------

write src/log/a.c 'struct a {
    volatile int b;
};'
finds 'src/log/a.c:3: volatile'
write src/base/a.c "$(in_function '    __asm__ volatile("pause");')"
clean "volatile assembly"
for call in 'load(&a)' 'store(&a, 1)' 'fetch_add(&a, 1)' 'exchange(&a, 1)' \
    'compare_exchange_strong(&a, &b, 1)'; do
    write src/log/a.c "$(in_function "    atomic_$call;")"
    finds "src/log/a.c:4: atomic_${call%%(*}: spell the memory order out"
done
write src/log/a.c "$(in_function '    atomic_fetch_add_explicit(&a, 1, memory_order_relaxed);')"
clean "an explicit order"
write src/log/a.c "$(in_function '    __atomic_load_n(&a, 0);')"
finds "src/log/a.c:4: use C11 atomics"
write src/log/a.c "$(in_function '    atomic_thread_fence(memory_order_relaxed);')"
finds "src/log/a.c:4: bare fences"
write src/log/a.c "$(repeat 9 'int a(void);\n')
$(in_function '    atomic_store_explicit(&a, 1, memory_order_release);')"
finds "src/log/a.c:13: memory_order_release: no comment names its partner"
write src/log/a.c "$(repeat 9 'int a(void);\n')
$(in_function '    atomic_store_explicit(&a, 1, memory_order_release); /* pairs with g() */')"
clean "an order with its partner"
write src/log/a.c 'static int counter = 0;'
finds "src/log/a.c:2: global mutable state"
write src/log/a.c 'static const int counts[2] = {1, 2};'
clean "a constant table"

# ---- names ------------------------------------------------------------------------------------

write src/log/a.h ''
finds "src/log/a.h:1: the include guard is not KM_LOG_A_H"
for text in 'static int twice(int a)
{
}' 'static const int twice = 2;' '#define twice 2' 'struct twice {
};' 'enum kind {
    twice = 1
};'; do
    text=${text//kind/kind_$((passed + failed))}
    write src/log/a.c "$text"
    write src/index/b.c "${text//kind/kind_b}"
    line=2
    [[ $text == enum* ]] && line=3
    finds "src/log/a.c:$line: twice is defined in src/index/b.c too"
done
write src/log/a.c 'static int twice(int a);
static int twice(int a)
{
}
struct twice *f(void);'
write src/log/b.c 'struct twice;
static int other(int twice)
{
    static const int a = 1;
}'
clean "declarations, parameters and locals"

# ---- the public header ------------------------------------------------------------------------

comment='/*
 * km_a, km_b -- do.
 *
 * Returns:   nothing.
 * Lifetime:  nothing to release.
 * Threads:   any.
 * Blocks:    never.
 */'
write include/keepmap/a.h "$comment
KM_API void km_a(void);
KM_API KM_MUST_CHECK
km_status km_b(int (*visit)(void *context));"
clean "a comment for two functions"
write include/keepmap/a.h "$comment
KM_API void km_c(void);"
finds 'include/keepmap/a.h:10: km_c: no comment that begins with "km_c -- "'
for section in Returns Lifetime Threads Blocks; do
    write include/keepmap/a.h "$(grep -v "$section" <<<"$comment")
KM_API void km_a(void);"
    finds "include/keepmap/a.h:9: km_a: its comment has no $section"
done

# ---- the layout -------------------------------------------------------------------------------

if python3 "$lint" --root "$work" | grep -q 'layout is not checked'; then
    echo "clang-format 14 is not there: its rules are not tried"
else
    flags=()
    layout() {
        write src/base/a.c "$(in_function "$1")"
        cp ../.clang-format "$work/tree/"
    }
    layout '    if (a) goto out;
    while (a)
        a--;
out:
    return;'
    clean "the layout of the style guide"
    layout '    if (a) return;'
    finds "src/base/a.c:4: not as clang-format lays it out"
    layout '    a = (int) a;'
    finds "src/base/a.c:4: not as clang-format lays it out"
fi

echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
