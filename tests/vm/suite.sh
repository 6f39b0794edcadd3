#!/bin/bash
# Inside the machine: first what this kernel refuses, then the tests.
#
#     tests/vm/suite.sh [pytest argument ...]
uname -srv
exeat doctor
doctor=$?
python tests/vm/verifier.py
if [ "$doctor" != 0 ]; then
  echo "the doctor found something missing (status $doctor): the tests would only say so again" >&2
  exit "$doctor"
fi
# Of two --timeout pytest takes the last.
PYTHONPATH=tests exec pytest -p vm.patience --timeout 900 "$@"
