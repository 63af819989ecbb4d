# `make` sets up and runs the default study; `make test` proves that all of it works.

CORES ?= $(shell env -u OMP_NUM_THREADS nproc 2>/dev/null || echo 2)
PYTHON ?= python3
export PATH := $(CURDIR)/.venv/bin:$(PATH)

.PHONY: study setup test test-fast faults check format clean

study: setup
	snakemake --cores $(CORES) --show-failed-logs --quiet reason host
	@cat $$(ls -t results/*/tables/table3.md | grep -v /reference/ | head -n 1)
	@echo "All of it on one page: $$(ls -t results/*/report_main.html | head -n 1)"

setup: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	test -x .venv/bin/python || $(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

# All tests: the parts first, then the whole graph at smoke scale, kills and a pass through Slurm included.
test: test-fast
	pytest -m 'graph and not faults'

test-fast: setup
	pytest -n $(CORES) --dist loadfile -m 'not graph and not faults'

# Time limits, preemption, dead nodes and drivers, and many more kills: an hour.
faults: setup
	pytest -m faults

check: setup
	ruff format --check .
	ruff check .
	mypy
	snakefmt --check workflow rules
	snakemake --lint
	snakemake -n --quiet --cores 1 all
	snakemake -n --quiet --cores 1 all --config scale=imagenet

format: setup
	ruff format .
	ruff check --fix .
	snakefmt workflow rules

clean:
	rm -rf .venv
