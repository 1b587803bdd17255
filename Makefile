# Two commands on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
WORKERS ?= 2
DEMO := demo_output

.PHONY: help demo test lint format bench clean

help:
	@echo "make demo   train, sample and look at a tiny model   (5 minutes)"
	@echo "make test   run the test suite"
	@echo "make lint   check style    make format   apply it"
	@echo "make bench  print the benchmark tables"

# The stamp is written last: an interrupted install starts anew.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: Python >= 3.11 is needed (make PYTHON=python3.12 ...)"; exit 1; }
	@test -x $(BIN)/pip || { rm -rf $(VENV); $(PYTHON) -m venv $(VENV); } || \
	  { rm -rf $(VENV); echo "error: python -m venv failed: install the venv package of your system (Debian: python3-venv)"; exit 1; }
	$(BIN)/pip install --quiet --disable-pip-version-check \
	  -c constraints.txt -e ".[test,dev,tfds]"
	@touch $(STAMP)

# The main job on synthetic clips. A second run continues where it stands.
demo: $(STAMP)
	$(BIN)/python -m data_prep.make_synthetic $(DEMO)/videos \
	  --count 64 --frames 16 --size 64 --sample_rate 16000
	$(BIN)/python -m data_prep.videos_to_tfrecord --input $(DEMO)/videos \
	  --output $(DEMO)/records --size 16 --sample_rate 2000 --clip_frames 8
	$(BIN)/python main.py train --config=configs/smoke.py \
	  --workdir=$(DEMO)/run --config.data.source=tfrecord:$(DEMO)/records \
	  --config.train.num_steps=200
	$(BIN)/python main.py sample --config=configs/smoke.py \
	  --checkpoint=$(DEMO)/run --output=$(DEMO)/samples --num_samples=8
	$(BIN)/python main.py gallery $(DEMO)/samples
	@echo "Samples, with sound: $(DEMO)/samples/index.html"

test: $(STAMP)
	$(BIN)/python -m pytest -n $(WORKERS)

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(STAMP)
	$(BIN)/python -m benchmarks.data
	$(BIN)/python -m benchmarks.unet
	$(BIN)/python -m benchmarks.sampling

clean:
	rm -rf $(VENV) $(DEMO)
