#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# check_build.sh -- what a user meets before the first call: does the header compile everywhere,
# does the library export what the header says, do the documents' programs compile and run, does
# an installed copy work. Prints a line for each failure and "N passed, N failed".
# Environment: BUILD, CC, NM.
set -u
cd "$(dirname "$0")/.." || exit 1
export LC_ALL=C

BUILD=${BUILD:-build}
CC=${CC:-gcc}
NM=${NM:-nm}
header=include/keepmap/keepmap.h
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
passed=0
failed=0

# check NAME COMMAND...: count the command's success; show its output if it fails.
check() {
    local name=$1
    shift
    if "$@" >"$work/output" 2>&1; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "FAILED: $name"
        head -40 "$work/output" | sed 's/^/    /'
    fi
}

has_command() { command -v "$1" >/dev/null 2>&1; }

urcu_cflags=$(pkg-config --cflags liburcu-bp 2>/dev/null)
urcu_libs=$(pkg-config --libs liburcu-bp 2>/dev/null || echo "-lurcu-common -lurcu-bp")
# What the library was built with, besides.
optional_libs=$(sed -n 's/^Libs.private: //p' "$BUILD/keepmap.pc" 2>/dev/null)
link_static="$BUILD/libkeepmap.a ${optional_libs:-$urcu_libs} -lpthread"
strict="-Wall -Wextra -Werror -pedantic -Wshadow"

# ---- the header -------------------------------------------------------------------------------

# A program of a stranger's: it uses initializers, macros and inline functions.
write_header_program() {
    cat >"$1" <<'EOF'
#include <keepmap/keepmap.h>
#include <keepmap/keepmap.h>

int main(void)
{
    km_options options = KM_OPTIONS_INIT;
    km_write write = KM_WRITE_INIT;
    km_buffer value = KM_BUFFER_INIT;
    km_store *store = NULL;
    km_map *map = NULL;
    int failed = 1;

    if (km_open_memory(&options, &store, NULL) != KM_OK)
        return 1;
    if (km_map_open_or_create(store, km_bytes_of_string("m"), KM_KIND_DEFAULT, &map) == KM_OK &&
        km_put_u64(map, 7, km_bytes_of_string("seven"), &write) == KM_OK &&
        km_get_u64(map, 7, &value) == KM_OK)
        failed = value.size != 5;
    km_buffer_free(&value);
    return km_close(store, NULL) != KM_OK || failed;
}
EOF
}

check_header() {
    write_header_program "$work/program.c"
    cp "$work/program.c" "$work/program.cc"
    check "header is clean as C99 ($CC)" \
        $CC -std=c99 $strict -Wstrict-prototypes -Iinclude -fsyntax-only "$work/program.c"
    check "header is clean as C11 ($CC)" \
        $CC -std=c11 $strict -Iinclude -fsyntax-only "$work/program.c"
    has_command g++ && check "header is clean as C++11 (g++)" \
        g++ -std=c++11 $strict -Iinclude -fsyntax-only "$work/program.cc"
    has_command clang && check "header is clean as C99 (clang)" \
        clang -std=c99 $strict -Iinclude -fsyntax-only "$work/program.c"
    has_command clang++ && check "header is clean as C++11 (clang++)" \
        clang++ -std=c++11 $strict -Iinclude -fsyntax-only "$work/program.cc"
    check_protobuf_header
}

# protobuf.h stands beside keepmap.h and needs protobuf-c's header, which keepmap.h must not.
check_protobuf_header() {
    local flags
    flags="$strict -Iinclude $(pkg-config --cflags libprotobuf-c 2>/dev/null) -fsyntax-only"
    printf '#include <keepmap/protobuf.h>\n#include <keepmap/protobuf.h>\nint main(void)\n%s\n' \
        '{ return KM_MESSAGE_DEPTH_MAX == 0; }' >"$work/messages.c"
    check "protobuf.h is clean as C99 ($CC)" $CC -std=c99 -Wstrict-prototypes $flags \
        "$work/messages.c"
    has_command g++ && check "protobuf.h is clean as C++11 (g++)" \
        g++ -std=c++11 -x c++ $flags "$work/messages.c"
    has_command clang++ && check "protobuf.h is clean as C++11 (clang++)" \
        clang++ -std=c++11 -x c++ $flags "$work/messages.c"
    check "keepmap.h does not need protobuf-c" keepmap_header_stands_alone
}

keepmap_header_stands_alone() {
    $CC -std=c99 -Iinclude -M "$work/program.c" >"$work/included" || return 1
    ! grep -o '[^ ]*protobuf[^ ]*' "$work/included"
}

