"""The completion of zsh, by its own _arguments."""

from __future__ import annotations

from collections.abc import Sequence

from shells.offers import HEAD, INPUTS, OUTPUTS, PLACES, Table, names, offers, quoted

from mysocket.options import FLAG, OPTIONS, REPEAT, VERBS, Option

ZSH = r"""
_mysocket_peer() { _hosts -S : }

_mysocket_place() { # the words with a colon
  if compset -P 'follow:' || compset -P 'unix:'; then
    _files
  elif compset -P '(udp|tcp):'; then
    [[ $service_place == output && $PREFIX != *:* ]] && _hosts -S :
  else
    local -a places=("$@")
    _describe -t places place places -S ''
    compadd -S ' ' -- -
    _files
  fi
}

_mysocket_input() {
  local service_place=input
  _mysocket_place %(inputs)s
}

_mysocket_output() {
  local service_place=output
  _mysocket_place %(outputs)s
}

_mysocket_first() {
  local -a verbs=(
%(verbs)s
  )
  (( CURRENT == 2 )) && _describe -t verbs verb verbs
}

_mysocket() {
  local curcontext=$curcontext state line
  typeset -A opt_args
  if (( CURRENT > 2 )); then
    case $words[2] in
%(cases)s
    esac
  fi
  _arguments -s -S \
%(main)s
    '1:port to listen on:_mysocket_first' \
    '2:host to dial:_hosts' \
    '3:port to dial:( )'
}

_mysocket "$@"
"""


def _in_brackets(text: str) -> str:
    return text.replace("\\", "\\\\").replace("[", "\\[").replace("]", "\\]").replace(":", "\\:")


def _zsh_option(option: Option) -> str:
    """Arguments of _arguments."""
    action = offers(option)
    if action.startswith("@"):
        action = {"@file": "_files", "@directory": "_path_files -/"}.get(action, f"_mysocket_{action[1:]}")
    elif action:
        action = f"({action})"
    value = "" if option.kind == FLAG else ":" + (option.metavar or "").replace(":", "\\:") + ":" + (action or " ")
    text = f"[{_in_brackets(option.help)}]{value}"
    written = names(option)
    if option.kind != FLAG:
        written = [f"{name}=" if name.startswith("--") else f"{name}+" for name in written]
    if option.kind == REPEAT:
        return " ".join(quoted(f"*{name}{text}") for name in written)
    if len(written) == 1:
        return quoted(written[0] + text)
    return f"{quoted('(' + ' '.join(names(option)) + ')')}{{{','.join(written)}}}{quoted(text)}"


def _zsh_lines(table: Table) -> str:
    return "\n".join(f"    {_zsh_option(option)} \\" for option in table)


def _zsh_places(places: Sequence[str]) -> str:
    return " ".join(quoted(place.replace(":", "\\:") + f":{PLACES[place]}") for place in places)


def script() -> str:
    cases = []
    for verb in VERBS.values():
        words = [f"{number}:{name}:( )" for number, (name, _) in enumerate(verb.words, 1)]
        words += [f"*:{verb.rest}:( )"] if verb.rest else []
        words = ["1:DIR:_path_files -/"] if verb.name == "spool" else words
        cases += [f"      {verb.name})", "        shift words", "        (( CURRENT-- ))", "        _arguments -s -S \\"]
        cases += [f"    {line}" for line in _zsh_lines(verb.options).splitlines()]
        cases += [*(f"        {quoted(word)} \\" for word in words), "          && return 0", "        return 1", "        ;;"]
    return f"#compdef mysocket\n# {HEAD.format('zsh')}\n" + ZSH % {
        "inputs": _zsh_places(INPUTS),
        "outputs": _zsh_places(OUTPUTS),
        "verbs": "\n".join(f"    {quoted(f'{verb.name}:{verb.help}')}" for verb in VERBS.values()),
        "cases": "\n".join(cases),
        "main": _zsh_lines(OPTIONS),
    }
