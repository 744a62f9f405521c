# SPDX-License-Identifier: Apache-2.0
#
# Keepmap's build. `make help` lists what it can do.
#
# Everything is built under $(BUILD); `make check-asan` and `check-tsan` use trees of their own
# below it. Sources are found by pattern, header dependencies by the compiler.

BUILD ?= build
PREFIX ?= /usr/local
LIBDIR ?= $(PREFIX)/lib
INCLUDEDIR ?= $(PREFIX)/include
BINDIR ?= $(PREFIX)/bin
MANDIR ?= $(PREFIX)/share/man
DESTDIR ?=

ifeq ($(origin CC),default)
CC := gcc
endif
AR ?= ar
NM ?= nm
SAN ?=
WERROR ?= -Werror
OPTIMIZE ?= -O2 -g
SHELL := bash
JOBS ?= $(shell nproc 2>/dev/null || echo 2)

header := include/keepmap/keepmap.h
version_part = $(shell sed -n 's/^.define KM_VERSION_$(1) \([0-9]*\)$$/\1/p' $(header))
major := $(call version_part,MAJOR)
VERSION := $(major).$(call version_part,MINOR).$(call version_part,PATCH)
soname := libkeepmap.so.$(major)
so_file := libkeepmap.so.$(VERSION)

# ---- flags ------------------------------------------------------------------------------------

# Alignment faults are recoverable only so that tools/ubsan.supp can name the one of liburcu's; the
# others end the program as all faults do, by halt_on_error.
san_common := -fno-sanitize-recover=all -fsanitize-recover=alignment -DKM_DEBUG
san_asan := -fsanitize=address,undefined -fno-omit-frame-pointer $(san_common)
san_tsan := -fsanitize=thread -fno-omit-frame-pointer -DKM_DEBUG
san_fuzz := -fsanitize=fuzzer-no-link,address,undefined $(san_common)
ubsan_options := print_stacktrace=1:halt_on_error=1:suppressions=$(CURDIR)/tools/ubsan.supp
san_flags := $(san_$(SAN))

warnings := -Wall -Wextra $(WERROR) -Wshadow -Wstrict-prototypes
urcu_cflags := $(shell pkg-config --cflags liburcu-bp 2>/dev/null)
urcu_libs := $(or $(strip $(shell pkg-config --libs liburcu-bp 2>/dev/null)),\
	-lurcu-common -lurcu-bp)
# Both are optional: without liburing threads do what it does, without zstd sealed tables are not
# compressed. `make WITHOUT="liburing libzstd"` leaves them out.
WITHOUT ?=
optional_packages := $(strip $(foreach p,liburing libzstd,$(if $(filter $(p),$(WITHOUT)),,\
	$(shell pkg-config --exists $(p) 2>/dev/null && echo $(p)))))
optional_cflags := $(if $(filter liburing,$(optional_packages)),-DKM_WITH_LIBURING) \
	$(if $(filter libzstd,$(optional_packages)),-DKM_WITH_ZSTD) \
	$(if $(optional_packages),$(shell pkg-config --cflags $(optional_packages)))
optional_libs := $(if $(optional_packages),$(shell pkg-config --libs $(optional_packages)))
# Only for tests of keepmap/protobuf.h, as is protoc-c; the library and the tool do without.
PROTOC_C ?= protoc-c
proto_cflags := $(shell pkg-config --cflags libprotobuf-c 2>/dev/null)
proto_libs := $(or $(strip $(shell pkg-config --libs libprotobuf-c 2>/dev/null)),-lprotobuf-c)

# One set of objects serves both libraries: position-independent, and hidden but for KM_API. The
# static library thus still gives tests the internals.
lib_cflags := -fPIC -fvisibility=hidden
ifeq ($(shell $(CC) -fno-semantic-interposition -E -x c /dev/null >/dev/null 2>&1 && echo yes),yes)
lib_cflags += -fno-semantic-interposition
endif
base_cflags = -std=c11 -D_GNU_SOURCE $(OPTIMIZE) $(warnings) -Iinclude -Isrc $(urcu_cflags) \
	$(optional_cflags) $(san_flags) $(CFLAGS)
LDLIBS_ALL = $(urcu_libs) $(optional_libs) -lpthread $(LDLIBS)
link = $(CC) $(OPTIMIZE) $(san_flags) $(CFLAGS) $(LDFLAGS)

