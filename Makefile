# isthmus: everything starts here.  Each target makes .venv in this folder when it is missing and brings it up to date when pyproject.toml
# changed; nothing is written outside this folder.
#
#   make demo ARGS="--dataset breast-cancer"      make test ARGS="tests/unit -k split"

PYTHON ?= python3
VENV   := .venv
RUN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
ARGS   ?=

.DEFAULT_GOAL := help
.PHONY: help demo test fuzz lint format protos bench clean

help:  ## list the targets
	@echo "isthmus: joint models without joint data"
	@echo
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/' | expand -t 18
	@echo
	@echo 'Options are passed on with ARGS="...", another interpreter with PYTHON=python3.12.'

demo: $(STAMP)  ## a coordinator, a bank and a platform train one model on this machine
	@$(RUN)/isthmus-coordinator demo $(ARGS)

test: $(STAMP)  ## all tests
	@$(RUN)/python -m pytest $(ARGS)

fuzz: $(STAMP)  ## every fuzz target for ten seconds, guided by coverage; ARGS="TARGET --seconds 600" for longer
	@$(RUN)/python -c 'import atheris' 2>/dev/null || $(RUN)/python -m pip install -qq --editable ".[fuzz]"
	@$(RUN)/python -m tests.fuzz $(ARGS)

lint: $(STAMP)  ## style, format, types and import rules
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	$(RUN)/mypy
	$(RUN)/lint-imports

format: $(STAMP)  ## put the code into the project's format
	$(RUN)/ruff check --fix .
	$(RUN)/ruff format .

protos: $(STAMP)  ## generate the code beside protos/*.proto anew
	$(RUN)/python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. --grpc_python_out=. protos/peer.proto protos/control.proto protos/relay.proto

bench: $(STAMP)  ## the whole training at 2048 and 3072 bits, measured
	@$(RUN)/python -m bench.training $(ARGS)

clean:  ## remove .venv and caches
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache

$(STAMP): pyproject.toml
	@command -v $(PYTHON) >/dev/null 2>&1 || { \
	  echo "error: there is no $(PYTHON) here." >&2; \
	  echo "  remedy: install Python 3.11 or newer (Debian: apt-get install python3 python3-venv), or name one: make PYTHON=python3.12" >&2; \
	  exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "error: $(PYTHON) is $$($(PYTHON) -c 'import platform; print(platform.python_version())'); isthmus needs Python 3.11 or newer." >&2; \
	  echo "  remedy: name a newer one, for example: make PYTHON=python3.12" >&2; \
	  exit 2; }
	@if [ ! -x $(RUN)/python ] || ! $(RUN)/python -m pip --version >/dev/null 2>&1; then \
	  rm -rf $(VENV); \
	  $(PYTHON) -m venv $(VENV) >$(VENV).log 2>&1 || { \
	    rm -rf $(VENV); cat $(VENV).log >&2; rm -f $(VENV).log; \
	    echo "error: $(PYTHON) could not make a virtual environment." >&2; \
	    echo "  remedy: Debian and Ubuntu keep that in a package of its own: apt-get install python3-venv" >&2; \
	    exit 2; }; \
	  rm -f $(VENV).log; \
	fi
	@echo "installing isthmus and what it needs into $(VENV) (once) ..."
	@$(RUN)/python -m pip install -qq --editable ".[demo,dev]" || { \
	  echo "error: the installation into $(VENV) failed; pip's own words stand above." >&2; \
	  echo "  remedy: it needs a package index (or a mirror set in pip's configuration); then run make again." >&2; \
	  exit 2; }
	@touch $@
