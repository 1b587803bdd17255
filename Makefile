# Two commands on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
WORKERS ?= 2
DEMO := demo
MODEL := mmdiff_jax/assets/shapes/checkpoint
SHAPES := --config=configs/shapes.py

.PHONY: help demo demo-records demo-train demo-samples study-demo test lint format bench mutants clean

help:
	@echo "make demo   sample, train, evaluate and look at a small model (about 4 minutes)"
	@echo "make study-demo  a human study, answered by simulated raters (1 minute)"
	@echo "make test   run the test suite"
	@echo "make lint   check style and types    make format   apply the style"
	@echo "make bench  print the benchmark tables"
	@echo "make mutants  change the code at random, and see which tests notice (hours)"

# The stamp is written last: an interrupted install starts anew.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: Python >= 3.11 is needed (make PYTHON=python3.12 ...)"; exit 1; }
	@test -x $(BIN)/pip || { rm -rf $(VENV); $(PYTHON) -m venv $(VENV); } || \
	  { rm -rf $(VENV); echo "error: python -m venv failed: install the venv package of your system (Debian: python3-venv)"; exit 1; }
	$(BIN)/pip install --quiet --disable-pip-version-check \
	  -c constraints.txt -e ".[test,dev,tfds]"
	@touch $(STAMP)

# The main job on sounding shapes, with the model that comes with the project.
# A second run continues where it stands. The training step takes a minute to
# compile, mostly on one core: it trains while the samples are made.
# What runs for a minute need not be optimised as what runs for days.
demo: export XLA_FLAGS += --xla_backend_optimization_level=1
demo: $(STAMP)
	@$(MAKE) --no-print-directory -j 2 demo-train demo-samples
	@tail -n 3 $(DEMO)/train.log
	@tail -n 1 $(DEMO)/inspect.log
	$(BIN)/python main.py gallery $(DEMO) --onsets
	@echo "Players, waveforms and spectrograms: $(DEMO)/index.html"

demo-records:
	$(BIN)/python main.py synthetic $(DEMO)/videos --count=48
	$(BIN)/python main.py prepare --input=$(DEMO)/videos \
	  --output=$(DEMO)/records --size=16 --sample_rate=2000

demo-train: demo-records
	@echo "Training beside the sampling, see $(DEMO)/train.log"
	@$(BIN)/python main.py train $(SHAPES) --config.train.init_from=$(MODEL) \
	  --workdir=$(DEMO)/run --config.data.source=tfrecord:$(DEMO)/records \
	  --config.train.learning_rate=1e-4 --config.train.num_steps=6 \
	  --config.train.log_every=3 > $(DEMO)/train.log 2>&1 || \
	  { tail -n 20 $(DEMO)/train.log; exit 1; }
	@$(BIN)/python main.py inspect $(DEMO)/records > $(DEMO)/inspect.log 2>&1

demo-samples: demo-records
	$(BIN)/python main.py sample $(SHAPES) --checkpoint=$(MODEL) \
	  --output=$(DEMO)/joint --num_samples=8
	$(BIN)/python main.py synthetic $(DEMO)/known --split=eval --count=8
	$(BIN)/python main.py sample $(SHAPES) --checkpoint=$(MODEL) \
	  --output=$(DEMO)/audio_to_video --num_samples=1 \
	  --condition=audio --source=$(DEMO)/known --config.sample.steps=25
	$(BIN)/python main.py sample $(SHAPES) --checkpoint=$(MODEL) \
	  --output=$(DEMO)/video_to_audio --num_samples=1 \
	  --condition=video --source=$(DEMO)/known --config.sample.steps=25
	$(BIN)/python main.py evaluate $(SHAPES) --real=$(DEMO)/records \
	  --fake=$(DEMO)/joint --metrics=fvd,fad_mel,av_gap --num_clips=16 \
	  --output=$(DEMO)/report.json
	@echo "Do picture and sound belong together? 1: as in the truth, 0: chance."
	$(BIN)/python -m benchmarks.sync --samples $(DEMO)/joint \
	  $(DEMO)/audio_to_video $(DEMO)/video_to_audio

# A study of sounding shapes: real ones, and two "systems" of other seeds.
# The simulated raters know which is which; what is shown is the whole way.
STUDY := $(DEMO)/study
study-demo: $(STAMP)
	rm -rf $(STUDY)
	$(BIN)/python main.py synthetic $(STUDY)/real --count=48
	$(BIN)/python main.py synthetic $(STUDY)/ours --split=tune --count=48
	$(BIN)/python main.py synthetic $(STUDY)/theirs --split=eval --count=48
	$(BIN)/python main.py study build --real=$(STUDY)/real \
	  --fake=ours=$(STUDY)/ours --fake=theirs=$(STUDY)/theirs \
	  --preset=benchmarks/study_demo.yaml --output=$(STUDY)/study
	cp -r $(STUDY)/study $(STUDY)/simulated
	$(BIN)/python main.py study simulate $(STUDY)/simulated --raters=30 --cheaters=3
	$(BIN)/python main.py study report $(STUDY)/simulated
	@echo "Take part yourself: $(BIN)/python main.py study serve $(STUDY)/study"

test: $(STAMP)
	$(BIN)/python -m pytest -n $(WORKERS)

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(STAMP)
	$(BIN)/python -m benchmarks.data
	$(BIN)/python -m benchmarks.unet
	$(BIN)/python -m benchmarks.sampling

# make mutants MODULES="evaluation/entries task" DIGITS=37
mutants: $(STAMP)
	$(BIN)/pip install --quiet --disable-pip-version-check \
	  -c constraints.txt -e ".[mutants]"
	nice -n 15 $(BIN)/python -m benchmarks.mutants $(MODULES) \
	  --workers=$(WORKERS) $(if $(DIGITS),--digits=$(DIGITS))

clean:
	rm -rf $(VENV) $(DEMO)