ifeq ($(V),1)
Q :=
say = @:
else
Q := @
say = @printf '  %-7s %s\n'
endif

# ---- files ------------------------------------------------------------------------------------

lib_sources := $(sort $(wildcard src/*/*.c))
cli_sources := $(sort $(wildcard cli/*.c))
support_sources := $(sort $(wildcard test/sim/*.c test/harness/*.c))
# The slow ones first: the programs run side by side, and a long one at the end is waited for alone.
test_sources := $(foreach d,crash model conc seeds unit,$(sort $(wildcard test/$(d)/test_*.c)))
# Under ThreadSanitizer: what has threads.
tsan_sources := $(filter test/conc/%,$(test_sources)) $(shell grep -lE \
	'pthread_create|thread_start' /dev/null $(filter test/unit/%,$(test_sources)))

# Those that include a header made by protoc-c; they are linked with all messages of the tests.
proto_sources := $(shell grep -l 'pb-c\.h"' /dev/null $(test_sources))
protos := $(sort $(wildcard test/*/*.proto))

object = $(patsubst %.c,$(BUILD)/obj/%.o,$(1))
lib_objects := $(call object,$(lib_sources))
cli_objects := $(call object,$(cli_sources))
support_objects := $(call object,$(support_sources))
test_programs := $(patsubst %.c,$(BUILD)/%,$(test_sources))
tsan_programs := $(patsubst %.c,$(BUILD)/%,$(tsan_sources))
LIB := $(BUILD)/libkeepmap.a
TOOL := $(if $(cli_sources),$(BUILD)/keepmap)
SUPPORT := $(BUILD)/test/libsupport.a

.DEFAULT_GOAL := all
.DELETE_ON_ERROR:
.SECONDARY:
.PHONY: all deps try check check-asan check-tsan fuzz soak lint format mutations bench install \
	uninstall clean help test-programs tsan-programs fuzz-programs run-fuzz FORCE

all: $(LIB) $(BUILD)/libkeepmap.so $(BUILD)/keepmap.pc $(TOOL)

# ---- rules ------------------------------------------------------------------------------------

# Changes only when compiler or flags do; everything compiled depends on it.
flags_file := $(BUILD)/flags
$(flags_file): FORCE
	@mkdir -p $(@D)
	@printf '%s\n' '$(CC) $(base_cflags) $(lib_cflags) $(LDFLAGS) $(LDLIBS_ALL)' >$@.new
	@if cmp -s $@.new $@; then rm -f $@.new; else mv -f $@.new $@; fi

$(BUILD)/obj/src/%.o: src/%.c $(flags_file)
	$(say) CC $<
	@mkdir -p $(@D)
	$(Q)$(CC) $(base_cflags) $(lib_cflags) -MMD -MP -c -o $@ $<

# cli sees the public header only; `make lint` holds it to that.
$(BUILD)/obj/cli/%.o: cli/%.c $(flags_file)
	$(say) CC $<
	@mkdir -p $(@D)
	$(Q)$(CC) $(base_cflags) -Icli -MMD -MP -c -o $@ $<

$(BUILD)/obj/test/%.o: test/%.c $(flags_file)
	$(say) CC $<
	@mkdir -p $(@D)
	$(Q)$(CC) $(base_cflags) -Itest -I$(BUILD)/gen $(proto_cflags) -MMD -MP -c -o $@ $<

$(BUILD)/gen/%.pb-c.c $(BUILD)/gen/%.pb-c.h: %.proto
	$(say) PROTOC $<
	@mkdir -p $(BUILD)/gen
	$(Q)$(PROTOC_C) --c_out=$(BUILD)/gen $<

$(BUILD)/obj/%.pb-c.o: $(BUILD)/gen/%.pb-c.c $(flags_file)
	$(say) CC $<
	@mkdir -p $(@D)
	$(Q)$(CC) $(base_cflags) -I$(BUILD)/gen $(proto_cflags) -MMD -MP -c -o $@ $<

# The lists of members: an archive is made anew when a source comes or goes.
$(BUILD)/%.members: FORCE
	@mkdir -p $(@D)
	@printf '%s\n' $(members) >$@.new
	@if cmp -s $@.new $@; then rm -f $@.new; else mv -f $@.new $@; fi
