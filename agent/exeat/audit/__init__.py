"""The verdict log: what was judged, written so that a later change of it shows.

Lines of JSON, each with its number and a hash over itself and all before it (chain.py), with signed checkpoints
(keys.py). log.py is the only module that writes; verify.py and reading.py only read, and need no agent. Never raises
into enforcement: what cannot be written is counted, and said in the log as soon as it can be.
"""

from exeat.audit.log import VerdictLog
from exeat.audit.reading import read_since
from exeat.audit.verify import Problem, Verification, verify

__all__ = ["Problem", "VerdictLog", "Verification", "read_since", "verify"]
