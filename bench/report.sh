#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# report.sh -- medians over rounds, and how keepmap compares with each peer.
#
# usage: report.sh RESULTS.tsv...      (the output of build/bench/bench)

if [ $# -lt 1 ]; then
    echo "usage: report.sh RESULTS.tsv..." >&2
    exit 2
fi

exec awk -F '\t' '
function sort_values(values, count,    i, j, value) {
    for (i = 2; i <= count; i++) {
        value = values[i]
        for (j = i - 1; j >= 1 && values[j] > value; j--)
            values[j + 1] = values[j]
        values[j + 1] = value
    }
}

# Sets `lowest` and `highest`, returns the median; -1 if there are no values.
function median(place, column,    i, count, values) {
    count = 0
    for (i = 1; i <= row_count[place]; i++) {
        if (cells[place, i, column] != "-")
            values[++count] = cells[place, i, column] + 0
    }
    if (!count)
        return -1
    sort_values(values, count)
    lowest = values[1]
    highest = values[count]
    if (count % 2)
        return values[(count + 1) / 2]
    return (values[count / 2] + values[count / 2 + 1]) / 2
}

function shown(number, digits) {
    return number < 0 ? "-" : sprintf("%." digits "f", number)
}

function duration(ns) {
    if (ns < 0) return "-"
    if (ns < 10000) return sprintf("%.0f ns", ns)
    if (ns < 10000000) return sprintf("%.1f us", ns / 1000)
    return sprintf("%.1f ms", ns / 1000000)
}

# The median of name=number in the extra column, or -1.
function extra(place, name,    i, j, parts, count, pair, found) {
    for (i = 1; i <= row_count[place]; i++) {
        cells[place, i, "extra " name] = "-"
        count = split(cells[place, i, 15], parts, ",")
        for (j = 1; j <= count; j++) {
            split(parts[j], pair, "=")
            if (pair[1] == name)
                cells[place, i, "extra " name] = pair[2]
        }
    }
    return median(place, "extra " name)
}

function print_times(workload, peer,    place, ns, rate, own_rate, ratio,
                     wrong, low, high, max, i) {
    place = workload SUBSEP peer
    ns = median(place, 7)
    low = lowest
    high = highest
    rate = median(place, 8)
    own_rate = median(workload SUBSEP "keepmap", 8)
    ratio = "-"
    if (own_rate > 0 && rate > 0 && !(peer in baseline))
        ratio = sprintf("%.2f x", own_rate / rate)
    wrong = 0
    max = -1
    for (i = 1; i <= row_count[place]; i++) {
        wrong += cells[place, i, 14]
        if (cells[place, i, 12] != "-" && cells[place, i, 12] + 0 > max)
            max = cells[place, i, 12] + 0
    }
    printf "  %-12s %10s  %-22s %12.0f  %9s  %9s %9s %9s %9s  %9s %6d", peer, shown(ns, 1),
        shown(low, 1) ".." shown(high, 1), rate, ratio, duration(median(place, 9)),
        duration(median(place, 10)), duration(median(place, 11)), duration(max),
        shown(median(place, 13), 1), wrong
    wrong_sum += wrong
}

# What a writer costs the readers of the same peer.
function print_beside_writer(peer,    alone) {
    alone = median("get" SUBSEP peer, 8)
    printf "  writer %.0f/s", extra("getw" SUBSEP peer, "writer_per_s")
    if (alone > 0)
        printf ", reader at %.0f %% of get", 100 * median("getw" SUBSEP peer, 8) / alone
}

function print_table(workload,    i, peer) {
    printf "\n%s (class %s)\n", workload, class_of[workload]
    printf "  %-12s %10s  %-22s %12s  %9s  %9s %9s %9s %9s  %9s %6s\n", "peer", "ns/op",
        "of the rounds", "ops/s", "keepmap", "p50", "p99", "p99.9", "max", "deferred", "wrong"
    for (i = 1; i <= peer_count; i++) {
        peer = peers[i]
        if (!((workload SUBSEP peer) in row_count))
            continue
        print_times(workload, peer)
        if (workload == "getw" && !(peer in baseline))
            print_beside_writer(peer)
        print ""
    }
}

function print_restart(    i, place) {
    printf "\nmemory, disk and reopening after kill -9, bytes per record\n"
    printf "  %-12s %12s %12s %12s %14s %12s %12s %12s\n", "peer", "anonymous",
        "mapped", "index", "disk", "disk/payload", "open", "replay ns"
    for (i = 1; i <= peer_count; i++) {
        place = "restart" SUBSEP peers[i]
        if (!(place in row_count))
            continue
        printf "  %-12s %12s %12s %12s %14s %12s %12s %12s\n", peers[i],
            shown(extra(place, "anonymous_per_record"), 1),
            shown(extra(place, "mapped_per_record"), 1),
            shown(extra(place, "index_per_record"), 1), shown(extra(place, "disk_per_record"), 1),
            shown(extra(place, "disk_over_payload"), 2),
            duration(extra(place, "open_ms") * 1000000),
            shown(extra(place, "replay_ns_per_record"), 1)
    }
}

/^#/ {
    if (!($0 in header_seen)) {
        header_seen[$0] = 1
        print
    }
    if ($1 == "# peer" && sub(/ \(baseline\)$/, "", $2))
        baseline[$2] = 1
    next
}
$1 == "workload" { next }
NF >= 15 {
    place = $1 SUBSEP $3
    if (!($1 in class_of)) {
        class_of[$1] = $2
        workloads[++workload_count] = $1
    }
    if (!($3 in peer_seen)) {
        peer_seen[$3] = 1
        peers[++peer_count] = $3
    }
    row_count[place]++
    for (i = 1; i <= 15; i++)
        cells[place, row_count[place], i] = $i
}
END {
    print "\nMedians over rounds. ns/op: time in calls per operation and thread. keepmap: its ops/s"
    print "divided by those of the peer, so above 1 keepmap is faster. p50 to p99.9: medians of the"
    print "rounds; max: of all rounds. deferred: CPU ns per operation spent by threads of the store"
    print "after the round."
    for (i = 1; i <= workload_count; i++)
        print_table(workloads[i])
    if ("restart" in class_of)
        print_restart()
    if (wrong_sum)
        print "\nWRONG ANSWERS: " wrong_sum
    exit wrong_sum > 0
}
' "$@"
