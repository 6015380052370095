# make demo | test | ui | lint: each sets up .venv by itself when it is missing or outdated.

PYTHON ?= python3
PORT ?= 5000

BIN := $(CURDIR)/.venv/bin
INSTALLED := .venv/installed

export PATH := $(BIN):$(PATH)
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export HF_HUB_DISABLE_TELEMETRY := 1
export MLFLOW_DISABLE_TELEMETRY := true
unexport PYTHONPATH
unexport PYTHONHOME

.PHONY: help demo test soak fuzz ui lint lock

help:
	@echo 'make demo   every table and figure on synthetic corpora, in about ten minutes'
	@echo 'make test   the test suite'
	@echo 'make ui     the MLflow UI on the results, http://127.0.0.1:$(PORT) (PORT=… for another)'
	@echo 'make soak   kill a training twenty times; it must end as if undisturbed'
	@echo 'make fuzz   100,000 spoiled inputs for the readers of configs and corpora'
	@echo 'make lint   ruff, snakefmt and the linter of Snakemake'
	@echo 'make lock   write the installed versions to envs/'

demo: $(INSTALLED)
	snakemake --configfile config/demo.yaml
	@echo
	@cat results/demo/tables/table1.md
	@echo
	@echo 'Tables:  results/demo/tables/'
	@echo 'Figures: results/demo/figures/'
	@echo 'Runs:    results/demo/runs/, and in MLflow: make ui'

test: $(INSTALLED)
	python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

soak: $(INSTALLED)
	python -m tests.support.soak --kills 20

fuzz: $(INSTALLED)
	python -m tests.fuzz --cases 100000

ui: $(INSTALLED)
	@test -f results/mlflow.db || { echo 'results/mlflow.db: no such file; make demo writes it'; exit 1; }
	@echo 'Runs, with their scores in view (stop with Ctrl-C):'
	@python -c 'import glob, json; [print("  http://127.0.0.1:$(PORT)/" + json.load(open(f))["page"]) \
	  for f in sorted(glob.glob("results/*/store.json"))]'
	mlflow ui --backend-store-uri 'sqlite:///$(CURDIR)/results/mlflow.db' \
	  --host 127.0.0.1 --port $(PORT)

lint: $(INSTALLED)
	ruff check mtdnn tests
	ruff format --check mtdnn tests
	snakefmt --check Snakefile workflow
	snakemake --lint

$(INSTALLED): envs/requirements.lock setup.cfg
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo '$(PYTHON): Python 3.11 or newer is needed; name one with make PYTHON=…'; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' || { \
	  echo '$(PYTHON): has no venv module; on Debian: apt-get install python3-venv'; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --requirement envs/requirements.lock
	$(BIN)/pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

# Local version labels (+cpu) are left out: which build of torch is installed is the machine's
# affair. The conda environment of the rules holds the same pins.
lock:
	$(BIN)/pip freeze --all --exclude-editable | grep -v '^pip==' | sed 's/+[a-z0-9.]*$$//' \
	  > envs/requirements.lock
	{ echo '# Environment of the rules with `snakemake --sdm conda`; written by `make lock`.'; \
	  echo 'name: mtdnn'; echo 'channels: [conda-forge]'; \
	  echo 'dependencies:'; echo '  - python=3.11'; echo '  - pip'; echo '  - pip:'; \
	  sed 's/^/      - /' envs/requirements.lock; } > envs/environment.yaml
