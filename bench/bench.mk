# SPDX-License-Identifier: Apache-2.0
#
# bench.mk -- build and run the benchmark; included by the top Makefile.
#
#   make bench                    1,000,000 records, about six minutes
#   make bench RECORDS=10000000   the large one
#   make bench BENCH_ARGS="--peers keepmap,lmdb --workloads get,many32"
#   make bench-turnover           a log that turns over, 500,000 records, some minutes
#   make bench-reopen             opening after a close, a kill, without image; 1,000,000 records
#   make bench-memory             memory while compacting, imaging, backing up
#   make bench-order              maps with an order: walks, ranges, positions; 1,000,000 records
#   make bench-snapshot           snapshots beside writers, 1,000,000 records
#   make bench-sealed             sealed tables; 1,000,000 records, a few minutes
#   make bench-sealed KEYS=10000000
#   make bench-sealed-memory      memory of a build of 50,000,000 records: a minute or two
#   make bench-quick              the last three, small: seconds, to see that they work
#   make bench-turnover BENCH_ARGS="--records 3000000"       likewise the others: see --help
#
# Peers are optional: each is built in if its header and library are found, else a line says so.
# They are looked for only by the second make, which `bench` and `bench-build` start once the
# library is there: other goals do not wait for it.

BUILD ?= build
RECORDS ?= 1000000
KEYS ?= 1000000
MEMORY_KEYS ?= 50000000
BENCH_ARGS ?=
BENCH_OUT ?= $(BUILD)/bench/results.tsv
BENCH_LIB := $(BUILD)/libkeepmap.a
BENCH_PROGRAMS := bench turnover reopen memory order snapshot sealed
BENCH_TABLED := turnover reopen memory order snapshot sealed
BENCH_QUICK := order snapshot sealed

.PHONY: bench bench-build bench-run bench-clean bench-quick bench-sealed-memory \
	bench-run-sealed-memory $(BENCH_TABLED:%=bench-%) \
	$(BENCH_TABLED:%=bench-run-%) $(BENCH_QUICK:%=bench-run-quick-%)

ifneq ($(filter bench-run bench-run-% $(BUILD)/bench/%,$(MAKECMDGOALS)),)

bench_hash := \#

# $(call bench_finds,header,libraries): "yes" if a program with both compiles and links.
bench_finds = $(shell printf '%s\n' '$(bench_hash)include <stddef.h>' \
'$(bench_hash)include <stdint.h>' '$(bench_hash)include <stdbool.h>' \
'$(bench_hash)include <$(1)>' 'int main(void) { return 0; }' | \
$(CC) -x c - -o /dev/null $(2) >/dev/null 2>&1 && echo yes)

# $(call bench_peer,NAME,source,header,libraries)
define bench_peer
ifeq ($$(call bench_finds,$(3),$(4)),yes)
BENCH_PEERS += $(2)
BENCH_DEFINES += -DBENCH_HAVE_$(1)
BENCH_LIBS += $(4)
else
$$(info bench: no $(2): needs $(3) and $(4))
endif
endef

# Likewise for what only the benchmark of sealed tables needs.
define bench_sealed_peer
ifeq ($$(call bench_finds,$(3),$(4)),yes)
BENCH_SEALED_PEERS += $(2)
BENCH_DEFINES += -DBENCH_HAVE_$(1)
BENCH_SEALED_LIBS += $(4)
else
$$(info bench: no $(or $(2),$(1)): needs $(3) and $(4))
endif
endef

bench_package_version = $(shell pkg-config --modversion $(1) 2>/dev/null || echo unknown)
bench_leveldb_constant = $(shell printf '%s\n' '$(bench_hash)include <leveldb/db.h>' | \
$(CXX) -x c++ -E - 2>/dev/null | sed -n 's/.*$(1) = \([0-9]*\);.*/\1/p')

BENCH_PEERS := null
BENCH_DEFINES :=
BENCH_LIBS :=
BENCH_SEALED_PEERS :=
BENCH_SEALED_LIBS :=
$(eval $(call bench_peer,LMDB,lmdb,lmdb.h,-llmdb))
$(eval $(call bench_peer,KYOTO,kyoto,kclangc.h,-lkyotocabinet))
$(eval $(call bench_peer,TKRZW,tkrzw,tkrzw_langc.h,-ltkrzw))
$(eval $(call bench_peer,ROCKSDB,rocksdb,rocksdb/c.h,-lrocksdb))
$(eval $(call bench_peer,LEVELDB,leveldb,leveldb/c.h,-lleveldb))
$(eval $(call bench_peer,SQLITE,sqlite,sqlite3.h,-lsqlite3))
$(eval $(call bench_peer,BERKELEYDB,berkeleydb,db.h,-ldb))
$(eval $(call bench_peer,WIREDTIGER,wiredtiger,wiredtiger.h,-lwiredtiger))
$(eval $(call bench_sealed_peer,TINYCDB,tinycdb,cdb.h,-lcdb))
$(eval $(call bench_sealed_peer,LIBURING,,liburing.h,-luring))
ifneq ($(wildcard $(BENCH_LIB)),)
BENCH_PEERS += keepmap
BENCH_DEFINES += -DBENCH_HAVE_KEEPMAP
BENCH_LIBS := $(BENCH_LIB) $(BENCH_LIBS) $(LDLIBS_ALL)
BENCH_DEPENDS := $(BENCH_LIB)
else
$(info bench: no keepmap: $(BENCH_LIB) is not built)
endif