# ---- what the libraries hold ------------------------------------------------------------------

# The functions declared KM_API: the compiler's own view of the header, without its inline ones.
declared_functions() {
    printf '#define KM_API km_exported_here\n' >"$work/mark.h"
    # KM_API is defined by the header itself: let that definition lose.
    sed 's/^\( *\)# *define KM_API.*/#define KM_API km_exported_here/' $header >"$work/marked.h"
    $CC -E -P -I"$work" -Iinclude -x c "$work/marked.h" | tr '\n' ' ' | tr ';' '\n' |
        sed -n 's/.*km_exported_here *//p' | grep -o 'km_[a-z0-9_]* *(' | tr -d ' (' | sort -u
}

same_lists() {
    diff -u --label "$1" --label "$2" "$3" "$4"
}

check_symbols() {
    declared_functions >"$work/declared"
    check "the header declares functions" test -s "$work/declared"
    $NM -D --defined-only "$BUILD/libkeepmap.so" | awk '$2 != "A" { print $3 }' | sed 's/@.*//' |
        sort -u >"$work/exported"
    check "the shared library exports the functions of the header and nothing else" \
        same_lists "declared KM_API" "exported by libkeepmap.so" "$work/declared" "$work/exported"
    # Nothing of the static library may clash with a user's names.
    $NM -g --defined-only "$BUILD/libkeepmap.a" 2>/dev/null | awk 'NF == 3 { print $3 }' |
        grep -v '^km_' | sort -u >"$work/foreign"
    check "the static library defines only names that begin with km_" \
        same_lists /dev/null "other names" /dev/null "$work/foreign"
    check "the soname is libkeepmap.so.$(sed -n 's/^#define KM_VERSION_MAJOR //p' $header)" \
        soname_is_major
}

soname_is_major() {
    local major
    major=$(sed -n 's/^#define KM_VERSION_MAJOR //p' $header)
    readelf -d "$BUILD/libkeepmap.so" | grep -q "SONAME.*\[libkeepmap.so.$major\]"
}

one_file_is_current() {
    tools/all_c.sh >"$work/all.c" && diff -u src/all.c "$work/all.c" && return 0
    echo "src/all.c is out of date: run 'make src/all.c'"
    return 1
}

one_file_runs() {
    $CC -std=c11 -O1 -Wall -Wextra -Werror -Wshadow -Iinclude -Isrc $urcu_cflags \
        "$work/program.c" src/all.c -o "$work/one" $urcu_libs -lpthread && "$work/one"
}

# ---- documents and examples -------------------------------------------------------------------

needs_libuv() { grep -q '^#include <uv\.h>$' "$1"; }

# An example that includes NAME.pb-c.h has its messages in examples/NAME.proto.
build_example() {
    local name messages=
    for name in $(sed -n 's/^#include "\(.*\)\.pb-c\.h"$/\1/p' "$1"); do
        ${PROTOC_C:-protoc-c} -Iexamples --c_out="$work" "examples/$name.proto" || return 1
        messages="$messages $work/$name.pb-c.c"
    done
    [ -n "$messages" ] && messages="-I$work $messages $(pkg-config --cflags --libs libprotobuf-c)"
    needs_libuv "$1" && messages="$messages $(pkg-config --cflags --libs libuv)"
    $CC -std=c99 -Wall -Wextra -Werror -Iinclude "$1" -o "$work/example" $link_static $messages
}

# Run in an empty folder, with a path there for those that want one.
run_example() {
    rm -rf "$work/folder" && mkdir "$work/folder"
    (cd "$work/folder" && timeout 60 ../example example.store </dev/null)
}

# Split a document's blocks of C into $work/block.N; the line before a block may say where it is
# from: <!-- from examples/readme.c -->, kept in $work/block.N.from.
extract_blocks() {
    rm -f "$work"/block.*
    awk -v base="$work/block." '
        inside && /^```/ { inside = 0; close(file); next }
        inside { print >file; next }
        /^```c$/ {
            file = base (++count); inside = 1; printf "" >file
            if (from != "") { print from >(file ".from"); close(file ".from") }
            from = ""; next
        }
        /^<!-- from .* -->$/ { from = $3; next }
        NF { from = "" }' "$1"
}

# A block must be a run of whole lines of its file.
block_is_part_of() {
    [ -f "$2" ] || { echo "there is no $2"; return 1; }
    awk 'NR == FNR { block[++n] = $0; next } { file[++m] = $0 }
        END {
            for (at = 0; at + n <= m; at++) {
                for (i = 1; i <= n && file[at + i] == block[i]; i++) { }
                if (i > n) exit 0
            }
            exit 1
        }' "$1" "$2" && return 0
    echo "the block differs from $2:"
    diff "$1" "$2"
    return 1
}

