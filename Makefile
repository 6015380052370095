# make demo | test | quick | ui | lint | docs: each sets up .venv if it is missing or outdated.

PYTHON ?= python3
PORT ?= 5000

BIN := $(CURDIR)/.venv/bin
INSTALLED := .venv/installed
DOCUMENTS := *.md docs config/README.md profiles/README.md envs/README.md tests/benchmarks/*.md

export PATH := $(BIN):$(PATH)
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export HF_HUB_DISABLE_TELEMETRY := 1
export MLFLOW_DISABLE_TELEMETRY := true
unexport PYTHONPATH
unexport PYTHONHOME

.PHONY: help demo pictures notes test quick soak faults conflict fuzz ui lint docs lock

help:
	@echo 'make demo     run the whole pipeline on synthetic corpora, in about five minutes'
	@echo 'make pictures draw the pictures of README.md from the runs of the demo'
	@echo 'make notes    draw the records of GPUs into tests/benchmarks/NOTES.md'
	@echo 'make test     run all tests'
	@echo 'make quick    run the tests that need no workflow, server, cluster or browser, in a few minutes'
	@echo 'make ui       show the results in MLflow at http://127.0.0.1:$(PORT) (PORT=… for another port)'
	@echo 'make soak     kill a training run twenty times and compare it with an undisturbed one'
	@echo 'make faults   run 200 random sequences of commands, kills, full disks and damaged files'
	@echo 'make conflict put remedies for interference to cases with a known conflict and without'
	@echo 'make fuzz     feed 100,000 damaged inputs to the readers of configs and corpora'
	@echo 'make lint     run ruff, mypy, snakefmt, the linter of Snakemake; check links and spelling'
	@echo 'make docs     build the site in site/'
	@echo 'make lock     write the installed versions to envs/'

demo: $(INSTALLED)
	snakemake --configfile config/demo.yaml
	@echo
	@cat results/demo/tables/table1.md
	@echo
	@echo 'Report:  results/demo/report.html'
	@echo 'Tables:  results/demo/tables/'
	@echo 'Figures: results/demo/figures/'
	@echo 'Runs:    results/demo/runs/, and in MLflow: make ui'

# README's pictures, from the demo's runs; Playwright and Chromium photograph report and MLflow.
pictures: $(INSTALLED)
	snakemake --configfile config/demo.yaml
	cp results/demo/figures/effects.png docs/pictures/demo-effects.png
	python -m tests.support.screenshots config/demo.yaml

notes:
	$(PYTHON) tests/benchmarks/notes.py

test: $(INSTALLED)
	python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

quick: $(INSTALLED)
	python -m pytest -n 2 --dist loadfile --ignore tests/whole -m 'not slow and not patient'

soak: $(INSTALLED)
	python -m tests.support.soak --kills 20

faults: $(INSTALLED)
	python -m tests.faults --sequences 200

conflict: $(INSTALLED)
	python -m tests.support.constructed --seeds 10

fuzz: $(INSTALLED)
	python -m tests.fuzz --cases 100000

ui: $(INSTALLED)
	@test -f results/mlflow.db || { echo 'results/mlflow.db: no such file; run make demo first'; exit 1; }
	@echo 'The runs and their scores (stop with Ctrl-C):'
	@python -c 'import glob, json; [print("  http://127.0.0.1:$(PORT)/" + json.load(open(f))["page"]) \
	  for f in sorted(glob.glob("results/*/store.json"))]'
	mlflow ui --backend-store-uri 'sqlite:///$(CURDIR)/results/mlflow.db' \
	  --host 127.0.0.1 --port $(PORT)

lint: $(INSTALLED)
	ruff check mtdnn tests docs
	ruff format --check mtdnn tests docs
	mypy
	snakefmt --check Snakefile workflow
	snakemake --lint
	codespell $(DOCUMENTS)
	python -m pytest tests/test_docs.py -k link

docs: $(INSTALLED)
	pip install --quiet --constraint envs/requirements.lock --no-build-isolation --editable '.[docs]'
	mkdocs build --strict
	@echo 'The site: site/index.html; with search, at http://127.0.0.1:8000: mkdocs serve'

$(INSTALLED): envs/requirements.lock setup.cfg
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo '$(PYTHON): is older than Python 3.11; choose another with make PYTHON=…'; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' || { \
	  echo '$(PYTHON): has no venv module; on Debian, run apt-get install python3-venv'; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --requirement envs/requirements.lock
	$(BIN)/pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

# Without local version labels (+cpu), so that each machine installs its own build of torch. The
# conda environment of the rules has the same pins.
lock:
	$(BIN)/pip freeze --all --exclude-editable | grep -v '^pip==' | sed 's/+[a-z0-9.]*$$//' \
	  > envs/requirements.lock
	{ echo '# Environment of the rules with `snakemake --sdm conda`; written by `make lock`.'; \
	  echo 'name: mtdnn'; echo 'channels: [conda-forge]'; \
	  echo 'dependencies:'; echo '  - python=3.11'; echo '  - pip'; echo '  - pip:'; \
	  sed 's/^/      - /' envs/requirements.lock; } > envs/environment.yaml
