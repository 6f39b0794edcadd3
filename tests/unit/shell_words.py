"""Shells that complete: what bash, zsh and fish offer for a line, asked of the shells themselves.

with a script loaded, `offers(lines)` gives for each line what the shell would offer at its end.
"""

from __future__ import annotations

import os
import pty
import select
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

SECONDS = 60
_BASH = r"""
source "$1"
complete -p exeat | grep -q -- '-F' || { echo "nothing completes exeat" >&2; exit 1; }
function=$(complete -p exeat | sed 's/.*-F \([^ ]*\) .*/\1/')
while IFS= read -r line; do
  read -ra COMP_WORDS <<<"$line"
  [[ $line == *' ' ]] && COMP_WORDS+=('')
  COMP_CWORD=$((${#COMP_WORDS[@]} - 1)) COMP_LINE=$line COMP_POINT=${#line} COMPREPLY=()
  "$function" exeat "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}" 2>/dev/null
  printf '%s\n' "${COMPREPLY[@]}" .
done
"""
_FISH = r"""
source $argv[1]
while read line
  complete -C "$line" | string split -f1 \t
  echo .
end
"""
# compadd says what it was given, in place of offering it; those calls that only fill an array stay what they are.
_ZSH = r"""
PS1='' PS2='' RPS1=''
fpath=(%(directory)s $fpath)
autoload -Uz compinit && compinit -u -D
compadd() {
  if [[ ${@[1,(i)(-|--)]} == *-(O|A|D)\ * ]]; then builtin compadd "$@"; return $?; fi
  typeset -a hits
  builtin compadd -A hits "$@"
  print -rl -- $hits >>%(out)s
}
say() { print -r -- . >>%(out)s; zle kill-whole-line }
zle -N say
bindkey '^I' complete-word
bindkey '^G' say
print -r -- ready >>%(out)s
"""


def bash_offers(script: Path, lines: Sequence[str], environment: Mapping[str, str]) -> list[set[str]]:
    """What bash's completion function leaves in COMPREPLY."""
    done = subprocess.run(
        ["bash", "--norc", "-c", _BASH, "bash", script],
        input="".join(f"{line}\n" for line in lines), capture_output=True, text=True, timeout=SECONDS, check=True,
        env=dict(environment),
    )  # fmt: skip
    return _answers(done.stdout)


def fish_offers(script: Path, lines: Sequence[str], environment: Mapping[str, str]) -> list[set[str]]:
    """What `complete -C` says."""
    done = subprocess.run(
        ["fish", "--no-config", "-c", _FISH, script],
        input="".join(f"{line}\n" for line in lines), capture_output=True, text=True, timeout=SECONDS, check=True,
        env=dict(environment),
    )  # fmt: skip
    return _answers(done.stdout)


def zsh_offers(script: Path, lines: Sequence[str], environment: Mapping[str, str], scratch: Path) -> list[set[str]]:
    """What an interactive zsh offers when Tab is pressed."""
    out = scratch / "offered"
    (scratch / "_exeat").write_text(script.read_text())  # as packages install it
    (scratch / ".zshrc").write_text(_ZSH % {"directory": scratch, "out": out})
    out.touch()
    child, terminal = pty.fork()
    if child == 0:
        os.execvpe("zsh", ["zsh", "-i"], {**environment, "ZDOTDIR": str(scratch), "TERM": "dumb"})
    try:
        _await(terminal, out, "ready", 1)
        for at, line in enumerate(lines, 1):
            os.write(terminal, f"{line}\t\x07".encode())
            _await(terminal, out, ".", at)
    finally:
        os.close(terminal)
        os.waitpid(child, 0)
    return _answers(out.read_text().removeprefix("ready\n"))


def _await(terminal: int, out: Path, word: str, count: int) -> None:
    """Reads the terminal, so that it never fills up, until the word has been said so often."""
    until = time.monotonic() + SECONDS
    while out.read_text().splitlines().count(word) < count:
        if time.monotonic() > until:
            raise TimeoutError(f"zsh has not said `{word}` {count} times: {out.read_text()[-500:]}")
        if select.select([terminal], [], [], 0.01)[0]:
            os.read(terminal, 1 << 16)


def _answers(text: str) -> list[set[str]]:
    answers = text.split("\n.\n") if not text.startswith(".\n") else ["", *text[2:].split("\n.\n")]
    return [set(filter(None, answer.splitlines())) for answer in answers[:-1]]
