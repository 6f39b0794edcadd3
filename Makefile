# Two commands do everything on a fresh Debian or Ubuntu machine, as root: `make run` and `make test`.

SHELL := /bin/bash
PYTHON := /usr/bin/python3
VENV := .venv
BIN := $(VENV)/bin
RUNTIME_PACKAGES := python3 python3-venv python3-bpfcc libbpf1 linux-libc-dev iproute2
TEST_PACKAGES := curl openssl gnutls-bin wget nftables clang-format gcc libc6-dev util-linux strace bind9-dnsutils golang-go musl-tools nodejs dnsmasq-base postgresql chromium? golang-google-grpc-dev golang-google-protobuf-dev protobuf-compiler protoc-gen-go-1-5 protoc-gen-go-grpc git qemu-system-x86 busybox-static mmdebstrap buildah docker.io containerd runc containernetworking-plugins podman zsh fish mandoc man-db
TESTERS := 3
CLANG_FORMAT := clang-format --style=file

.DEFAULT_GOAL := help
PROTOS := $(wildcard proto/exeat/v1/*.proto)
.PHONY: help setup run test lint bench fuzz vm deb clean

help: ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 16

setup: $(VENV)/.ready agent/exeat/v1/.generated ## install what is missing (system packages by apt, Python packages from the lock file)

$(VENV)/.ready: Makefile requirements.lock pyproject.toml packaging/install-packages.sh
	packaging/install-packages.sh $(RUNTIME_PACKAGES) $(TEST_PACKAGES)
	test -x $(BIN)/python || $(PYTHON) -m venv --system-site-packages $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

agent/exeat/v1/.generated: $(PROTOS) $(VENV)/.ready
	mkdir -p agent/exeat/v1
	rm -rf agent/exeat/v1/*
	PATH=$(CURDIR)/$(BIN):$$PATH $(BIN)/python -m grpc_tools.protoc -Iproto --python_out=agent --grpc_python_out=agent \
	  --mypy_out=quiet:agent --mypy_grpc_out=quiet:agent $(PROTOS)
	echo '"""Made from proto/exeat/v1 by `make setup`."""' >agent/exeat/v1/__init__.py
	touch $@

run: setup ## show exeat doing its main job, on test hosts that it makes itself
	$(BIN)/python packaging/demo/demo.py

test: setup ## all tests; needs root
	# What fails beside others, on a machine that has too much to do, must pass by itself.
	$(BIN)/python -m pytest -n $(TESTERS) --dist loadgroup -m "not alone" || \
	  $(BIN)/python -m pytest -n 1 --dist loadgroup -m "not alone" --last-failed --last-failed-no-failures none
	# What measures time is asked once more: the machine may have had something else to do.
	$(BIN)/python -m pytest -m alone || $(BIN)/python -m pytest -m alone --last-failed --last-failed-no-failures none

lint: setup ## ruff, mypy, import-linter, clang-format
	$(BIN)/ruff check agent tests packaging
	$(BIN)/ruff format --check agent tests packaging
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(CLANG_FORMAT) --dry-run --Werror bpf/*.h bpf/*.c

bench: setup ## the numbers of docs/benchmarks.md, as ratios against the same run without exeat
	PYTHONPATH=tests $(BIN)/python -m bench.main
	PYTHONPATH=tests $(BIN)/python -m bench.plane
	PYTHONPATH=tests $(BIN)/python -m bench.collect
	PYTHONPATH=tests $(BIN)/python -m bench.plane_agent

fuzz: setup ## made-up hellos, DNS messages, API requests and logs, SECONDS_TO_RUN each (default 60)
	PYTHONPATH=tests $(BIN)/python tests/fuzz/fuzz_hellos.py $${SECONDS_TO_RUN:-60}
	PYTHONPATH=tests $(BIN)/python tests/fuzz/fuzz_dns.py $${SECONDS_TO_RUN:-60}
	PYTHONPATH=tests $(BIN)/python tests/fuzz/fuzz_api.py $${SECONDS_TO_RUN:-60}
	PYTHONPATH=tests $(BIN)/python tests/fuzz/fuzz_audit.py $${SECONDS_TO_RUN:-60}
	PYTHONPATH=tests $(BIN)/python tests/fuzz/fuzz_state.py $${SECONDS_TO_RUN:-60}
	PYTHONPATH=tests $(BIN)/python tests/fuzz/fuzz_guest_frames.py $${SECONDS_TO_RUN:-60}

vm: setup ## the end-to-end tests on other kernels, in emulated machines
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r tests/vm/requirements.lock
	tests/vm/run.sh

deb: setup ## Debian packages, in dist/
	$(BIN)/python packaging/deb/build.py

clean: ## remove what set-up and tests made below this directory
	rm -rf $(VENV) agent/exeat/v1 build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
