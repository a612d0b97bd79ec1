#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Makes molt's completion for a shell from the option tables (`molt --dump-options`).

usage: make-completion.py bash|zsh|fish MOLT
"""

import json
import re
import subprocess
import sys

FILES = ("FILE", "PATH")  # placeholders of values that are paths


class Option:
    def __init__(self, entry):
        self.names = [entry["name"], *entry["aliases"]]
        self.help = entry["help"]
        self.arg = entry["arg"]
        self.values = (entry["values"] or "").split()


class Command:
    def __init__(self, name, entry):
        self.name = name
        self.summary = entry["summary"]
        self.options = [Option(opt) for opt in entry["options"]]
        self.options.append(Option({"name": "help", "aliases": [], "values": None, "arg": None,
                                    "help": "print what there is"}))
        # Of the arguments only what must be there: a socket or a file, or none.
        operands = re.sub(r"\[[^]]*\]", "", entry["usage"].splitlines()[0])
        self.takes_files = re.search(r"SOCKET|FILE", operands) is not None
        self.takes_command = "-- COMMAND" in entry["usage"]

    def flags(self):
        return [f"--{name}" for opt in self.options for name in opt.names]


# ---- bash ----

# Only what bash itself has. The line is taken apart at blanks: bash's own words end at '=' and ':',
# which is why what is in front of the last of these is cut off from the answers.
BASH = r"""# bash completion for molt, made from its option tables
_molt_values() # COMMAND OPTION: what its value may be; fails if it takes none
{
	case "$1 $2" in
@VALUES@
	*) return 1 ;;
	esac
}

_molt_options() # COMMAND
{
	case $1 in
@OPTIONS@
	esac
}

