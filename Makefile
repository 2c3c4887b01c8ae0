# `make demo` and `make test` need Python >= 3.11 with venv, pip and make; nothing else.
PYTHON ?= python3
BIN := .venv/bin
# Processes that run tests; auto: one for each core.
JOBS ?= auto
READY := .venv/.ready

.PHONY: demo check test notebooks solutions lab bench figures lint clean test-browser

demo: $(READY)
	$(BIN)/fedlab-mm demo --out out/demo

# What a change most likely breaks, in under three minutes on two cores; `make test` is everything that must hold.
check: lint
	$(BIN)/python -m pytest -n $(JOBS) -m "not slow"

test: lint
	$(BIN)/python -m pytest -n $(JOBS)
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --nbval --nbval-current-env notebooks

# Notebooks in a real JupyterLab, their widgets moved by keyboard; leaves pictures in out/browser/.
test-browser: $(READY)
	@for c in chromium chromium-browser google-chrome; do command -v $$c > /dev/null && exit 0; done; \
		echo "no Chromium found: apt install chromium (Debian, Ubuntu) or brew install chromium (macOS)"; exit 1
	$(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt -e ".[browser]"
	$(BIN)/python -m pytest tests/browser

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The solutions of the notebooks' exercises: an hour.
solutions: $(READY)
	$(BIN)/python -m pytest -n $(JOBS) --solutions tests/test_solutions.py

# Run every notebook again and store its outputs, for when a change moves them. Look at each before you commit it.
notebooks: $(READY)
	for n in notebooks/*.ipynb; do $(BIN)/fedlab-mm execute $$n --out out/notebooks && cp out/notebooks/$$(basename $$n) $$n || exit 1; done

lab: $(READY)
	$(BIN)/jupyter lab notebooks

bench: $(READY)
	$(BIN)/python -m benchmarks $(if $(ROOT),--root $(ROOT))

# Reinstalls only when the list of dependencies changed; the stamp is written last, so that an install cut short runs again.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "fedlab_mm needs Python 3.11 or newer: make PYTHON=python3.12 …"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt -e ".[dev]"
	@touch $@

# Measures every figure and table whose data are there (hours, for KU's); DRAW=1 only draws them from their CSVs.
figures: $(READY)
	$(BIN)/fedlab-mm figures $(FIGURES) $(if $(ROOT),--root $(ROOT)) $(if $(DRAW),--draw)

clean:
	rm -rf .venv out runs