# A block from no file must compile: as a file, or as the body of a function with a store at hand.
block_compiles() {
    local includes
    includes='#include <keepmap/keepmap.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>'
    { echo "$includes"; cat "$1"; } >"$work/file.c"
    {
        echo "$includes"
        echo 'void f(km_store *store, km_map *map, km_bytes key, km_bytes value);'
        echo 'void f(km_store *store, km_map *map, km_bytes key, km_bytes value) {'
        echo '(void)store; (void)map; (void)key; (void)value;'
        cat "$1"
        echo '}'
    } >"$work/body.c"
    $CC -std=c11 -Iinclude -fsyntax-only "$work/file.c" 2>"$work/errors" && return 0
    $CC -std=c11 -Iinclude -fsyntax-only "$work/body.c" && return 0
    cat "$work/errors"
    return 1
}

check_documents() {
    local document block number from
    for document in README.md docs/*.md; do
        [ -f "$document" ] || continue
        extract_blocks "$document"
        for block in "$work"/block.*; do
            case $block in *.from | *'*') continue ;; esac
            number=${block##*.}
            if [ -f "$block.from" ]; then
                from=$(cat "$block.from")
                check "$document, C block $number, is as in $from" block_is_part_of "$block" "$from"
            elif [ "$document" = README.md ]; then
                check "README.md, C block $number, says which example it is from" false
            else
                check "$document, C block $number, compiles" block_compiles "$block"
            fi
        done
    done
}

check_examples() {
    local example
    for example in examples/*.c; do
        [ -f "$example" ] || continue
        needs_libuv "$example" && ! pkg-config --exists libuv && continue # an optional package
        check "$example compiles" build_example "$example"
        check "$example runs" run_example
    done
}

man_page_is_clean() {
    if has_command mandoc; then
        mandoc -T lint -W warning "$1"
    else
        man --warnings -E UTF-8 -Tutf8 -Z -l "$1" 2>&1 >/dev/null | tee "$work/man"
        [ ! -s "$work/man" ]
    fi
}

check_man_pages() {
    local page
    has_command mandoc || has_command groff || return 0
    for page in docs/*.[13]; do
        [ -f "$page" ] && check "$page has no syntax warnings" man_page_is_clean "$page"
    done
}

# ---- an installed copy ------------------------------------------------------------------------

make_quietly() {
    make --no-print-directory BUILD="$BUILD" CC="$CC" PREFIX=/opt/keepmap DESTDIR="$work/root" "$@"
}

with_installed() {
    PKG_CONFIG_PATH="$work/root/opt/keepmap/lib/pkgconfig${PKG_CONFIG_PATH:+:$PKG_CONFIG_PATH}" \
        PKG_CONFIG_SYSROOT_DIR="$work/root" pkg-config "$@" keepmap
}

shared_program_runs() {
    local flags
    flags=$(with_installed --cflags --libs) || return 1
    $CC -std=c99 "$work/program.c" -o "$work/shared" $flags &&
        LD_LIBRARY_PATH="$work/root/opt/keepmap/lib" "$work/shared"
}

static_program_runs() {
    local flags
    flags=$(with_installed --static --cflags --libs) || return 1
    $CC -std=c99 "$work/program.c" -o "$work/static" -Wl,-Bstatic \
        ${flags//-lkeepmap/-lkeepmap -Wl,-Bdynamic} && "$work/static"
}

installed_version_is_right() {
    local part version=
    for part in MAJOR MINOR PATCH; do
        version=$version.$(sed -n "s/^#define KM_VERSION_$part //p" $header)
    done
    [ "$(with_installed --modversion)" = "${version#.}" ]
}

nothing_is_left() {
    find "$work/root" ! -type d | sed 's/^/left: /' | tee "$work/left"
    [ ! -s "$work/left" ]
}

check_install() {
    check "make install" make_quietly install
    check "pkg-config knows the version" installed_version_is_right
    check "a program builds against the installed shared library and runs" shared_program_runs
    check "a program builds against the installed static library and runs" static_program_runs
    [ -f "$BUILD/keepmap" ] && check "the installed tool starts" \
        "$work/root/opt/keepmap/bin/keepmap" --version
    check "make uninstall" make_quietly uninstall
    check "make uninstall leaves nothing" nothing_is_left
}

check_header
check_symbols
check "src/all.c is current" one_file_is_current
check "the one-file build compiles without warnings and runs" one_file_runs
check_examples
check_documents
check_man_pages
check_install

echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
