# Two commands: `make quickstart` runs the main job on made-up scenes, `make test` checks everything.
PYTHON ?= python3
VENV ?= .venv

.PHONY: quickstart test fuzz clean

quickstart: $(VENV)/.run
	$(VENV)/bin/python tools/make_scenes.py data/quickstart
	$(VENV)/bin/python tools/train_seg.py --config configs/quickstart.yaml --overwrite
	$(VENV)/bin/python tools/eval_miou.py runs/quickstart
	@cat tools/quickstart.txt

test: $(VENV)/.dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/python -m pytest

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
