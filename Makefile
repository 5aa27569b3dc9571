PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# Exact versions for every Python, and a build of torch for CPUs: an open range would bring one of several GB.
LOCKED := -c constraints.txt
TORCH := torch==2.13.0
TESTS := -m pytest -n auto --dist loadfile --no-loadscope-reorder

.PHONY: demo test sweeps test-latest lock check types docs bench model torture dist extras lowest lowest-export aarch64 clean

demo: $(VENV)/.runtime  ## Generate the first picture; installs what running needs, no torch.
	$(BIN)/latentrt generate "a red apple" --seed 7 --out apple.png

test: $(VENV)/.dev  ## Run every test but the sweeps.
	$(BIN)/python $(TESTS)

sweeps: $(VENV)/.dev  ## Run the tests that go through all of something: every float, every round, every shape.
	$(BIN)/python $(TESTS) -m sweep

torture: $(VENV)/.dev  ## Hostile files and bad luck, hours of them; PART=0.01 for a quick look.
	$(BIN)/python -m torture --part $(or $(PART),1)

test-latest:  ## Run the tests on the newest version of everything, in an environment of its own; prints what broke.
	$(PYTHON) -m venv $(VENV)-latest
	$(VENV)-latest/bin/python -m pip -q install --upgrade --upgrade-strategy eager -e '.[cpu,export,serve,dev]'
	$(VENV)-latest/bin/python -m pip -q install --no-deps -r constraints-alone.txt
	$(VENV)-latest/bin/python -m pip list --outdated
	-$(VENV)-latest/bin/python $(TESTS)

lock:  ## Resolve the newest versions that the ranges allow, for every Python, into constraints.txt.
	$(PYTHON) -m venv build/lock
	build/lock/bin/python -m pip -q install uv
	echo torch > build/lock/excludes.txt
	build/lock/bin/uv -q pip compile constraints.in --universal --python-version 3.10 --upgrade --no-header \
		--no-annotate --no-emit-package latentrt --excludes build/lock/excludes.txt -o constraints.txt

check: $(VENV)/.dev  ## Check style, formatting, and who imports whom.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache

types: $(VENV)/.dev  ## Type-check the four packages, in the checkout.
	$(BIN)/python -m mypy -p latentrt -p latentrt_export -p latentrt_calib -p latentrt_serve

docs: $(VENV)/.docs  ## Build the site of docs/ into build/site; a warning is an error.
	$(BIN)/python docs/make_site.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

dist: $(VENV)/.release  ## Build and check wheel and sdist, and what publishes them.
	$(BIN)/python -m release.dist

extras: $(VENV)/.release  ## Install the wheel of `make dist` with each extra on each Python, draw, write SBOMs; EXTRAS="--extra cpu".
	$(BIN)/python -m release.extras --torch $(TORCH) $(EXTRAS)

lowest: $(VENV)/.release  ## Run the tests of the runtime on the lowest versions that its ranges allow; LOWEST=3.12.
	$(BIN)/uv -q venv --clear --python $(or $(LOWEST),3.10) build/lowest
	$(BIN)/uv -q pip install --python build/lowest --resolution lowest-direct -e '.[cpu,openvino]' \
		'pytest>=9' 'pytest-xdist>=3.6'
	$(BIN)/uv pip freeze --python build/lowest
	build/lowest/bin/python $(TESTS) tests/runtime

lowest-export: $(VENV)/.release  ## Run the tests of single exports on the lowest versions that the extra `export` allows.
	$(BIN)/uv -q venv --clear --python 3.11 build/lowest-export
	$(BIN)/uv -q pip install --python build/lowest-export --resolution lowest-direct -e '.[cpu,export]' $(TORCH) \
		'pytest>=9' 'scipy>=1.14'
	$(BIN)/uv -q pip install --python build/lowest-export --no-deps -r constraints-alone.txt
	$(BIN)/uv pip freeze --python build/lowest-export
	build/lowest-export/bin/python -m pytest tests/export/test_export.py tests/export/test_auto_export.py tests/export/graph

aarch64: $(VENV)/.release  ## Resolve every extra for a Jetson, JetPack 6 and 7.
	$(BIN)/python -m release.aarch64

bench: $(VENV)/.dev  ## Time the built-in model, process start included.
	$(BIN)/python -m benchmarks.generate

model: $(VENV)/.dev  ## Replace the built-in model: make model CHECKPOINT=folder
	test -n "$(CHECKPOINT)"
	rm -rf build/emoji
	$(BIN)/latentrt export "$(CHECKPOINT)" build/emoji --name emoji --precision w16 --guidance 2 --step-cache 2
	rm -rf runtime/latentrt/models/emoji && mv build/emoji runtime/latentrt/models/emoji

clean:  ## Remove everything that can be made again.
	rm -rf $(VENV) $(VENV)-latest build dist *.egg-info apple.png

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.runtime: pyproject.toml runtime/latentrt/version.py setup.py constraints.txt | $(VENV)/bin/python
	@echo "Installing what running needs, 260 MB of packages, into $(VENV)"
	$(BIN)/python -m pip -q install $(LOCKED) setuptools
	$(BIN)/python -m pip -q install $(LOCKED) --no-build-isolation -e '.[cpu]'
	touch $@

# The packages of constraints-alone.txt come without those that they ask for.
$(VENV)/.dev: pyproject.toml runtime/latentrt/version.py setup.py constraints.txt constraints-alone.txt | $(VENV)/bin/python
	@echo "Installing what the tests need, 3 GB of packages, into $(VENV)"
	$(BIN)/python -m pip -q install $(LOCKED) $(TORCH) setuptools
	$(BIN)/python -m pip -q install $(LOCKED) --no-build-isolation -e '.[cpu,export,serve,dev]'
	$(BIN)/python -m pip -q install --no-deps -r constraints-alone.txt
	touch $@ $(VENV)/.runtime

$(VENV)/.docs: pyproject.toml runtime/latentrt/version.py constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip -q install $(LOCKED) setuptools
	$(BIN)/python -m pip -q install $(LOCKED) --no-build-isolation -e '.[docs]'
	touch $@

$(VENV)/.release: pyproject.toml runtime/latentrt/version.py constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip -q install $(LOCKED) setuptools
	$(BIN)/python -m pip -q install $(LOCKED) --no-build-isolation -e '.[release]'
	touch $@