BENCH_DEFINES += '-DBENCH_KYOTO_VERSION="$(call bench_package_version,kyotocabinet)"'
BENCH_DEFINES += '-DBENCH_TKRZW_VERSION="$(call bench_package_version,tkrzw)"'
BENCH_DEFINES += '-DBENCH_ROCKSDB_VERSION="$(call bench_package_version,rocksdb)"'
BENCH_DEFINES += '-DBENCH_LEVELDB_VERSION="$(call bench_leveldb_constant,kMajorVersion).$(call \
bench_leveldb_constant,kMinorVersion)"'

BENCH_FLAGS := -std=c11 -D_GNU_SOURCE $(or $(OPTIMIZE),-O2 -g) -Wall -Wextra \
	$(or $(WERROR),-Werror) -Wshadow -Wstrict-prototypes
BENCH_SHARED := folder histogram machine peers program raw_sync workload
BENCH_OBJECTS := $(BENCH_SHARED:%=$(BUILD)/bench/%.o) $(BENCH_PEERS:%=$(BUILD)/bench/peers/%.o)

# Those of the peers above that the benchmark of sealed tables has too, and its other parts.
BENCH_SEALED_PEERS += peers null \
	$(filter keepmap lmdb rocksdb leveldb sqlite wiredtiger,$(BENCH_PEERS))
BENCH_SEALED_OBJECTS := $(patsubst %,$(BUILD)/bench/%.o,sealed_part sealed_device sealed_report \
	$(BENCH_SEALED_PEERS:%=sealed_peers/%))

# Which peers and versions the objects were compiled for: a change compiles them anew.
BENCH_STAMP := $(BUILD)/bench/defines
$(shell mkdir -p $(BUILD)/bench/peers $(BUILD)/bench/sealed_peers; \
printf '%s\n' $(BENCH_DEFINES) >$(BENCH_STAMP).new; \
cmp -s $(BENCH_STAMP).new $(BENCH_STAMP) || cp $(BENCH_STAMP).new $(BENCH_STAMP))

$(BUILD)/bench/%.o: bench/%.c $(BENCH_STAMP)
	$(CC) $(BENCH_FLAGS) $(BENCH_DEFINES) -Iinclude -MMD -MP -c $< -o $@

$(BUILD)/bench/bench: $(BUILD)/bench/restart.o
$(BUILD)/bench/order: $(BUILD)/bench/order_work.o
$(BUILD)/bench/sealed: $(BENCH_SEALED_OBJECTS)
$(BUILD)/bench/sealed: BENCH_LIBS += $(BENCH_SEALED_LIBS)
$(BENCH_PROGRAMS:%=$(BUILD)/bench/%): $(BUILD)/bench/%: $(BUILD)/bench/%.o $(BENCH_OBJECTS) \
		$(BENCH_DEPENDS)
	$(CC) -o $@ $(filter %.o,$^) $(BENCH_LIBS) -lpthread -lm

-include $(wildcard $(BUILD)/bench/*.d $(BUILD)/bench/*peers/*.d)

endif

# The library comes first; only then can the second make see that it is there.
bench bench-build bench-quick $(BENCH_TABLED:%=bench-%): $(BENCH_LIB)

bench-build:
	$(MAKE) --no-print-directory $(BENCH_PROGRAMS:%=$(BUILD)/bench/%)

bench:
	$(MAKE) --no-print-directory bench-run

bench-run: $(BUILD)/bench/bench
	$(BUILD)/bench/bench --records $(RECORDS) $(BENCH_ARGS) >$(BENCH_OUT).new
	mv $(BENCH_OUT).new $(BENCH_OUT)
	sh bench/report.sh $(BENCH_OUT)

# The arguments of each come first, so that BENCH_ARGS may say otherwise.
bench_args_turnover := --records 500000
bench_args_sealed := --keys $(KEYS)

$(BENCH_TABLED:%=bench-%): bench-%:
	$(MAKE) --no-print-directory bench-run-$*

$(BENCH_TABLED:%=bench-run-%): bench-run-%: $(BUILD)/bench/%
	$< $(bench_args_$*) $(BENCH_ARGS) >$(BUILD)/bench/$*.tsv.new
	mv $(BUILD)/bench/$*.tsv.new $(BUILD)/bench/$*.tsv
	sh bench/table.sh $(BUILD)/bench/$*.tsv

bench-sealed-memory: $(BENCH_LIB)
	$(MAKE) --no-print-directory bench-run-sealed-memory

bench-run-sealed-memory: $(BUILD)/bench/sealed
	$< --memory --keys $(MEMORY_KEYS) $(BENCH_ARGS) >$(BUILD)/bench/sealed-memory.tsv
	sh bench/table.sh $(BUILD)/bench/sealed-memory.tsv

bench-quick:
	$(MAKE) --no-print-directory $(BENCH_QUICK:%=bench-run-quick-%)

$(BENCH_QUICK:%=bench-run-quick-%): bench-run-quick-%: $(BUILD)/bench/%
	$< --quick $(BENCH_ARGS) >$(BUILD)/bench/quick-$*.tsv

bench-clean:
	rm -rf $(BUILD)/bench
