"""The completion of bash. It uses nothing of bash-completion, which need not be installed."""

from __future__ import annotations

from shells.offers import HEAD, INPUTS, OUTPUTS, names, offers, quoted, tables

from mysocket.options import FLAG, VERBS

BASH = r"""
# Values: KIND, what stands before the value in its word, the value so far. Where nothing is offered, the shell completes names of
# files or directories itself, which knows about quotes.
_mysocket_offer() {
    local kind=$1 before=$2 value=$3
    case $kind in
        @file) compopt -o default ;;
        @directory) compopt -o dirnames ;;
        @peer)
            compopt -o nospace
            _mysocket_add "$before" -A hostname -S : -- "$value"
            ;;
        @host) _mysocket_add "$before" -A hostname -- "$value" ;;
        @input | @output)
            case $kind$value in
                @outputudp:*:* | @outputtcp:*:*) ;;
                @outputudp:* | @outputtcp:*)
                    compopt -o nospace
                    _mysocket_add "$before${value%%:*}:" -A hostname -S : -- "${value#*:}"
                    ;;
                @inputudp:* | @inputtcp:*) ;;
                @inputfollow:* | @*unix:*) compopt -o default ;;
                *)
                    local places='%(outputs)s'
                    [[ $kind == @input ]] && places='%(inputs)s'
                    _mysocket_add "$before" -W "$places" -- "$value"
                    if ((${#COMPREPLY[@]})); then
                        compopt -o nospace
                        local count=${#COMPREPLY[@]}
                        _mysocket_add "$before" -f -- "$value"
                        ((${#COMPREPLY[@]} == count)) || compopt -o filenames
                    else
                        compopt -o default
                    fi
                    ;;
            esac
            ;;
        ?*) _mysocket_add "$before" -W "$kind" -- "$value" ;;
    esac
}

# What compgen finds, with what stands before it.
_mysocket_add() {
    local before=$1 found
    shift
    while IFS= read -r found; do
        COMPREPLY+=("$before$found")
    done < <(compgen "$@")
}

_mysocket() {
    local rest=${COMP_LINE:0:COMP_POINT} gap word piece='' verb='' options bundle valued awaited='' dashes='' place=0 i
    local -a words=()
    COMPREPLY=()
    # bash parts words at = and : as well. Here they are whole, up to the cursor.
    for ((i = 0; i <= COMP_CWORD; i++)); do
        gap=${rest%%%%[![:space:]]*}
        rest=${rest#"$gap"}
        word=${COMP_WORDS[i]}
        ((i == COMP_CWORD)) && word=$rest
        rest=${rest#"$word"}
        if [[ -n $gap || $i == 0 ]]; then
            words+=("$word")
        else
            words[${#words[@]}-1]+=$word
        fi
    done
    [[ $word == [=:]* ]] || piece=$word
    local last=$((${#words[@]} - 1)) first=1
    local current=${words[last]}
    case ${words[1]-} in
        %(verbs)s) ((last > 1)) && verb=${words[1]} first=2 ;;
    esac
    case $verb in
%(tables)s
    esac
    for ((i = first; i < last; i++)); do
        word=${words[i]}
        if [[ -n $awaited ]]; then
            awaited=''
        elif [[ -n $dashes || $word != -?* ]]; then
            ((++place))
        elif [[ $word == -- ]]; then
            dashes=1
        elif [[ $word == --* ]]; then
            [[ $valued == *" $word "* ]] && awaited=$word
        elif [[ $word =~ $bundle ]]; then
            awaited=-${BASH_REMATCH[1]}
        fi
    done
    if [[ -n $awaited ]]; then
        _mysocket_value "$verb" "$awaited" '' "$current"
    elif [[ -z $dashes && $current == --*=* ]]; then
        _mysocket_value "$verb" "${current%%%%=*}" "${current%%%%=*}=" "${current#*=}"
    elif [[ -z $dashes && $current == -* ]]; then
        _mysocket_add '' -W "$options" -- "$current"
    else
        case "$verb $place" in
            ' 0') ((last == 1)) && _mysocket_add '' -W '%(words)s' -- "$current" ;;
            ' 1') _mysocket_offer @host '' "$current" ;;
            'spool 0') _mysocket_offer @directory '' "$current" ;;
        esac
    fi
    # The shell puts its answer in the place of what stands behind the last = or :, where it parts words there.
    local cut=${current%%"$piece"}
    for i in "${!COMPREPLY[@]}"; do
        COMPREPLY[i]=${COMPREPLY[i]#"$cut"}
    done
}

_mysocket_value() { # VERB OPTION BEFORE VALUE
    case "$1 $2" in
%(values)s
    esac
}

complete -F _mysocket mysocket
"""


def script() -> str:
    table_rows, value_rows = [], []
    by_offer: dict[str, list[str]] = {}
    for verb, table in tables().items():
        flags = "".join(option.short for option in table if option.short and option.kind == FLAG)
        letters = "".join(option.short for option in table if option.short and option.kind != FLAG)
        valued = [name for option in table if option.kind != FLAG for name in names(option)]
        table_rows += [
            f"        {quoted(verb)})",
            f"            options={quoted(' '.join(name for option in table for name in names(option)))}",
            f"            valued={quoted(' ' + ' '.join(valued) + ' ')}",
            f"            bundle={quoted(f'^-[{flags}]*([{letters}])$' if letters else '^$')}",
            "            ;;",
        ]
        for option in table:
            if offers(option):
                by_offer.setdefault(offers(option), []).extend(quoted(f"{verb} {name}") for name in names(option))
    for offer, patterns in by_offer.items():
        value_rows.append(f'        {" | ".join(patterns)}) _mysocket_offer {quoted(offer)} "$3" "$4" ;;')
    return f"# {HEAD.format('bash')}\n" + BASH % {
        "verbs": " | ".join(VERBS),
        "words": " ".join(VERBS),
        "inputs": " ".join([*INPUTS, "-"]),
        "outputs": " ".join([*OUTPUTS, "-"]),
        "tables": "\n".join(table_rows),
        "values": "\n".join(value_rows),
    }