$(BUILD)/library.members: members = $(lib_objects)
$(BUILD)/support.members: members = $(support_objects)

$(LIB): $(lib_objects) $(BUILD)/library.members
	$(say) AR $@
	@mkdir -p $(@D)
	$(Q)rm -f $@ && $(AR) rcs $@ $(lib_objects)

$(SUPPORT): $(support_objects) $(BUILD)/support.members
	$(say) AR $@
	@mkdir -p $(@D)
	$(Q)rm -f $@ && $(AR) rcs $@ $(support_objects)

$(BUILD)/$(so_file): $(lib_objects) $(BUILD)/library.members keepmap.map
	$(say) LINK $@
	$(Q)$(link) -shared -Wl,-soname,$(soname) -Wl,--version-script=keepmap.map \
		$(if $(san_flags),,-Wl$(comma)-z$(comma)defs) -o $@ $(lib_objects) $(LDLIBS_ALL)

$(BUILD)/libkeepmap.so: $(BUILD)/$(so_file)
	$(Q)ln -sf $(so_file) $(BUILD)/$(soname)
	$(Q)ln -sf $(soname) $@
comma := ,

$(BUILD)/keepmap: $(cli_objects) $(LIB)
	$(say) LINK $@
	$(Q)$(link) -o $@ $(cli_objects) $(LIB) $(LDLIBS_ALL)

$(BUILD)/test/%: $(BUILD)/obj/test/%.o $(SUPPORT) $(LIB)
	$(say) LINK $@
	@mkdir -p $(@D)
	$(Q)$(link) -o $@ $< $(SUPPORT) $(LIB) -lcmocka $(LDLIBS_ALL) -lm

proto_objects := $(protos:%.proto=$(BUILD)/obj/%.pb-c.o)
$(call object,$(proto_sources)): | $(protos:%.proto=$(BUILD)/gen/%.pb-c.h)
$(proto_sources:%.c=$(BUILD)/%): $(BUILD)/%: $(BUILD)/obj/%.o $(proto_objects) $(SUPPORT) $(LIB)
	$(say) LINK $@
	@mkdir -p $(@D)
	$(Q)$(link) -o $@ $< $(proto_objects) $(SUPPORT) $(LIB) -lcmocka $(proto_libs) \
		$(LDLIBS_ALL) -lm

