#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The rules of the style guide that a script can check. See tools/lint.sh.

    lint.py [--root DIR] [--no-format] [--format]

Each rule is a generator that takes a Source (or all of them) and yields (line, text). Comments and
strings are blanked out before code is looked at; beyond that, nothing is parsed: the rules rely on
the layout that clang-format gives (functions and their braces begin in column 1).
tools/lint_selftest.sh shows each rule something bad, and sees it found.
"""
import argparse
import os
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor

COLUMNS_MAX = 100
FUNCTION_LINES_MAX = 70
FILE_LINES_MAX = 1000
NESTING_MAX = 3
PARAMETERS_MAX = 6
CLANG_FORMAT_MAJOR = 14

SKIPPED_FOLDERS = {".git", "build", "results", "golden"}

# What a folder of src/ may include besides itself.
LAYERS = {
    "base": set(),
    "os": {"base"},
    "sync": {"base"},
    "format": {"base"},
    "index": {"sync", "base"},
    "log": {"format", "os", "sync", "base"},
    "sealed": {"format", "os", "sync", "base"},
    "store": {"sealed", "log", "index", "format", "os", "sync", "base"},
}
SYSTEM_FOLDERS = {"os", "sync"}
PLAIN_HEADERS = {
    "stddef.h", "stdint.h", "stdbool.h", "string.h", "stdatomic.h", "limits.h", "inttypes.h",
    "stdarg.h", "stdalign.h", "stdio.h", "stdlib.h", "errno.h", "keepmap/keepmap.h",
}  # stdio.h for snprintf(), stdlib.h for qsort(), errno.h for names: see rule_library_calls
HEADERS_OF_FILE = {
    "src/base/hash.c": {"xxhash.h"},
    "src/sealed/sealed_pack.c": {"zstd.h", "zstd_errors.h"},
}
INTRINSICS = re.compile(r"(\w*intrin|arm_neon|arm_acle|cpuid|sys/auxv)\.h$")
INTRINSICS_FILES = re.compile(r"src/(base/.*|index/hash_match\.h)$")

HEAD_LINE = re.compile(r"[\w ].*[^;{}]$")  # of a function, when it takes several
CONTROL = re.compile(r"\b(if|for|while|switch|else|do)\b")
UNFINISHED = re.compile(r"\b(TO" r"DO|FIX" r"ME|XX" r"X)\b")
SECTIONS = ("Returns", "Lifetime", "Threads", "Blocks")


def blank_out(text):
    """Comments, strings and character constants as spaces; newlines stay."""
    pattern = re.compile(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', re.S)

    def blank(match):
        kept = match.group(0)
        if kept[0] in "\"'":
            return kept[0] + " " * (len(kept) - 2) + kept[-1]
        return re.sub(r"[^\n]", " ", kept)

    return pattern.sub(blank, text)


def join_gotos(text):
    """`if (...) goto out;` on one line, where clang-format has put it on two."""
    pattern = re.compile(r"^( +(?:\} else )?if \([^\n]*\))\n +(goto \w+;)$", re.M)

    def join(match):
        joined = match.group(1) + " " + match.group(2)
        return joined if len(joined) <= COLUMNS_MAX else match.group(0)

    return pattern.sub(join, text)


class Source:
    def __init__(self, root, path):
        self.path = path
        self.full_path = os.path.join(root, path)
        with open(self.full_path, encoding="utf-8", errors="replace") as f:
            self.text = f.read()
        self.lines = self.text.split("\n")
        if self.lines and self.lines[-1] == "":
            self.lines.pop()
        self.is_c = path.endswith((".c", ".h"))
        parts = path.split("/")
        self.is_library = parts[0] == "src" and len(parts) > 2
        self.folder = parts[1] if self.is_library else None
        self.code = blank_out(self.text) if self.is_c else ""
        self.code_lines = self.code.split("\n")

    def line_of(self, offset):
        return self.text.count("\n", 0, offset) + 1

    def functions(self):
        """(name, index of its first line, index of its last line), indexes from 0."""
        opening = None
        for index, line in enumerate(self.code_lines):
            if line.startswith("{"):
                opening = index
            elif line.startswith("}") and opening is not None:
                first = opening - 1
                while first > 0 and HEAD_LINE.match(self.code_lines[first - 1].rstrip()):
                    first -= 1
                head = " ".join(self.code_lines[first:opening])
                name = re.search(r"(\w+) ?\(", head)
                if name:
                    yield name.group(1), head, first, opening, index
                opening = None


# ---- rules on one file ------------------------------------------------------------------------


def rule_columns(source):
    for number, line in enumerate(source.lines, 1):
        if len(line) > COLUMNS_MAX:
            yield number, f"{len(line)} columns, more than {COLUMNS_MAX}"


def rule_white_space(source):
    for number, line in enumerate(source.lines, 1):
        if source.is_c and "\t" in line:
            yield number, "tab"
        if line != line.rstrip():
            yield number, "white space at the end of the line"
    if source.text and not source.text.endswith("\n"):
        yield len(source.lines), "no newline at the end of the file"


def rule_license(source):
    if not any("SPDX-License-Identifier: Apache-2.0" in line for line in source.lines[:3]):
        yield 1, "no SPDX-License-Identifier line at the top"


def rule_unfinished(source):
    for number, line in enumerate(source.lines, 1):
        found = UNFINISHED.search(line)
        if found:
            yield number, f"{found.group(1)}: finish it, or file an issue"


def rule_file_size(source):
    if len(source.lines) > FILE_LINES_MAX:
        yield 1, f"{len(source.lines)} lines in the file, more than {FILE_LINES_MAX}"


def rule_function_size(source):
    for name, _, first, _, last in source.functions():
        size = last - first + 1
        if size > FUNCTION_LINES_MAX:
            yield first + 1, f"{name}() has {size} lines, more than {FUNCTION_LINES_MAX}"


def rule_parameters(source):
    for name, head, first, _, _ in source.functions():
        inside = re.search(r"\((.*)\)", head)
        depth, count = 0, 1
        for char in inside.group(1) if inside else "":
            depth += (char == "(") - (char == ")")
            count += char == "," and depth == 0
        count -= "..." in head
        if count > PARAMETERS_MAX:
            yield first + 1, f"{name}() has {count} parameters, more than {PARAMETERS_MAX}"


def rule_nesting(source):
    """Open braces of control statements; bodies without braces do not count."""
    for name, _, _, opening, last in source.functions():
        stack = []  # for each open brace, whether it is of a control statement
        statement = ""
        for index in range(opening + 1, last):
            line = source.code_lines[index]
            if line.lstrip().startswith("#"):
                continue
            for char in line + " ":
                if char == "{":
                    is_data = statement.rstrip().endswith("=")
                    is_control = bool(CONTROL.search(statement)) and not is_data
                    stack.append(is_control)
                    statement = ""
                    if is_control and sum(stack) == NESTING_MAX + 1:
                        yield index + 1, f"more than {NESTING_MAX} levels of nesting in {name}()"
                elif char == "}":
                    if stack:
                        stack.pop()
                    statement = ""
                elif char == ";" and statement.count("(") == statement.count(")"):
                    statement = ""
                else:
                    statement += char


def rule_includes(source):
    pattern = re.compile(r'^[ \t]*#[ \t]*include[ \t]*([<"])([^>"\n]+)[>"]', re.M)
    for match in pattern.finditer(source.text):
        number = source.line_of(match.start())
        quoted, name = match.group(1) == '"', match.group(2)
        text = include_fault(source, quoted, name)
        if text:
            yield number, text


def include_fault(source, quoted, name):
    if source.path.startswith(("cli/", "examples/")):
        own = os.path.join(os.path.dirname(source.full_path), name)
        made_from = re.sub(r"\.pb-c\.h$", ".proto", own)  # what the build makes, if it does
        if quoted and name != "keepmap/keepmap.h" and not os.path.exists(made_from):
            return f'"{name}": the tool and the examples see the public header only'
        return None
    if not source.is_library:
        return None
    if quoted:
        return layer_fault(source, name)
    return system_header_fault(source, name)


def layer_fault(source, name):
    if name.startswith("keepmap/"):
        return None
    folder = name.split("/")[0]
    if "/" not in name or folder not in LAYERS:
        return f'"{name}": name headers from src/ on, as in "base/bytes.h"'
    if folder == source.folder:
        return None
    if folder not in LAYERS.get(source.folder, set()):
        return f'"{name}": {source.folder}/ may not use {folder}/'
    if name.endswith("_internal.h"):
        return f'"{name}" is internal to {folder}/'
    return None


def system_header_fault(source, name):
    if INTRINSICS.search(name):
        if INTRINSICS_FILES.match(source.path):
            return None
        return f"<{name}>: intrinsics belong in base/ or index/hash_match.h"
    if source.folder in SYSTEM_FOLDERS or name in PLAIN_HEADERS:
        return None
    if name in HEADERS_OF_FILE.get(source.path, set()):
        return None
    return f"<{name}>: system headers belong in os/ and sync/"


MEMORY_CALLS = r"malloc|calloc|realloc|free|aligned_alloc"
OTHER_CALLS = (r"getenv|exit|abort|system|rand|v?f?printf|f?puts|f?open|fclose|fwrite|fread|perror|"
               r"remove|rename|errno")


def rule_library_calls(source):
    """What stdio.h, stdlib.h and errno.h would let in: I/O, memory, the end of the process."""
    if not source.is_library or source.folder in SYSTEM_FOLDERS:
        return
    if source.path == "src/base/assert.c":
        return
    # base/ has the buffers that callers own, which come from malloc().
    calls = OTHER_CALLS if source.folder == "base" else f"{MEMORY_CALLS}|{OTHER_CALLS}"
    pattern = re.compile(rf"(?<![>.\w])({calls})\b(?:(?<=errno)|\s*\()")
    for number, line in enumerate(source.code_lines, 1):
        if not line.lstrip().startswith("#"):
            for match in pattern.finditer(line):
                yield number, f"{match.group(1)}: only os/ and sync/ use it (base/alloc.h, os/os.h)"


def rule_volatile(source):
    if not source.is_library:
        return
    for number, line in enumerate(source.code_lines, 1):
        if re.search(r"\bvolatile\b", re.sub(r"\b(__)?asm(__)?\s+(__)?volatile(__)?\b", "", line)):
            yield number, "volatile: use an atomic"


def rule_atomics(source):
    if not source.is_library:
        return
    implicit = re.compile(r"\b(atomic_(?:load|store|exchange|compare_exchange_(?:strong|weak)|"
                          r"fetch_\w+?|flag_test_and_set|flag_clear))\s*\(")
    for number, line in enumerate(source.code_lines, 1):
        for match in implicit.finditer(line):
            if not match.group(1).endswith("_explicit"):
                yield number, f"{match.group(1)}: spell the memory order out (..._explicit)"
        if re.search(r"\b__(atomic|sync)_\w+\s*\(", line):
            yield number, "use C11 atomics, not the compiler's"
        if source.folder != "sync" and re.search(r"\batomic_(thread|signal)_fence\b", line):
            yield number, "bare fences belong in sync/"


def rule_orders_explained(source):
    """An order stronger than relaxed has a comment within a few lines that says what it is for."""
    if not source.is_library:
        return
    for number, line in enumerate(source.code_lines, 1):
        found = re.search(r"memory_order_(acquire|release|acq_rel|seq_cst)", line)
        if not found:
            continue
        near = range(max(0, number - 9), min(len(source.lines), number + 2))
        if all(source.lines[i].rstrip() == source.code_lines[i].rstrip() for i in near):
            yield number, f"memory_order_{found.group(1)}: no comment names its partner"


def rule_guard(source):
    if not source.is_library or not source.path.endswith(".h"):
        return
    guard = "KM_" + re.sub(r"\W", "_", source.path[len("src/"):]).upper()
    if f"#ifndef {guard}\n#define {guard}\n" not in source.text:
        yield 1, f"the include guard is not {guard}"


def rule_global_state(source):
    if not source.is_library or source.folder in ("base", "sync"):
        return
    pattern = re.compile(r"^(?:static |_Thread_local |_Atomic )[^\n(]*[;=\[]", re.M)
    for match in pattern.finditer(source.code):
        if source.folder == "os" and "_Thread_local" in match.group(0):
            continue  # the like of errno
        if not re.search(r"\bconst\b", match.group(0)):
            yield source.line_of(match.start()), "global mutable state: only in base/ and sync/"


def rule_public_comments(source):
    """Each function of the public header stands in a comment's first lines, with all sections."""
    if not re.match(r"include/keepmap/\w+\.h$", source.path):
        return
    described = {}
    for comment in re.findall(r"^/\*\n.*?\*/", source.text, re.S | re.M):
        head = comment.split("\n *\n")[0]
        missing = [s for s in SECTIONS if not re.search(rf"^ \* .*\b{s}\b[,:]", comment, re.M)]
        for names in re.findall(r"((?:\bkm_\w+(?:,\s+(?:\* )?)?)+) -- ", head):
            for name in re.findall(r"km_\w+", names):
                described[name] = missing
    declared = re.compile(r"^(?:KM_API|static inline)\b[^;{]*?\b(km_\w+)\(", re.M)
    for match in declared.finditer(source.code):
        name = match.group(1)
        number = source.line_of(match.start())
        if name not in described:
            yield number, f'{name}: no comment that begins with "{name} -- "'
        elif described[name]:
            yield number, f"{name}: its comment has no {', '.join(described[name])}"


