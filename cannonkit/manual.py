"""Man pages and shell completion, made from the commands' own parsers.

    python -m cannonkit.manual build/man             cc-*.1
    python -m cannonkit.manual --completion build/   cannonkit.bash (bash; zsh reads it too, through bashcompinit)

Both are made once, after installing: nothing of this is loaded when a command starts, or at a TAB.
"""
import argparse
import importlib
import os
import pkgutil
import sys
import time

import cannonkit
from cannonkit import cli

EXIT_CODES = ((0, "done; the output is complete"),
              (1, "done and written, but a limit such as --max-failed is exceeded"),
              (64, "wrong command line"), (65, "an input is malformed or inconsistent"),
              (66, "an input cannot be opened"),
              (69, "something needed is missing (a package, memory)"), (70, "our mistake"),
              (73, "the output exists or cannot be made"), (74, "a read or a write failed"),
              (75, "a passing trouble: try again"), (78, "wrong configuration"))


def parsers():
    """{command name: its parser}, in the order of the alphabet."""
    folder = importlib.import_module("cannonkit.commands").__path__
    return {f"cc-{found.name}": importlib.import_module(f"cannonkit.commands.{found.name}").build_parser()
            for found in sorted(pkgutil.iter_modules(folder), key=lambda f: f.name)}


def subparsers(parser):
    """{name: parser} of a command's subcommands."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


# --- man pages ------------------------------------------------------------------------------------

def man_page(name, parser):
    """The page of section 1, in man(7) macros."""
    when = time.strftime("%Y-%m-%d", time.gmtime(float(os.environ.get("SOURCE_DATE_EPOCH", time.time()))))
    first = " ".join((parser.description or name).split())
    lines = [f'.TH {name.upper()} 1 {when} "cannonkit {cannonkit.__version__}" "cannonkit manual"', ".SH NAME",
             f"{name} \\- {_roff(first.split('. ')[0].rstrip('.'))}", ".SH SYNOPSIS"]
    inner = subparsers(parser)
    for words in [f"{name} {sub}" for sub in inner] or [name]:
        lines += [".nf", ".B " + words, " ".join(_usage(inner.get(words.removeprefix(name + " "), parser))), ".fi"]
    lines += [".SH DESCRIPTION", _roff(parser.description or "")]
    for words, one in [(None, parser), *inner.items()]:
        if words:
            lines += [f".SH {name} {words}".upper(), _roff(one.description or "")]
        for group in one._action_groups:
            actions = [a for a in group._group_actions if not isinstance(a, argparse._SubParsersAction)]
            if actions:
                lines.append(f'.SS "{_roff(group.title or "")}"')
                for action in actions:
                    lines += [".TP", _invocation(action), _roff((action.help or "").replace("%%", "%"))]
        if one.epilog:
            title, *examples = one.epilog.splitlines()
            lines += [f'.SS "{title.rstrip(":")}"', ".nf", *map(_roff, examples), ".fi"]
    lines.append(".SH EXIT STATUS")
    for code, meaning in EXIT_CODES:
        lines += [".TP", f".B {code}", _roff(meaning)]
    return "\n".join(lines) + "\n"


def _usage(parser):
    for action in parser._actions:
        if action.option_strings and action.required:
            yield f"{_roff(action.option_strings[0])} \\fI{_roff(str(action.metavar or action.dest))}\\fR"
    yield "[\\fIoptions\\fR]"
    for action in parser._actions:
        if not action.option_strings:
            word = f"\\fI{_roff(str(action.metavar or action.dest))}\\fR"
            yield word + {"*": " ...", "+": " ..."}.get(action.nargs, "")


def _invocation(action):
    names = ", ".join(f"\\fB{_roff(o)}\\fR" for o in action.option_strings)
    metavar = action.metavar or ("|".join(map(str, action.choices)) if action.choices else action.dest)
    metavar = " ".join(metavar) if isinstance(metavar, tuple) else str(metavar)
    takes = action.nargs != 0
    return " ".join(filter(None, [names, f"\\fI{_roff(metavar)}\\fR" if takes or not names else ""]))


def _roff(text):
    lines = [line.replace("\\", "\\e").replace("-", "\\-") for line in text.splitlines()]
    return "\n".join("\\&" + line if line.startswith((".", "'")) else line for line in lines)


# --- completion -----------------------------------------------------------------------------------

_BASH = """# Completion of cannonkit's commands: options, their choices, subcommands, recipes and files.
# bash: source this file, or put it into ~/.local/share/bash-completion/completions/ under each command's name.
# zsh:  autoload -U +X bashcompinit && bashcompinit && source this file.
_cannonkit() {{
    local word=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD-1]}} name=${{COMP_WORDS[0]##*/}} key words= w
    key=$name
    for w in "${{COMP_WORDS[@]:1:$((COMP_CWORD-1))}}"; do
        case "$name $w" in
{subcommands}
        esac
    done
    case "$key $before" in
{choices}
    esac
    if [ -z "$words" ]; then
        case $key in
{options}
        esac
        case $word in -*) ;; *) case $words in -*) words=;; esac;; esac
    fi
    COMPREPLY=($(compgen -W "$words" -- "$word"))
    if [ -z "$words" ] || [ "${{word#-}}" = "$word" -a ${{#COMPREPLY[@]}} = 0 ]; then
        COMPREPLY+=($(compgen -f -- "$word"))
    fi
}}
complete -o filenames -F _cannonkit {names}
"""


def completion(found):
    """The text of the completion script for {name: parser}."""
    subcommands, choices, options = [], [], []
    recipes = sorted(f[:-5] for f in os.listdir(cli.config.recipe_folder()) if f.endswith(".yaml"))
    for name, parser in found.items():
        inner = subparsers(parser)
        for sub in inner:
            subcommands.append(f'        "{name} {sub}") key="{name} {sub}";;')
        for key, one in [(name, parser), *((f"{name} {sub}", p) for sub, p in inner.items())]:
            words = sorted(o for a in one._actions for o in a.option_strings if o.startswith("--"))
            options.append(f"        '{key}') words='{' '.join([*(inner if key == name else ()), *words])}';;")
            for action in one._actions:
                values = action.choices if action.option_strings and action.choices else None
                field = getattr(action.type, "field", None)
                values = values or (field.metadata.get("choices") if field is not None else None)
                values = recipes if "--recipe" in action.option_strings else values
                if values:
                    shown = " ".join(str(v) for v in values if v != "")
                    places = "|".join(f"'{key} {o}'" for o in action.option_strings)
                    choices.append(f"    {places}) words='{shown}';;")
    return _BASH.format(subcommands="\n".join(subcommands), choices="\n".join(choices), options="\n".join(options),
                        names=" ".join(found))


def main():
    arguments = sys.argv[1:]
    wants_completion = arguments[:1] == ["--completion"]
    folder = arguments[-1] if len(arguments) == 1 + wants_completion else None
    if not folder or folder.startswith("-"):
        sys.exit("usage: python -m cannonkit.manual [--completion] DIRECTORY")
    os.makedirs(folder, exist_ok=True)
    found = parsers()
    pages = {"cannonkit.bash": completion(found)} if wants_completion else {
        f"{name}.1": man_page(name, parser) for name, parser in found.items()}
    for name, text in pages.items():
        with open(os.path.join(folder, name), "w", encoding="utf-8") as file:
            file.write(text)


if __name__ == "__main__":
    main()
