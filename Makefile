# Two commands: `make quickstart` runs the main job on made-up scenes, `make test` checks everything.
PYTHON ?= python3
VENV ?= .venv
# Threads that wait leave the cores to others: several times faster on a machine at work.
TEST = OMP_WAIT_POLICY=passive $(VENV)/bin/python -m pytest

.PHONY: quickstart test faults fuzz clean

quickstart: $(VENV)/.run
	$(VENV)/bin/python tools/make_scenes.py data/quickstart
	$(VENV)/bin/python tools/train_seg.py --config configs/quickstart.yaml --overwrite
	$(VENV)/bin/python tools/eval_miou.py runs/quickstart
	@cat tools/quickstart.txt

test: $(VENV)/.dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(TEST)

# Injects every fault, the slow ones too (about 20 minutes); rewrites the README's table.
faults: $(VENV)/.dev
	OMP_WAIT_POLICY=passive $(VENV)/bin/python -m tests.faults

# COUNT mutated inputs of each kind; findings go to runs/fuzz.
COUNT ?= 10000
fuzz: $(VENV)/.dev
	$(VENV)/bin/python -W ignore -m tests.fuzz.run --count $(COUNT)

# A mark per kind of installation, so that a second call installs nothing.
$(VENV)/.run: setup.py
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet -e .
	touch $@

$(VENV)/.dev: setup.py
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet -e '.[dev]'
	touch $@ $(VENV)/.run

clean:
	rm -rf $(VENV) build *.egg-info data/quickstart runs/quickstart
