#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The linker's arguments for all functions that the failure points wrap. Arguments: calls.h, stages.c"""
import re
import sys

names = []
for path in sys.argv[1:]:
    with open(path, encoding="utf-8") as file:
        text = re.sub(r"#define.*(?:\\\n.*)*", "", re.sub(r"/\*.*?\*/", "", file.read(), flags=re.S))
    names += re.findall(r"^(?:CALL|VARIADIC|STAGE|REPLACED)\([^,]+,\s*(\w+)", text, re.M)
    names += re.findall(r"^VOID_STAGE\((\w+)", text, re.M)
print("\n".join("-Wl,--wrap=" + name for name in names))
