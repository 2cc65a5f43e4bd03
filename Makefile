# The commands of this project. `make` alone lists them.
export PATH := $(CURDIR)/.venv/bin:$(PATH)
# Plain lines instead of boxes and colours that break lines at 80 columns.
export MOLECULE_COMMAND_BORDERS := false
# With it, Ansible compiles all that it imports at each start.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup demo demo-down test test-quick lint unit lock readmes dashboards docs changelog

help: ## list the commands
	@grep -hE '^[a-z%-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-20s %s\n", $$1, $$2}'

setup: ## install what is missing: .venv, podman and the like
	@scripts/setup

demo: ## boot four hosts on this machine and build a fleet on them (BROKER=redis, BROKERS=3)
	@scripts/demo up $(if $(BROKER),--broker $(BROKER)) $(if $(BROKERS),--brokers $(BROKERS))

demo-down: ## remove the demo's hosts
	@scripts/demo down

test: ## check everything: lint, unit tests, every scenario on real hosts
	@scripts/test

test-quick: ## lint, unit tests, and one fleet from site.yml to a release: what to run after each change
	@scripts/test --quick

lint: ## ansible-lint, yamllint, ruff, mypy; roles, their specs, READMEs and dashboards agree
	@scripts/test --only lint

unit: ## unit tests alone
	@scripts/test --only unit

molecule-%: setup ## one scenario (make molecule-rabbitmq)
	@molecule test -s $*

bench-%: setup ## one benchmark of bench/README.md (make bench-memory ARGS=--help)
	@PYTHONPATH=.ansible/collections:. .venv/bin/python -m bench.$* $(ARGS)

readmes: setup ## write the variable tables of the roles' READMEs
	@.venv/bin/python scripts/role_readmes.py

dashboards: setup ## write the Grafana dashboards from scripts/dashboards.py
	@.venv/bin/python scripts/dashboards.py

docs: ## build the documentation site in .cache/docs/site
	@scripts/docs

changelog: docs ## merge changelogs/fragments into CHANGELOG.rst
	@.cache/docs/venv/bin/antsibull-changelog release --update-existing

lock: ## write requirements.lock and docs/requirements.lock from pyproject.toml
	@scripts/lock
