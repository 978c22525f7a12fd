"""The completion of fish."""

from __future__ import annotations

from collections.abc import Sequence

from shells.offers import HEAD, INPUTS, OUTPUTS, PLACES, offers, quoted, tables

from mysocket.options import FLAG, OPTIONS, VERBS, Option

FISH = r"""
# __mysocket_in VERB: the verb of this command line; '' for none.
function __mysocket_in
    set -l words (commandline -opc)
    set -l verb ''
    if set -q words[2]; and contains -- $words[2] %(verbs)s
        set verb $words[2]
    end
    test "$verb" = "$argv[1]"
end

# __mysocket_at COUNT: so many arguments stand before the cursor that are no options or values of them.
function __mysocket_at
    set -l count 0
    set -l awaited no
    set -l dashes no
    for word in (commandline -opc)[2..-1]
        if test $awaited = yes
            set awaited no
        else if test $dashes = yes; or not string match -qr -- '^-.' $word
            set count (math $count + 1)
        else if test $word = --
            set dashes yes
        else if string match -qr -- '%(bundle)s' $word; or contains -- $word %(valued)s
            set awaited yes
        end
    end
    test $count -eq $argv[1]
end

# The value that is being completed, without its option.
function __mysocket_token
    commandline -ct | string replace -r -- '^--[^=]*=' ''
end

function __mysocket_directories
    __fish_complete_directories (__mysocket_token) ''
end

function __mysocket_peers
    __fish_print_hostnames | string replace -r -- '$' ':'
end

# __mysocket_places input|output
function __mysocket_places
    set -l token (__mysocket_token)
    if string match -qr -- '^(follow|unix):' $token
        set -l kind (string replace -r -- ':.*' ':' $token)
        __fish_complete_path (string replace -r -- '^[a-z]*:' '' $token) | string replace -r -- '^' $kind
    else if string match -qr -- '^(udp|tcp):' $token
        if test $argv[1] = output
            __mysocket_peers | string replace -r -- '^' (string replace -r -- ':.*' ':' $token)
        end
    else
        if test $argv[1] = input
            printf '%%s\t%%s\n' %(inputs)s - stdin
        else
            printf '%%s\t%%s\n' %(outputs)s - stdout
        end
        __fish_complete_path $token
    end
end

complete -c mysocket -f
"""


def _fish_option(verb: str, option: Option) -> list[str]:
    short = f" -s {option.short}" if option.short else ""
    offer = offers(option)
    value = {
        "": " -x",
        "@file": " -r -F",
        "@directory": " -x -a '(__mysocket_directories)'",
        "@peer": " -x -a '(__mysocket_peers)'",
        "@input": " -x -a '(__mysocket_places input)'",
        "@output": " -x -a '(__mysocket_places output)'",
    }.get(offer, f" -x -a {_fish_quoted(offer)}")
    if option.kind == FLAG:
        value = ""
    return [
        f"complete -c mysocket -n {_fish_quoted(f'__mysocket_in {quoted(verb)}')} -l {name}{short if name == option.long else ''}"
        f"{value} -d {_fish_quoted(option.help)}"
        for name in (option.long, *option.aliases)
    ]


def _fish_quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def script() -> str:
    flags = "".join(option.short for option in OPTIONS if option.short and option.kind == FLAG)
    letters = "".join(option.short for option in OPTIONS if option.short and option.kind != FLAG)

    def pairs(places: Sequence[str]) -> str:
        return " ".join(f"{place} {_fish_quoted(PLACES[place])}" for place in places)

    rows = [
        f"complete -c mysocket -n 'test (count (commandline -opc)) -eq 1' -a {verb.name} -d {_fish_quoted(verb.help)}"
        for verb in VERBS.values()
    ]
    rows += ["complete -c mysocket -n '__mysocket_in \\'\\'; and __mysocket_at 1' -a '(__fish_print_hostnames)' -d host"]
    rows += ["complete -c mysocket -n '__mysocket_in spool; and __mysocket_at 1' -a '(__mysocket_directories)'"]
    rows += [row for verb, table in tables().items() for option in table for row in _fish_option(verb, option)]
    return (
        f"# {HEAD.format('fish')}\n"
        + FISH
        % {
            "verbs": " ".join(VERBS),
            "bundle": f"^-[{flags}]*[{letters}]$",
            "valued": " ".join(
                f"--{name}" for option in OPTIONS if option.kind != FLAG for name in (option.long, *option.aliases)
            ),
            "inputs": pairs(INPUTS),
            "outputs": pairs(OUTPUTS),
        }
        + "\n".join(rows)
        + "\n"
    )
