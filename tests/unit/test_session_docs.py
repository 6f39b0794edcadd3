"""docs/sessions.md does what it says: its keys are taken, its id is the key's, and its token is one."""

import re
import subprocess
import sys
from pathlib import Path

from exeat.agent.sessions import Sessions
from exeat.session_settings import SessionSettings

TEXT = (Path(__file__).parents[2] / "docs" / "sessions.md").read_text()


def block(language: str) -> str:
    """The document's code."""
    found = re.search(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)
    assert found
    return found[1]


def test_the_keys_and_the_token_of_the_document_are_taken(tmp_path: Path) -> None:
    """By an agent's own code, with the id that openssl and sha256sum make of the key."""
    shell = subprocess.run(["sh", "-ec", block("sh")], cwd=tmp_path, check=True, capture_output=True, text=True)
    program = block("python").replace(
        'algorithm="EdDSA"', f'algorithm="EdDSA", headers={{"kid": "{shell.stdout.strip()}"}}'
    )
    for code in (block("python"), program):
        subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, timeout=60)
        sessions = Sessions(SessionSettings(tmp_path / "sessions.pub"))
        context = sessions.accept((tmp_path / "token").read_text(), ("coder-7",), None, "uid 0")
        said = sessions.said_by(context)
        assert said
        assert (said.session, said.user, said.tool, said.run) == ("s-42", "alice", "shell", "")
