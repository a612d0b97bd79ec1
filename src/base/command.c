/* SPDX-License-Identifier: MIT */
#include <molt/base/command.h>

const struct command_type command_string = { .name = "str", .json = "string" };
const struct command_type command_int = { .name = "int", .json = "int" };
const struct command_type command_bool = { .name = "bool", .json = "boolean" };
const struct command_type command_any = { .name = "any", .json = "value" };
const struct command_type command_strings = { .name = "[str]", .elements = &command_string };
