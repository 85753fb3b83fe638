# Everything a contributor runs. On a fresh machine `make demo` needs GNU make and Python alone:
# uv is fetched when it is missing, and all that is installed stays in .uv and .venv.

SHELL := /bin/sh
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo dev test web wheel bench chaos lint types schema docs lock node clean unproven

# Pythons to look for, the best tried first; PYTHON=/path/to/python goes before them all.
PYTHONS := python3.13 python3.12 python3.11 python3.14 python3 python
SYNCED := .venv/.synced
# The pages are built where there is a Node that can.
NPM := $(if $(shell node -e 'const [a, b] = process.versions.node.split("."); \
  if (a < 20 || (a == 20 && b < 19)) process.exit(1)' 2>/dev/null && command -v npm),npm)
WEB := $(if $(NPM),flow/web/static/.built,no-web)
WEB_SOURCES := $(shell find flow/web -type f \
  -not -path '*/node_modules/*' -not -path '*/static/*' 2>/dev/null)

# Neither another environment nor another install target of the caller's shell may leak in here.
# What says where packages come from (index, proxy, certificates) is left alone.
# Python keeps what it compiled: without that, half of what each of the tests' processes does is
# to compile the same packages again.
unexport PYTHONDONTWRITEBYTECODE
unexport VIRTUAL_ENV CONDA_PREFIX PYTHONPATH PYTHONHOME PYTHONUSERBASE PYTHONSAFEPATH MYPYPATH
unexport PIP_CONSTRAINT PIP_DRY_RUN PIP_NO_BINARY PIP_NO_DEPS PIP_PREFIX PIP_PYTHON
unexport PIP_REQUIRE_HASHES PIP_REQUIREMENT PIP_ROOT PIP_TARGET
unexport UV_BUILD_CONSTRAINT UV_CONSTRAINT UV_EXCLUDE UV_EXCLUDE_NEWER UV_MANAGED_PYTHON UV_NO_BINARY
unexport UV_NO_BUILD UV_NO_VERIFY_HASHES UV_OVERRIDE UV_PREFIX UV_PROJECT UV_PYTHON
unexport UV_PYTHON_PREFERENCE UV_REQUIRE_HASHES UV_RESOLUTION UV_SYSTEM_PYTHON UV_TARGET
unexport UV_VENV_SEED UV_WORKING_DIRECTORY UV_WORKING_DIR
export PIP_REQUIRE_VIRTUALENV := 0
export PIP_USER := 0
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export UV_PYTHON_DOWNLOADS := never

help: ## list what there is
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1|\2/p' Makefile | awk -F'|' '{ printf "%-14s %s\n", $$1, $$2 }'

demo: $(SYNCED) ## one whole call on this machine, without any account
	@.venv/bin/flow demo $(ARGS)

dev: $(SYNCED) ## the service with reloading and stand-ins
	@$(MAKE) --no-print-directory --silent web || echo "The pages could not be built: Flow runs without new ones."
	@.venv/bin/flow dev $(ARGS)

# AGAIN=yes: tests that failed are tried once more, when no others run.
test: $(SYNCED) node web ## all tests; LANE="unit contract db calls system browser" and ARGS="-k join" for some
	@.venv/bin/python -m tests.lanes $(LANE:%=--lane %) $(if $(AGAIN),--again) -- $(ARGS)

web: $(WEB) ## the pages: console and talk page

wheel: $(SYNCED) web ## the package with the built pages, into dist/
	@rm -rf dist && .uv/bin/uv build --quiet --python .venv/bin/python --no-build-isolation --wheel

bench: $(SYNCED) ## how fast it is, against baselines; ARGS="p1 p5 --json FILE"
	@.venv/bin/python -m tests.bench $(ARGS)

chaos: $(SYNCED) ## faults on purpose, and what must hold; ARGS="r1 r6 --short --json FILE"
	@.venv/bin/python -m tests.chaos $(ARGS)

lint: $(SYNCED) $(if $(NPM),flow/web/node_modules/.package-lock.json) ## style, layout and the direction of imports
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/lint-imports
	@$(if $(NPM),cd flow/web && npm run --silent types,echo "Without Node 20.19 or newer (with npm) the pages' TypeScript is not checked.")

types: $(SYNCED) ## mypy, strict
	@.venv/bin/mypy

schema: $(SYNCED) ## write supabase/schema.sql from the migrations
	@.venv/bin/python -m flow.db.schema_dump supabase/schema.sql

docs: .venv/.docs ## the documentation, into site/; ARGS=serve for http://127.0.0.1:8001
	@NO_MKDOCS_2_WARNING=1 .venv/bin/python -m mkdocs $(if $(filter serve,$(ARGS)),serve --dev-addr 127.0.0.1:8001,build --strict --clean)

# All that any install may need: every extra, what builds the package, and uv.
lock: .uv/bin/uv ## write requirements.lock; ARGS=--upgrade for the newest versions
	@.uv/bin/uv pip compile pyproject.toml --all-extras --group dev --group docs --group installer \
	  --universal --python-version 3.11 \
	  --generate-hashes --custom-compile-command "make lock" --quiet \
	  --output-file requirements.lock $(ARGS)

clean: ## remove all that make has put here
	rm -rf .venv .uv .node dist build site tests/node/node_modules \
	  flow/web/node_modules flow/web/static \
	  .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find flow tests -name __pycache__ -type d -prune -exec rm -rf {} +

# The environment -------------------------------------------------------------------------------

IS_SUITABLE := import sys; \
  (3, 11) <= sys.version_info[:2] <= (3, 14) and sys.implementation.name == "cpython" \
  or sys.exit(1); print(sys.executable)