_molt_complete_value() # VALUES TEXT
{
	local IFS=$'\n'
	case $1 in
	@files)
		COMPREPLY=($(compgen -f -- "$2"))
		compopt -o filenames 2>/dev/null
		;;
	@users) COMPREPLY=($(compgen -u -- "$2")) ;;
	*)
		if [[ $2 == *=* && " $1 " == *" ${2%%=*}= "* ]]; then
			COMPREPLY=($(compgen -P "${2%%=*}=" -f -- "${2#*=}"))
			compopt -o filenames 2>/dev/null
		else
			COMPREPLY=($(compgen -W "${1// /$'\n'}" -- "$2"))
			[[ ${#COMPREPLY[@]} == 1 && $COMPREPLY == *= ]] && compopt -o nospace 2>/dev/null
		fi
		;;
	esac
}

_molt()
{
	local words cur last command dashes= values i
	read -ra words <<<"${COMP_LINE:0:COMP_POINT}"
	[[ ${COMP_LINE:0:COMP_POINT} == *[[:space:]] ]] && words+=("")
	last=$((${#words[@]} - 1))
	cur=${words[last]}
	command=${words[1]}
	COMPREPLY=()
	[[ $command == -* ]] && command=run
	for ((i = 2; i < last; i++)); do
		[[ ${words[i]} == -- ]] && dashes=$i && break
	done
	if [[ $last == 1 && $cur != -* ]] || [[ $command == help && $last == 2 ]]; then
		COMPREPLY=($(compgen -W "@COMMANDS@" -- "$cur"))
	elif [[ $last == 1 && $cur != *=* ]]; then
		COMPREPLY=($(compgen -W "$(_molt_options run) --version" -- "$cur"))
	elif [[ $dashes && $last == $((dashes + 1)) ]]; then
		COMPREPLY=($(compgen -c -- "$cur") $(compgen -f -- "$cur"))
		compopt -o filenames 2>/dev/null
	else
		[[ $dashes ]] && command=run
		if values=$(_molt_values "$command" "${words[last - 1]}"); then
			_molt_complete_value "$values" "$cur"
		elif [[ $cur == --*=* ]] && values=$(_molt_values "$command" "${cur%%=*}"); then
			_molt_complete_value "$values" "${cur#*=}"
			COMPREPLY=("${COMPREPLY[@]/#/${cur%%=*}=}")
		elif [[ $cur == -* ]]; then
			COMPREPLY=($(compgen -W "$(_molt_options "$command")" -- "$cur"))
		elif [[ " @FILES@ " == *" $command "* || $dashes ]]; then
			_molt_complete_value @files "$cur"
		fi
	fi
	if [[ $cur == *[=:]* && $COMP_WORDBREAKS == *[=:]* ]]; then
		i=${cur%"${cur##*[=:]}"}
		COMPREPLY=("${COMPREPLY[@]#"$i"}")
	fi
}

complete -F _molt molt
"""


def bash_values(opt):
    if opt.values:
        return " ".join(opt.values)
    return {"USER": "@users"}.get(opt.arg, "@files" if opt.arg in FILES else "")


def bash(commands):
    values = [f'\t{"|".join(chr(34) + f"{cmd.name} --{name}" + chr(34) for name in opt.names)}) '
              f'echo "{bash_values(opt)}" ;;'
              for cmd in commands for opt in cmd.options if opt.arg]
    options = [f'\t{cmd.name}) echo "{" ".join(cmd.flags())}" ;;' for cmd in commands]
    return (BASH.replace("@VALUES@", "\n".join(values))
            .replace("@OPTIONS@", "\n".join(options))
            .replace("@COMMANDS@", " ".join([cmd.name for cmd in commands] + ["help"]))
            .replace("@FILES@", " ".join(cmd.name for cmd in commands if cmd.takes_files)))


# ---- zsh ----

ZSH = r"""#compdef molt
# zsh completion for molt, made from its option tables
_molt_prefixed() # WORD=...: a path behind the '=', or one of these and of what follows --
{
	if compset -P '*='; then
		_files
	else
		compadd -S '' -- ${(M)@:#*=}
		compadd -- ${@:#*=}
	fi
}

_molt()
{
	local -a commands
	local command=$words[2]
	commands=(
@COMMANDS@
	)
	if (( CURRENT == 2 )) && [[ $command != -* ]] || [[ $command == help ]]; then
		_describe -t commands 'molt command' commands
		return
	fi
	if [[ $command == -* ]]; then
		command=run
	else
		shift words
		(( CURRENT-- ))
	fi
	case $command in
@CASES@
	esac
}

_molt "$@"
"""


def zsh_text(text):
    return re.sub(r"([\[\]:\\])", r"\\\1", text).replace("'", "'\\''")


def zsh_option(opt, name):
    if not opt.arg:
        return f"'--{name}[{zsh_text(opt.help)}]'"
    action = {"USER": "_users"}.get(opt.arg, "_files" if opt.arg in FILES else " ")
    if any(value.endswith("=") for value in opt.values):
        action = f"{{_molt_prefixed {' '.join(opt.values)}}}"
    elif opt.values:
        action = f"({' '.join(opt.values)})"
    return f"'--{name}=[{zsh_text(opt.help)}]:{opt.arg}:{action}'"


def zsh_case(cmd):
    specs = [zsh_option(opt, name) for opt in cmd.options for name in opt.names]
    if cmd.takes_command:
        specs += ["'1:socket:_files'", "'*::command:_normal'"]
    elif cmd.takes_files:
        specs += ["'1:file:_files'", "'*: : '"]
    return f"\t{cmd.name})\n\t\t_arguments \\\n\t\t\t" + " \\\n\t\t\t".join(specs) + "\n\t\t;;"


def zsh(commands):
    described = [f"\t\t'{cmd.name}:{zsh_text(cmd.summary)}'" for cmd in commands]
    described.append("\t\t'help:Print help'")
    return (ZSH.replace("@COMMANDS@", "\n".join(described))
            .replace("@CASES@", "\n".join(zsh_case(cmd) for cmd in commands)))


# ---- fish ----

def fish_text(text):
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def fish_option(cmd, opt, where):
    line = f"complete -c molt -n '{where}'" + "".join(f" -l {name}" for name in opt.names)
    if opt.values:
        line += f" -x -a {fish_text(' '.join(opt.values))}"
    elif opt.arg == "USER":
        line += " -x -a '(__fish_complete_users)'"
    elif opt.arg in FILES:
        line += " -r -F"
    elif opt.arg:
        line += " -x"
    return line + f" -d {fish_text(opt.help)}"


def fish(commands):
    others = " ".join(cmd.name for cmd in commands if cmd.name != "run")
    lines = ["# fish completion for molt, made from its option tables", "complete -c molt -f"]
    for name, summary in [*((cmd.name, cmd.summary) for cmd in commands), ("help", "Print help")]:
        lines.append(f"complete -c molt -n __fish_use_subcommand -a {name} -d {fish_text(summary)}")
    for cmd in commands:
        # `molt --OPTION` is `molt run --OPTION`.
        where = (f"not __fish_seen_subcommand_from {others} help" if cmd.name == "run"
                 else f"__fish_seen_subcommand_from {cmd.name}")
        lines += [fish_option(cmd, opt, where) for opt in cmd.options]
        if cmd.takes_files:
            lines.append(f"complete -c molt -n '{where}' -F")
    names = " ".join(cmd.name for cmd in commands)
    lines.append(f"complete -c molt -n '__fish_seen_subcommand_from help' -a '{names}'")
    return "\n".join(lines) + "\n"


def main():
    shells = {"bash": bash, "zsh": zsh, "fish": fish}
    if len(sys.argv) != 3 or sys.argv[1] not in shells:
        sys.exit(__doc__)
    text = subprocess.run([sys.argv[2], "--dump-options"], check=True, capture_output=True,
                          text=True).stdout
    commands = [Command(name, entry) for name, entry in json.loads(text).items()]
    sys.stdout.write(shells[sys.argv[1]](commands))


if __name__ == "__main__":
    main()
