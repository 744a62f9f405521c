/* SPDX-License-Identifier: Apache-2.0
 *
 * all.c -- the whole library as one file to compile, with include/ and src/ on the include path.
 *
 * Made by `make src/all.c`; `make check` compiles it, and says when it is out of date.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include "base/assert.c"
#include "base/buffer.c"
#include "base/crc32c.c"
#include "base/hash.c"
#include "base/status.c"
#include "format/files.c"
#include "format/record.c"
#include "index/hash_check.c"
#include "index/hash_grow.c"
#include "index/hash_index.c"
#include "index/hash_walk.c"
#include "index/node_pool.c"
#include "log/log_append.c"
#include "log/log_error.c"
#include "log/log_flush.c"
#include "log/log_open.c"
#include "log/log_recover.c"
#include "log/log_rescue.c"
#include "log/log_ring.c"
#include "log/log_segment.c"
#include "log/log_special.c"
#include "log/log_threads.c"
#include "os/os_linux.c"
#include "os/os_linux_dir.c"
#include "os/os_linux_file.c"
#include "os/os_linux_memory.c"
#include "store/store_batch.c"
#include "store/store_change.c"
#include "store/store_cursor.c"
#include "store/store_files.c"
#include "store/store_find.c"
#include "store/store_info.c"
#include "store/store_maps.c"
#include "store/store_open.c"
#include "store/store_read.c"
#include "store/store_replay.c"
#include "store/store_unit.c"
#include "store/store_verify.c"
#include "sync/epoch.c"
#include "sync/eventcount.c"
#include "sync/thread.c"