C_RULES = [
    rule_columns, rule_white_space, rule_license, rule_unfinished, rule_file_size,
    rule_function_size, rule_parameters, rule_nesting, rule_includes, rule_library_calls,
    rule_volatile, rule_atomics, rule_orders_explained, rule_guard, rule_global_state,
    rule_public_comments,
]
SCRIPT_RULES = [rule_columns, rule_white_space, rule_license, rule_unfinished, rule_file_size]


# ---- rules on all files -----------------------------------------------------------------------


def file_scope_names(source):
    """(name, line, kind) of what would clash in the one-file build."""
    static_name = re.compile(r"^static\b[^;{=(]*?(\w+)\s*(?:\[[^\]]*\]\s*)*[(;={]", re.M)
    declaration = re.compile(r"[^;{]*\)\s*;")
    for match in static_name.finditer(source.code):
        is_function = match.group(0).endswith("(")
        if is_function and declaration.match(source.code, match.end()):
            continue
        if match.group(1) not in ("struct", "enum", "union"):
            yield match.group(1), source.line_of(match.start()), "static"
    for match in re.finditer(r"^[ \t]*#[ \t]*define[ \t]+(\w+)", source.code, re.M):
        yield match.group(1), source.line_of(match.start()), "macro"
    for match in re.finditer(r"^(struct|union|enum) (\w+) \{", source.code, re.M):
        yield match.group(2), source.line_of(match.start()), match.group(1)
    for match in re.finditer(r"^enum(?: \w+)? \{(.*?)^\}", source.code, re.M | re.S):
        for name in re.finditer(r"(?:^|,)\s*([A-Za-z_]\w*)", match.group(1)):
            yield name.group(1), source.line_of(match.start(1) + name.start(1)), "enumerator"


