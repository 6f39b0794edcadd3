#!/bin/bash
# Inside the machine: first what this kernel refuses, then the tests.
#
#     tests/vm/suite.sh [pytest argument ...]
uname -srv
exeat doctor | tee /tmp/doctor
python tests/vm/verifier.py
if [ ! -s /tmp/doctor ] || grep '^MISSING' /tmp/doctor | grep -qv 'tcx links'; then # without tcx everything works, by clsact
  echo "the doctor found something missing: the tests would only say so again" >&2
  exit 1
fi
# Of two --timeout pytest takes the last.
PYTHONPATH=tests exec pytest -p vm.patience --timeout 900 "$@"
