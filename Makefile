# Thin: each target calls a tool or a script that a person could call by hand. `make help` lists them.
PYTHON ?= python3
PORT ?= 8888
DOCS_PORT ?= 8000
DOCS_URL ?=
BIN := .venv/bin
# A second run reinstalls only when one of these changed.
METADATA := settings.ini setup.py pyproject.toml
# Jobs side by side are fastest with one torch thread each.
export OMP_NUM_THREADS ?= 1

.PHONY: help lab test test-oldest soak mutants notebooks experiments readme docs docs-serve bench scoreboard \
        release-check clean
.DEFAULT_GOAL := help

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

.venv/.installed: $(METADATA)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	  echo "ft_tutorial needs Python 3.10 or newer; '$(PYTHON)' is not. Try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "$(PYTHON) has no 'venv' module. On Debian or Ubuntu: apt install python3-venv"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q -e '.[dev,notebooks]'
	@touch $@

lab: .venv/.installed  ## open the notebooks in JupyterLab (make lab PORT=9000)
	@$(BIN)/ft_tutorial lab nbs --port $(PORT)

test: .venv/.installed  ## run all that continuous integration runs
	@$(BIN)/python tools/run_tests.py

notebooks: .venv/.installed  ## run all notebooks again and keep their new outputs
	@$(BIN)/python tools/run_notebooks.py --save

experiments: .venv/.installed  ## run the experiments over 20 seeds, an hour, and write nbs/results
	@$(BIN)/python tools/run_experiments.py

readme: .venv/.installed  ## make README.md from nbs/index.ipynb
	@$(BIN)/python tools/make_readme.py

docs: .venv/.installed  ## build the site into _site (DOCS_URL=https://… for the 404 page and link previews)
	@$(BIN)/python site/build.py --url "$(DOCS_URL)"

docs-serve: docs  ## build the site and serve it (make docs-serve DOCS_PORT=9000)
	@$(BIN)/python -m http.server --bind 127.0.0.1 --directory _site $(DOCS_PORT)

soak: .venv/.installed  ## live 5,000 random lives of a learner, 20 minutes (make soak SEED=1 for those of a seed)
	@SOAK=$${SOAK:-5000} $(BIN)/python -W ignore -m pytest -s tests/test_learner_states.py -k lives

bench: .venv/.installed  ## measure speed, memory and overhead, one script of bench/ after another
	@for script in bench/f*.py; do echo "--- $$script"; $(BIN)/python -W ignore $$script || exit 1; done

scoreboard: .venv/.installed  ## do the same jobs with other libraries, an hour, and write nbs/results
	@$(BIN)/python -W ignore bench/scoreboard.py

test-oldest: .venv/.installed  ## run the helpers' tests with the oldest versions that the metadata allows
	@$(BIN)/python tools/test_oldest.py

mutants: .venv/.installed  ## check that the tests notice wrong code: 400 small changes, most of an hour
	@$(BIN)/python -W ignore tools/mutants.py

release-check: .venv/.installed  ## build, install and try the distributions as a user would (15 GB of disk for a while)
	@$(BIN)/python tools/release_check.py

clean:  ## remove what the other targets made, except .venv
	rm -rf build dist _site _proc _docs *.egg-info .pytest_cache .hypothesis
