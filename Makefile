# Main targets: `make quickstart` trains on synthetic scenes, `make test` runs all checks.
PYTHON ?= python3
VENV ?= .venv
# Processes that test side by side.
JOBS ?= 2
TEST = $(VENV)/bin/python -m pytest -n $(JOBS)

.PHONY: quickstart lint test test-all docs study evidence faults fuzz clean

quickstart: $(VENV)/.run
	$(VENV)/bin/sceneparse scenes data/quickstart
	$(VENV)/bin/sceneparse train --config quickstart --overwrite
	$(VENV)/bin/sceneparse evaluate runs/quickstart
	@cat tools/quickstart.txt

# 10 to 20 minutes on two cores.
test: lint
	$(TEST)

# The slow tests too; records what became of the faults, as `make faults` does.
test-all: lint
	$(TEST) -m "slow or not slow" --record-faults

lint: $(VENV)/.dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/mypy --platform win32
	$(VENV)/bin/mypy --platform darwin
	$(VENV)/bin/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml

# The pages in docs/ as a site, in site/. The tests build it too.
docs: $(VENV)/.dev
	$(VENV)/bin/mkdocs build --strict

# What strip pooling is worth on CamVid (hours on two cores). The same command resumes it.
# Set WEIGHTS to a file of timm's mobilenetv2_100 if they cannot be downloaded.
CAMVID ?= data/camvid
WEIGHTS ?= imagenet
study: $(VENV)/.run
	$(VENV)/bin/sceneparse study study/camvid data.root=$(CAMVID) \
		model.pretrained=$(WEIGHTS) output=runs/study_camvid --results results/camvid_study

# Needs a GPU: the paper's ablation from scratch and from ImageNet weights, the blocks on CIFAR-10, the benchmark.
CIFAR ?= data
BLOCKS = none strip_pooling se eca triplet gct cbam coordinate simam
evidence: $(VENV)/.run
	$(VENV)/bin/python -m benchmarks all --markdown --json runs/speed.json --picture runs/speed.png
	$(VENV)/bin/sceneparse study study/camvid_spnet50 data.root=$(CAMVID) \
		model.pretrained=null output=runs/study_scratch
	for block in $(BLOCKS); do $(VENV)/bin/sceneparse classify --config cifar10_resnet18 \
		data.root=$(CIFAR) attention=$$block seeds=0-4 output=runs/cifar10/$$block --resume || exit; done
	$(VENV)/bin/sceneparse compare $(addprefix runs/cifar10/,$(BLOCKS)) --output runs/cifar10_blocks
	$(VENV)/bin/sceneparse study study/camvid_spnet50 data.root=$(CAMVID) \
		output=runs/study_pretrained

# Injects every fault, also the slow ones, and rewrites the table in docs/explanation/faults.md.
faults: $(VENV)/.dev
	$(TEST) -m fault --record-faults

# Reads COUNT mutated inputs of each kind; findings go to runs/fuzz.
COUNT ?= 10000
fuzz: $(VENV)/.dev
	$(VENV)/bin/python -W ignore -m tests.fuzz.run --count $(COUNT)

# One marker file per kind of installation, so that a second call installs nothing.
$(VENV)/.run: setup.py
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet -e .
	touch $@

$(VENV)/.dev: setup.py
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet -e '.[dev]'
	touch $@ $(VENV)/.run

clean:
	rm -rf $(VENV) build site *.egg-info data/quickstart runs/quickstart