def rule_unique_names(sources):
    """Names of file scope occur in one file of src/ only, since src/all.c joins the files."""
    seen = defaultdict(list)
    for source in sources:
        if source.is_library:
            for name, number, kind in file_scope_names(source):
                space = kind if kind in ("struct", "union", "enum") else "name"
                seen[space, name].append((source, number))
    for (_, name), places in sorted(seen.items(), key=lambda item: item[0]):
        first = places[0][0]
        for source, number in places[1:]:
            if source is not first:
                text = f"{name} is defined in {first.path} too: all.c joins the files"
                yield source, number, text


def clang_format():
    command = shutil.which("clang-format-14") or shutil.which("clang-format")
    if not command:
        return None
    version = subprocess.run([command, "--version"], capture_output=True, text=True).stdout
    major = re.search(r"version (\d+)", version)
    return command if major and int(major.group(1)) == CLANG_FORMAT_MAJOR else None


def is_formatted(source):
    """The public header is laid out by hand: clang-format knows no macro before a result type."""
    return source.is_c and not source.path.startswith("include/")


def formatted(command, source):
    """The text as it should be; in a few passes, as one does not always reach what stays."""
    text = source.text
    for _ in range(3):
        before = text
        run = subprocess.run([command, "--assume-filename", source.full_path], input=before,
                             capture_output=True, text=True)
        if run.returncode != 0:
            return source.text
        text = join_gotos(run.stdout)
        if text == before:
            break
    return text