# Unlike the other tests it has several sources.
soak_objects := $(call object,$(sort $(wildcard test/soak/*.c)))
$(BUILD)/test/soak/soak: $(soak_objects) $(SUPPORT) $(LIB)
	$(say) LINK $@
	@mkdir -p $(@D)
	$(Q)$(link) -o $@ $(soak_objects) $(SUPPORT) $(LIB) -lcmocka $(LDLIBS_ALL) -lm

# The one-file build. It is in the tree for who wants to copy src/ and include/ and compile one
# file; `make check` says when it is out of date.
src/all.c: FORCE
	@tools/all_c.sh >$@.new
	@if cmp -s $@.new $@; then rm -f $@.new; else mv -f $@.new $@; echo "  GEN     $@"; fi

$(BUILD)/keepmap.pc: keepmap.pc.in $(header) FORCE
	@mkdir -p $(@D)
	$(Q)sed -e 's|@PREFIX@|$(PREFIX)|' -e 's|@LIBDIR@|$(LIBDIR)|' -e 's|@VERSION@|$(VERSION)|' \
		-e 's|@INCLUDEDIR@|$(INCLUDEDIR)|' \
		-e 's|@PRIVATE_LIBS@|$(strip $(urcu_libs) $(optional_libs))|' $< >$@

-include $(shell test -d $(BUILD)/obj && find $(BUILD)/obj -name '*.d')

# ---- checks -----------------------------------------------------------------------------------

sub_make = $(MAKE) --no-print-directory $(if $(filter -j%,$(MAKEFLAGS)),,-j$(JOBS))
cli_test = $(if $(and $(TOOL),$(wildcard test/cli/test_cli.sh)),"test/cli/test_cli.sh $(TOOL)")

deps:
	@tools/deps.sh build

try:
	@tools/deps.sh build try
	@$(sub_make) all
	@tools/try.sh $(BUILD)/keepmap

test-programs: $(test_programs)
tsan-programs: $(tsan_programs)

# A program that does not build must not hide what the others say, hence -k and BUILD_FAILED.
check:
	@tools/deps.sh build test
	@$(sub_make) -k all test-programs || failed=1; \
	BUILD=$(BUILD) CC='$(CC)' NM='$(NM)' BUILD_FAILED=$$failed tools/run_tests.sh $(test_programs) \
		$(cli_test) tools/check_build.sh

asan_check = BUILD=$(BUILD)/asan SAN=asan
check-asan:
	@tools/deps.sh build test
	@$(sub_make) $(asan_check) -k all test-programs || failed=1; \
	export KM_TEST_SCALE=$${KM_TEST_SCALE:-30}; \
	export ASAN_OPTIONS=detect_leaks=1:detect_stack_use_after_return=1:$$ASAN_OPTIONS; \
	export UBSAN_OPTIONS=$(ubsan_options):$$UBSAN_OPTIONS; \
	BUILD=$(BUILD)/asan BUILD_FAILED=$$failed tools/run_tests.sh \
		$(test_programs:$(BUILD)/%=$(BUILD)/asan/%) $(subst $(TOOL),$(BUILD)/asan/keepmap,$(cli_test))

# Its deadlock detector breaks down when a thread holds more than 64 locks, as a large batch does.
tsan_supp := $(wildcard test/tsan.supp)
tsan_options := detect_deadlocks=0$(if $(tsan_supp),:suppressions=$(CURDIR)/$(tsan_supp))

check-tsan:
	@tools/deps.sh build test
	@$(sub_make) BUILD=$(BUILD)/tsan SAN=tsan -k tsan-programs || failed=1; \
	export KM_TEST_SCALE=$${KM_TEST_SCALE:-15}; \
	export TSAN_OPTIONS=$(tsan_options):$$TSAN_OPTIONS; \
	BUILD=$(BUILD)/tsan BUILD_FAILED=$$failed tools/run_tests.sh \
		$(tsan_programs:$(BUILD)/%=$(BUILD)/tsan/%)

SOAK_SECONDS = $(if $(filter command line environment,$(origin SECONDS)),$(SECONDS),3600)

soak:
	@tools/deps.sh build test
	@$(sub_make) $(BUILD)/test/soak/soak
	@$(BUILD)/test/soak/soak $(SOAK_SECONDS)

lint:
	@tools/deps.sh lint
	@tools/lint_selftest.sh
	@tools/lint.sh

format:
	@tools/lint.sh --format

mutations:
	@tools/deps.sh build test
	@tools/mutations.sh

# ---- fuzzing ----------------------------------------------------------------------------------

# Each test/fuzz/fuzz_NAME.c is an LLVMFuzzerTestOneInput. With clang's libFuzzer if it is there,
# else with gcc and the driver test/fuzz/fuzz_main.c, which takes the same arguments.
fuzz_sources := $(filter-out test/fuzz/fuzz_main.c,$(sort $(wildcard test/fuzz/fuzz_*.c)))
fuzz_programs := $(patsubst %.c,$(BUILD)/%,$(fuzz_sources))
has_libfuzzer = $(shell printf '%s' 'int LLVMFuzzerTestOneInput(const char *, unsigned long); \
	int LLVMFuzzerTestOneInput(const char *p, unsigned long n) { return !p && n; }' | clang -x c - \
	-fsanitize=fuzzer,address,undefined -o /dev/null 2>/dev/null && echo yes)
FUZZ_SECONDS = $(if $(filter command line environment,$(origin SECONDS)),$(SECONDS),30)

fuzz:
	@tools/deps.sh build
	@$(sub_make) $(if $(has_libfuzzer),BUILD=$(BUILD)/fuzz CC=clang SAN=fuzz,BUILD=$(BUILD)/fuzz-gcc \
		SAN=asan) FUZZ_SECONDS=$(FUZZ_SECONDS) run-fuzz

fuzz-programs: $(fuzz_programs)

ifeq ($(SAN),fuzz)
$(fuzz_programs): $(BUILD)/test/fuzz/%: $(BUILD)/obj/test/fuzz/%.o $(SUPPORT) $(LIB)
	$(say) LINK $@
	@mkdir -p $(@D)
	$(Q)$(link) -fsanitize=fuzzer -o $@ $< $(SUPPORT) $(LIB) $(LDLIBS_ALL) -lm
else
fuzz_main := $(call object,test/fuzz/fuzz_main.c)
$(fuzz_programs): $(BUILD)/test/fuzz/%: $(BUILD)/obj/test/fuzz/%.o $(fuzz_main) $(SUPPORT) $(LIB)
	$(say) LINK $@
	@mkdir -p $(@D)
	$(Q)$(link) -o $@ $< $(fuzz_main) $(SUPPORT) $(LIB) $(LDLIBS_ALL) -lm
endif

run-fuzz: fuzz-programs
	@UBSAN_OPTIONS=$(ubsan_options):$$UBSAN_OPTIONS tools/run_fuzz.sh $(FUZZ_SECONDS) \
		$(BUILD)/corpus $(fuzz_programs)

# ---- installing -------------------------------------------------------------------------------

man_pages := $(wildcard docs/*.1 docs/*.3)
man_target = $(DESTDIR)$(MANDIR)/man$(patsubst .%,%,$(suffix $(1)))/$(notdir $(1))

install: all $(BUILD)/keepmap.pc
	install -d $(DESTDIR)$(LIBDIR)/pkgconfig $(DESTDIR)$(INCLUDEDIR)/keepmap $(DESTDIR)$(BINDIR)
	install -m 644 $(LIB) $(DESTDIR)$(LIBDIR)/
	install -m 755 $(BUILD)/$(so_file) $(DESTDIR)$(LIBDIR)/
	ln -sf $(so_file) $(DESTDIR)$(LIBDIR)/$(soname)
	ln -sf $(soname) $(DESTDIR)$(LIBDIR)/libkeepmap.so
	install -m 644 $(BUILD)/keepmap.pc $(DESTDIR)$(LIBDIR)/pkgconfig/
	install -m 644 $(wildcard include/keepmap/*.h) $(DESTDIR)$(INCLUDEDIR)/keepmap/
	$(if $(TOOL),install -m 755 $(TOOL) $(DESTDIR)$(BINDIR)/)
	$(foreach m,$(man_pages),install -D -m 644 $(m) $(call man_target,$(m)) &&) true

uninstall:
	rm -f $(addprefix $(DESTDIR)$(LIBDIR)/,libkeepmap.a libkeepmap.so $(soname) $(so_file) \
		pkgconfig/keepmap.pc) $(DESTDIR)$(BINDIR)/keepmap \
		$(addprefix $(DESTDIR)$(INCLUDEDIR)/keepmap/,$(notdir $(wildcard include/keepmap/*.h))) \
		$(foreach m,$(man_pages),$(call man_target,$(m)))
	-rmdir $(DESTDIR)$(INCLUDEDIR)/keepmap 2>/dev/null || true

clean:
	rm -rf $(BUILD)

help:
	@echo 'make               the library (static, shared) and the tool, under build/'
	@echo 'make deps          install what building needs (Debian packages)'
	@echo 'make try           build, then a short tour'
	@echo 'make check         all tests; SEED=n repeats a run'
	@echo 'make check-asan    the same under AddressSanitizer and UBSan'
	@echo 'make check-tsan    those with threads, under ThreadSanitizer'
	@echo 'make fuzz          every fuzz target for SECONDS=30'
	@echo 'make soak          everything at once, with kills, for SECONDS=3600'
	@echo 'make mutations     break the engine on purpose; the tests must notice'
	@echo 'make lint          the rules of the style guide that a script can check'
	@echo 'make format        lay the C files out as .clang-format says'
	@echo 'make bench         measure beside peers; bench/README.md tells more of these:'
	@echo '                   bench-order, bench-snapshot, bench-sealed, bench-turnover, bench-reopen,'
	@echo '                   bench-memory, bench-sealed-memory'
	@echo 'make bench-quick   orders, snapshots, sealed tables, small: seconds, to see that they work'
	@echo 'make src/all.c     list all sources anew in the one-file build'
	@echo 'make install       to PREFIX=/usr/local, under DESTDIR; make uninstall'
	@echo 'make clean         remove build/'
	@echo 'V=1 shows commands; CC=clang, OPTIMIZE="-O0 -g", CFLAGS, LDFLAGS and WERROR= are respected.'

-include bench/bench.mk