define find_python
for name in $(PYTHON) $(PYTHONS); do \
  python=$$("$$name" -I -c '$(IS_SUITABLE)' 2>/dev/null) && break; \
done; \
if [ -z "$$python" ]; then \
  echo "Flow needs Python 3.11, 3.12, 3.13 or 3.14, and found none of them as" >&2; \
  echo "$(strip $(PYTHON) $(PYTHONS)). Install one (Debian: apt install python3," >&2; \
  echo "macOS: brew install python@3.13) or name it: make PYTHON=/path/to/python3.12" >&2; \
  exit 1; \
fi
endef

# A command whose output is shown only if it fails. On a terminal one line tells meanwhile for how
# long it has run, and what it does. In the background it would not hear of an interrupt.
define define_quietly
quietly() { \
  "$$@" > .uv/install.log 2>&1 & pid=$$!; \
  trap 'kill $$pid; exit 130' INT TERM; \
  while kill -0 $$pid 2>/dev/null; do \
    if [ -t 1 ]; then \
      printf '\r\033[K%4s s  %.60s' "$$(($$(date +%s) - began))" "$$(tail -n 1 .uv/install.log)"; \
    fi; \
    sleep 0.2; \
  done; \
  if [ -t 1 ]; then printf '\r\033[K'; fi; \
  wait $$pid || { status=$$?; cat .uv/install.log >&2; return $$status; }; \
}
endef

# A system's own uv, or the locked one fetched into .uv: by way of a virtual environment where Python
# can make one, or by pip alone where it cannot (Debian splits venv off).
.uv/bin/uv:
	@rm -rf .uv && mkdir -p .uv/bin
	@sed -n '/^uv==/,/# via/p' requirements.lock > .uv/uv.lock
	@if uv --version >/dev/null 2>&1; then ln -s "$$(command -v uv)" $@; exit; fi; \
	$(find_python); \
	echo "Fetching uv, which installs the rest, with $$python"; \
	began=$$(date +%s); $(define_quietly); \
	if "$$python" -I -m venv .uv/venv >/dev/null 2>&1 \
	    && quietly .uv/venv/bin/python -m pip install --require-hashes --requirement .uv/uv.lock; then \
	  ln -s ../venv/bin/uv $@; \
	elif quietly "$$python" -m pip install --target .uv/lib \
	    --require-hashes --requirement .uv/uv.lock; then \
	  ln -s ../lib/bin/uv $@; \
	else \
	  echo "uv could not be fetched. Install uv, or give this Python venv or pip" \
	    "(Debian: apt install python3-venv): $$python" >&2; \
	  exit 1; \
	fi

# The stamp is younger than all that decides what is installed, is written last, and holds the folder
# that was installed: a copied or moved checkout would run the other one's code, so it gets an
# environment of its own. A .venv that make did not make is kept if its Python will do.
ifneq ($(shell test -x .venv/bin/python && cat $(SYNCED) 2>/dev/null),$(CURDIR))
$(SYNCED): unproven
endif
unproven: ;

$(SYNCED): requirements.lock pyproject.toml | .uv/bin/uv
	@made_for=$$(cat $@ 2>/dev/null || echo "$(CURDIR)"); \
	if [ "$$made_for" != "$(CURDIR)" ] \
	    || ! .venv/bin/python -I -c '$(IS_SUITABLE)' >/dev/null 2>&1; then \
	  $(find_python); \
	  rm -rf .venv; \
	  .uv/bin/uv venv --quiet --python "$$python" .venv; \
	fi
	@echo "Installing Flow and what it needs into .venv: a minute or two the first time, then seconds."; \
	began=$$(date +%s); $(define_quietly); \
	quietly .uv/bin/uv pip install --python .venv/bin/python --exact --require-hashes \
	  --constraint requirements.lock --requirements pyproject.toml --extra sandbox \
	  --group dev \
	&& quietly .uv/bin/uv pip install --python .venv/bin/python --no-deps --no-build-isolation \
	  --editable . \
	&& echo "Installed in $$(($$(date +%s) - began)) s."
	@echo "$(CURDIR)" > $@

# What only the documentation needs is installed when that is built.
.venv/.docs: $(SYNCED)
	@.uv/bin/uv pip install --quiet --python .venv/bin/python --require-hashes \
	  --constraint requirements.lock --group docs
	@touch $@

# Some tests run Supabase's own PostgREST and CLI, which need Node. Not `npm ci`, here and for the
# pages: it refuses a lock that does not hold binaries for every platform, of which a machine needs
# one.
node: $(if $(wildcard tests/node/package-lock.json),$(if $(shell command -v npm 2>/dev/null),tests/node/node_modules/.package-lock.json))
	@command -v npm >/dev/null 2>&1 || echo "Node (with npm) is missing: the tests that need it are skipped."

tests/node/node_modules/.package-lock.json: tests/node/package-lock.json
	@cd tests/node && npm install --no-save --no-audit --no-fund

# The stamp is younger than the sources, and is written last.
flow/web/static/.built: $(WEB_SOURCES) | flow/web/node_modules/.package-lock.json
	@echo "Building the pages"
	@cd flow/web && npm run --silent build -- --logLevel warn
	@touch $@

flow/web/node_modules/.package-lock.json: flow/web/package-lock.json
	@cd flow/web && npm install --no-save --no-audit --no-fund --loglevel error
	@touch $@

.PHONY: no-web
no-web:
	@echo "Without Node 20.19 or newer (with npm) the pages are not built: /console and /talk say so."