def rule_format(command, sources):
    sources = [source for source in sources if is_formatted(source)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for source, text in zip(sources, pool.map(lambda s: formatted(command, s), sources)):
            before, after = join_gotos(source.text).split("\n"), text.split("\n")
            changed = [n for n, (a, b) in enumerate(zip(before, after), 1) if a != b]
            if before != after:
                number = changed[0] if changed else min(len(before), len(after))
                number = min(number, len(source.lines))
                yield source, number, "not as clang-format lays it out, from here on (make format)"


# ---- all together -----------------------------------------------------------------------------


def collect(root):
    sources = []
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(f for f in folders if f not in SKIPPED_FOLDERS)
        for name in sorted(files):
            path = os.path.relpath(os.path.join(folder, name), root)
            if os.path.islink(os.path.join(root, path)):
                continue
            if name.endswith((".c", ".h", ".sh", ".py", ".mk")) or path in ("Makefile", ".ci/run"):
                sources.append(Source(root, path))
    return sources


def findings_of(sources, command):
    for source in sources:
        for rule in C_RULES if source.is_c else SCRIPT_RULES:
            for number, text in rule(source):
                yield source, number, text
    yield from rule_unique_names(sources)
    if command:
        yield from rule_format(command, sources)


def main():
    parser = argparse.ArgumentParser(description="check the rules of the style guide")
    parser.add_argument("--root", default=os.path.join(os.path.dirname(__file__), ".."))
    parser.add_argument("--no-format", action="store_true", help="do not look at the layout")
    parser.add_argument("--format", action="store_true", help="lay the C files out instead")
    options = parser.parse_args()
    sources = collect(options.root)
    command = None if options.no_format else clang_format()
    if not command and not options.no_format:
        print(f"clang-format {CLANG_FORMAT_MAJOR} is not there: the layout is not checked")
    if options.format:
        for source in filter(is_formatted, sources if command else []):
            text = formatted(command, source)
            if text != source.text:
                with open(source.full_path, "w", encoding="utf-8") as f:
                    f.write(text)
                print(f"laid out {source.path}")
        return 0 if command else 1
    findings = sorted((s.path, number, text) for s, number, text in findings_of(sources, command))
    for path, number, text in findings:
        print(f"{path}:{number}: {text}")
    print(f"lint: {len(sources)} files, {len(findings)} findings")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
