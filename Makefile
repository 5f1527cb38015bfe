# make demo   the whole job on a PostgreSQL that the project runs itself
# make test   linters, conventions, dbt tests and pytest, against servers of their own
# Both set up .venv first; they need Python 3.10 to 3.13, make and git.

PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11 python3.10; do \
	$$python -c 'import sys, venv, ensurepip; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' \
	2>/dev/null && echo $$python && break; done)
ROWS ?= 50000
PYTEST := .venv/bin/pytest --numprocesses 2 --dist load --maxschedchunk 1
PIP := .venv/bin/pip --disable-pip-version-check --quiet install --require-hashes

.PHONY: demo test test-quick test-long test-faults test-orchestration lint docs site bench \
	torture torture-statements lock clean

demo: .venv/ready
	@.venv/bin/python runner.py demo --rows $(ROWS)

# In random order; the header names the seed, and docs/testing.md how to repeat it
test: .venv/ready-dev
	$(PYTEST)

# What one runs after each edit: a minute and a half
test-quick: .venv/ready-dev
	$(PYTEST) --quiet -m "not slow and not faults and not long"
	@echo "Left out: SQL linters and conventions, and the tests marked slow: what dbt builds, six" \
		"services at once, clients that write during a switch, crashes. All of it: make test"

lint: .venv/ready-dev
	$(PYTEST) tests/lint

# The runner and the servers killed at every step of a switch and of a rollback, and somebody in the
# way at every step; eight minutes. In the order of the files: tests of two servers share them, and a
# completion is the last of them
test-faults: .venv/ready-dev
	$(PYTEST) -p no:randomly -m "faults or not faults" tests/blytz_hire/test_switch_faults.py \
		tests/blytz_hire/test_blockers.py

# Whole lives: from the monolith to six services that outlive it, and all of it on PostgreSQL 15;
# four minutes
test-long: .venv/ready-dev
	$(PYTEST) -m long

# The examples for Airflow and Dagster, each in an environment of its own, which takes two minutes
test-orchestration: .venv/ready-dev .venv-airflow/ready .venv-dagster/ready
	$(PYTEST) tests/orchestration

.venv-%/ready: tests/orchestration/%.lock
	@[ -x .venv-$*/bin/pip ] || $(PYTHON) -m venv .venv-$*
	@.venv-$*/bin/pip --disable-pip-version-check --quiet install -r $<
	@touch $@

# Random lives of services with random faults, while clients write: make torture CYCLES=100 JOBS=2.
# A failure names the seed that repeats it
CYCLES ?= 10
JOBS ?= 1
torture: .venv/ready-dev
	.venv/bin/python -m tests.torture --cycles $(CYCLES) --jobs $(JOBS) $(if $(SEED),--seed $(SEED))

# One operation, killed after each of its SQL statements: make torture-statements OPERATION=rollback
OPERATION ?= switch
EVERY ?= 1
torture-statements: .venv/ready-dev
	.venv/bin/python -m tests.support.killing $(OPERATION) --every $(EVERY)

# Every table and column of all six databases, from the monolith and back: target/docs/index.html
docs: .venv/ready
	.venv/bin/python runner.py docs

# This documentation as a site that needs no network: target/site/index.html. Its search needs a
# server: python3 -m http.server -d target/site
site: .venv/ready-dev
	.venv/bin/python -m mkdocs build --strict

# The main job beside other tools, an hour; or another measurement: make bench WHAT=switching.
# Sizes: make bench ROWS="200000 2000000". PUBLISH=1 keeps what was found in bench/results/ and writes
# the tables of README.md and docs/performance.md. All of them: .venv/bin/python -m bench --help
WHAT ?= main
bench: .venv/ready
	.venv/bin/python -m bench $(WHAT) $(if $(PUBLISH),--publish) \
		$(if $(filter file,$(origin ROWS)),,--rows $(ROWS))

# The same versions for users as the tests have
lock:
	uv pip compile pyproject.toml --extra embedded --group dev --universal --python-version 3.10 \
		--generate-hashes --no-strip-extras --no-header --no-emit-index-url --no-annotate --quiet \
		--output-file requirements-dev.lock
	uv pip compile pyproject.toml --extra embedded --constraints requirements-dev.lock --universal \
		--python-version 3.10 --generate-hashes --no-strip-extras --no-header --no-emit-index-url \
		--no-annotate --quiet --output-file requirements.lock

clean:
	[ ! -x .venv/bin/python ] || .venv/bin/python runner.py down --wipe
	rm -rf .venv .venv-airflow .venv-dagster dbt_packages target logs

.venv/ready: requirements.lock packages.yml
	@[ -n "$(PYTHON)" ] || { echo "error: no Python 3.10 to 3.13 with venv found. Install one" \
		"(Debian: apt-get install python3-venv) or name it: make PYTHON=/path/to/python3"; exit 4; }
	@echo "Setting up .venv with $$($(PYTHON) --version); this takes a minute, once."
	@[ -x .venv/bin/pip ] || $(PYTHON) -m venv .venv
	@$(PIP) -r requirements.lock
	@.venv/bin/dbt --quiet deps
	@touch $@

.venv/ready-dev: requirements-dev.lock .venv/ready
	@$(PIP) -r requirements-dev.lock
	@touch $@
