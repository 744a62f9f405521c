#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# table.sh -- lay out the tables of turnover, reopen, memory, order, snapshot and sealed.
#
# usage: table.sh RESULTS.tsv
#
# A line "columns NAME HEADING..." names the columns of the table NAME; a line "NAME VALUE..." is a
# row of it. Lines that begin with '#' stand before all tables.

if [ $# -ne 1 ]; then
    echo "usage: table.sh RESULTS.tsv" >&2
    exit 2
fi

exec awk -F '\t' '
function print_row(place,    i, line) {
    line = sprintf("  %-*s", widths[name, 1], cells[place, 1])
    for (i = 2; i <= column_count[name]; i++)
        line = line sprintf("  %*s", widths[name, i], cells[place, i])
    sub(/ +$/, "", line)
    print line
}

/^#/ { print; next }
{
    first = $1 == "columns" ? 3 : 2
    name = $(first - 1)
    if (first == 3) {
        names[++name_count] = name
        column_count[name] = NF - 2
    }
    place = name SUBSEP row_count[name]++
    for (i = first; i <= NF; i++) {
        cells[place, i - first + 1] = $i
        if (length($i) > widths[name, i - first + 1])
            widths[name, i - first + 1] = length($i)
    }
}
END {
    for (n = 1; n <= name_count; n++) {
        name = names[n]
        if (row_count[name] < 2)
            continue
        print "\n" name
        for (row = 0; row < row_count[name]; row++)
            print_row(name SUBSEP row)
    }
}
' "$1"
