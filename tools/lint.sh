#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# lint.sh -- the rules of the style guide that a script can check; `--format` lays files out.
# Findings as file:line: text, then their number; exit status 1 if there are any. Needs python3;
# the layout is checked only where clang-format 14 is (other versions lay some lines out otherwise).
set -eu
exec python3 "$(dirname "$0")/lint.py" "$@"
