PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test check types bench model clean

demo: $(VENV)/.runtime  ## Generate the first picture; installs what running needs, no torch.
	$(BIN)/latentrt generate "a red apple" --seed 7 --out apple.png

test: $(VENV)/.dev  ## Run every test.
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

check: $(VENV)/.dev  ## Check style and formatting.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev  ## Type-check the package exactly as it installs: checkers cannot follow the folder mapping.
	rm -rf build
	$(BIN)/python -m pip -q install --no-deps --no-build-isolation --target build/types .
	rm -rf build/lib build/bdist.*
	cd build && MYPYPATH=types ../$(BIN)/python -m mypy --config-file ../pyproject.toml -p latentrt

bench: $(VENV)/.dev  ## Time the built-in model, process start included.
	$(BIN)/python -m benchmarks.generate

model: $(VENV)/.dev  ## Replace the built-in model: make model CHECKPOINT=folder
	test -n "$(CHECKPOINT)"
	rm -rf build/emoji
	$(BIN)/latentrt export "$(CHECKPOINT)" build/emoji --name emoji --precision w16 --guidance 2
	rm -rf runtime/models/emoji && mv build/emoji runtime/models/emoji

clean:  ## Remove everything that can be made again.
	rm -rf $(VENV) build dist *.egg-info apple.png

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.runtime: pyproject.toml setup.py | $(VENV)/bin/python
	$(BIN)/python -m pip -q install -e '.[cpu]'
	touch $@

# torch first and by itself: an open range would bring a build of several GB. CLIP's vocabulary is the only thing wanted
# from open_clip_torch, whose own dependencies are large. NVIDIA's builder and runtimes need no GPU to be installed, built
# with, and compared with what the code calls; the packages that would bring them fetch from elsewhere.
$(VENV)/.dev: pyproject.toml setup.py | $(VENV)/bin/python
	$(BIN)/python -m pip -q install torch==2.13.0
	$(BIN)/python -m pip -q install -e '.[cpu,export,dev]'
	$(BIN)/python -m pip -q install --no-deps open_clip_torch
	$(BIN)/python -m pip -q install --no-deps tensorrt-rtx-cu13-libs==1.7.1.116 tensorrt-rtx-cu13-bindings==1.7.1.116 \
		tensorrt-lean-cu13-libs==11.4.0.106 tensorrt-lean-cu13-bindings==11.4.0.106
	touch $@ $(VENV)/.runtime
