#!/bin/bash
# Inside the machine: first what this kernel refuses, then the tests.
#
#     tests/vm/suite.sh [pytest argument ...]
uname -srv
exeat doctor
doctor=$?
if [ "$doctor" != 0 ]; then
  echo "the doctor found something missing (status $doctor): the tests would only say so again" >&2
  exit "$doctor"
fi
python tests/vm/verifier.py
exec pytest "$@"
