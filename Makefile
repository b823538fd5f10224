# Everything runs in a tool environment of its own (.venv) and on throw-away hosts (lab/). `make help` lists the commands.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

TOOLS := $(CURDIR)/.venv
export PATH := $(TOOLS)/bin:$(PATH)
export ANSIBLE_CONFIG := $(CURDIR)/ansible.cfg
# a machine that forbids bytecode would make every Python program start slowly
unexport PYTHONDONTWRITEBYTECODE
# the lab needs root; its files stay the user's
ROOT := $(if $(filter 0,$(shell id -u)),,sudo --preserve-env)
LAB := $(ROOT) $(TOOLS)/bin/python -m lab
CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/ownmetal

.PHONY: help site plan facts flags verify uninstall lab-up lab-down test lint unit molecule molecule-vllm molecule-cuda molecule-gateway molecule-codex molecule-caddy bench relock docs build tools clean

help: ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

site: lab-up ## the main job: the whole chain on the embedded lab, proved by a tool call of the real Codex
	ansible-playbook site.yml -i inventories/lab
	@echo "The chain works. Look around: $(LAB) exec dev1 runuser -u dev -- codex --version. Take the lab away: make lab-down"

plan: lab-up ## what would run on the lab's servers, whether it fits, and why not
	ansible-playbook playbooks/plan.yml -i inventories/lab

verify: ## prove the lab's chain again, changing nothing
	ansible-playbook playbooks/verify.yml -i inventories/lab

uninstall: ## take everything off the lab's hosts again
	ansible-playbook playbooks/uninstall.yml -i inventories/lab

lab-up: tools .cache/micro-model ## boot the lab's hosts: server1 (Debian 12) and dev1 (Debian 13)
	@mkdir -p $(CACHE)/uv
	$(LAB) up server1:bookworm dev1:trixie --bind-rw $(CACHE)/uv:/srv/uv-cache
	ansible-playbook lab/prepare.yml -i inventories/lab

lab-down: ## remove the lab's hosts, and every trace of them on this machine
	$(LAB) down --all

test: tools .cache/micro-model ## prove everything: lint, unit tests, the lab, the whole chain (its parts add up to three quarters of an hour)
	python tests/run.py

lint: tools ## ansible-lint (production), yamllint, ruff, mypy
	python tests/run.py lint

unit: tools ## the core's tables, without hosts
	python -m pytest

molecule: tools .cache/micro-model ## the whole chain on lab hosts: check, converge, idempotence, tests, uninstall
	python tests/run.py molecule

molecule-vllm: tools .cache/micro-model ## the model servers' life on two lab hosts: releases, upgrades, the pool, faults
	python tests/run.py vllm

molecule-cuda: tools .cache/micro-model ## driver and toolkit, from packages that stand in for the vendor's, on two lab hosts without a GPU
	python tests/run.py cuda

molecule-gateway: tools .cache/micro-model ## two servers, a gateway before them, two teams: doors, streams, rotation, what comes and goes
	python tests/run.py gateway

molecule-codex: tools ## Codex on a machine of two people, with what they had, and with old releases; a stand-in for the models
	python tests/run.py codex

molecule-caddy: tools .cache/micro-model ## the gateway with Caddy, changes of its engine, certificates by ACME; stand-ins for the models
	python tests/run.py caddy

bench: tools .cache/micro-model ## measure against a plain role with stock modules (docs/speed.md): make bench BENCH="--full environment"
	python bench/run.py $(BENCH)

relock: tools ## make the hash-locked requirements anew from their .in files, and show what changed
	eval "$$(python -m lab uv-settings)" && python tools/relock.py

facts: tools ## the compatibility facts that nobody checked in the last 90 days
	python tools/stale_facts.py

flags: tools ## make the flag catalogue of a vLLM release anew: make flags RELEASE=0.32.0
	python tools/flag_catalogue.py --release $(RELEASE) --write

docs: tools ## write the generated parts of the documentation
	python tools/generate_docs.py

build: tools ## build the collection's archive
	ansible-galaxy collection build --force --output-path build

tools: .venv/.complete ## make the tool environment (.venv) from its pins

.venv/.complete: requirements/dev.txt tools/bootstrap
	tools/bootstrap

.cache/micro-model: lab/micro_model.py | tools
	python lab/micro_model.py $@ && touch $@

clean: lab-down ## remove the lab, the tool environment and what was built
	rm -rf .venv .ansible .cache build
