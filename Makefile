# Two commands for a newcomer: `make audit` and `make test`. Each sets up .venv once.
PYTHON ?= python3
VENV := .venv
STAMP := $(VENV)/.installed
RUN ?= candling-runs/sample-backdoor

.PHONY: audit test fuzz check bench techniques clean

# The sample hides a backdoor, so the right exit status is 1: found.
audit: $(STAMP)
	@rm -rf $(RUN)
	@$(VENV)/bin/candling audit sample:backdoor --out $(RUN); status=$$?; \
	if [ $$status -eq 1 ]; then echo "The verdict is the right one."; else \
	echo "The verdict should have been 'found' (exit status 1), but the exit status is $$status."; exit 1; fi

test: $(STAMP)
	$(VENV)/bin/python -m pytest

# Tests of arbitrary input on examples that no run has seen; what fails here becomes a test of its own.
fuzz: $(STAMP)
	$(VENV)/bin/python -m pytest --hypothesis-profile=fuzz -m hypothesis

check: $(STAMP)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

bench: $(STAMP)
	set -e; for name in observe patching attribution acdc; do $(VENV)/bin/python benchmarks/$$name.py; done

# The index of techniques, from their headers and the cards that are kept.
techniques: $(STAMP)
	$(VENV)/bin/python -m candling.workflows.technique_pages docs/techniques

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	{ echo "candling needs Python 3.11 or newer: make PYTHON=python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --no-compile -c constraints.txt -e '.[dev]'
	@touch $(STAMP)

clean:
	rm -rf $(VENV) candling-runs
