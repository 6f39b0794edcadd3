"""Helm, as a program: requests on standard input, what came of them on standard output, both as JSON.

It is Helm's own library (PyPI: helm-python-sdk), not something like it. It is run as a child without a network, because
rendering needs none.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[2]
KUBERNETES = REPOSITORY / "packaging/kubernetes"
CHART = REPOSITORY / "packaging/chart/exeat"
_TIMEOUT_S = 60.0


def ask(requests: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each request has `values`; each answer has `manifests` by their files' names, or an `error`."""
    words = ["unshare", "--net", sys.executable, __file__]
    done = subprocess.run(words, input=json.dumps(requests), capture_output=True, text=True, timeout=_TIMEOUT_S)
    if done.returncode:
        raise RuntimeError(f"Helm did not answer: {done.stderr}")
    answers: list[dict[str, Any]] = json.loads(done.stdout)
    return answers


def main() -> None:
    """Answers."""
    sys.path.insert(0, str(KUBERNETES))
    import generate
    from helm_python import chart
    from helm_python.errors import HelmError

    answers: list[dict[str, Any]] = []
    for request in json.load(sys.stdin):
        if request.get("lint"):
            answers.append(chart.lint(CHART, strict=True))
            continue
        try:
            manifests = generate.rendered(request["values"])
            answers.append({"manifests": manifests, "whole": generate.whole(manifests, generate.definitions())})
        except HelmError as error:
            answers.append({"error": str(error)})
    json.dump(answers, sys.stdout)


if __name__ == "__main__":
    main()
