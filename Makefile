# `make` or `make help` lists what there is. Each task makes .venv and installs what it needs by itself.
.DEFAULT_GOAL := help
SHELL := /bin/sh
MAKEFLAGS += --no-print-directory

BIN := .venv/bin
PORT ?= 8000
# The interpreter that .venv is made with; empty: python3, or a newer one where that is older than 3.11.
PYTHON ?=
export PYTHON

COMPILE = $(BIN)/uv --no-config pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--custom-compile-command "make requirements" $(UPGRADE)

.PHONY: help
help: ## List the tasks
	@awk 'BEGIN { FS = ":.*## " } /^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: run
run: venv-run ## Run chatbe on http://127.0.0.1:8000, with a demo on the first run (PORT=9000 for another port)
	@exec $(BIN)/python manage.py quickstart --port $(PORT)

.PHONY: test
test: venv-test ## Run all tests, embedded and on PostgreSQL + Redis (ARGS="-k word" is passed to pytest)
	@exec $(BIN)/python -m tests.support.run $(ARGS)

.PHONY: faults
faults: venv-test ## Kill, pause and cut off real servers while clients chat, and judge it (ARGS="--minutes 30 --seed 7")
	@exec $(BIN)/python -m tests.faults $(ARGS)

.PHONY: bench
bench: venv-test ## Measure what a message costs, beside other servers (ARGS="--quick", ARGS="--only saturation,steady")
	@exec $(BIN)/python -m benchmarks $(ARGS)

.PHONY: lint
lint: venv-lint ## Check style, types, the arrows between packages, migrations and documents
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy .
	PYTHONPATH=clients/python $(BIN)/lint-imports
	CHATBE_ENV_FILE=none $(BIN)/python manage.py makemigrations --check --dry-run
	CHATBE_ENV_FILE=none $(BIN)/python manage.py docs --check
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@if command -v npm >/dev/null; then cd clients/js && npm ci --silent --no-audit --no-fund && npm run check; \
		else echo "npm is not installed, so the types of clients/js are not checked"; fi

.PHONY: type
type: venv-lint ## Check types only
	$(BIN)/mypy .

.PHONY: fmt
fmt: venv-lint ## Format the code and mend what can be mended by itself
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

.PHONY: docs-generate
docs-generate: venv-run ## Write the documents that are generated from the code
	CHATBE_ENV_FILE=none $(BIN)/python manage.py docs

.PHONY: docs
docs: venv-lint ## Build the site of the documents into build/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "open build/site/index.html"

.PHONY: requirements
requirements: venv-lint ## Compile pyproject.toml into requirements*.txt (UPGRADE=--upgrade for newer releases)
	$(COMPILE) pyproject.toml -o requirements.txt
	$(COMPILE) --extra test -c requirements.txt pyproject.toml -o requirements-test.txt
	$(COMPILE) --extra test --extra lint --extra docs -c requirements-test.txt pyproject.toml -o requirements-lint.txt

.PHONY: screenshots
screenshots: venv-test ## Take pictures of every view of the page, into docs/images/page (needs Chromium)
	@exec $(BIN)/python -m tests.web.screenshots docs/images/page

.PHONY: clean
clean: ## Remove .venv and the tools' caches; var/, with its data, stays
	rm -rf .venv .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache

.PHONY: venv-run venv-test venv-lint
venv-run:
	@scripts/venv requirements.txt
venv-test:
	@scripts/venv requirements-test.txt
venv-lint:
	@scripts/venv requirements-lint.txt
