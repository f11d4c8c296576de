# Each target sets up .venv on a fresh machine (once), then does its work.
#   make demo                            encode, decode and picture a recording
#   make demo RECORDING=mine.wav         ... your own
#   make test                            lint, types, tests
#   make test TESTS=tests/test_codes.py  a part alone
#   make check                           what is slower: coverage, documentation, packages
#   make docs                            the documentation site, in site/
#   make coverage                        share of the lines that the tests run; fails under 92 %
#   make fuzz                            damaged and forged files to every reader, for SECONDS
#   make soak                            everything in one process for SECONDS, memory and results watched
#   make faults                          kills and full disks (docs/reliability.md); FAULTS="--kills 5" tries it
#   make bench                           measure this machine, write docs/benchmarks.md

PYTHON    ?= python3
RECORDING ?= data/ls1998_008.flac
OUT       ?= out
TESTS     ?=
BENCH     ?=
SECONDS   ?= 600
FAULTS    ?=
FUZZ      ?=
# STRICT=1: `make test` of all tests measures coverage, and a skipped test fails (scripts/strict_tests.py lists exceptions).
STRICT    ?=

VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
CHECKS := $(VENV)/.installed-checks
CODE   := $(shell find audiovq tests scripts recipes -name '*.py')

FULL    := $(if $(TESTS),,$(STRICT))
MEASURE := PYTHONPATH=scripts $(BIN)/python -m pytest -p strict_tests \
    --cov --cov-report= --cov-fail-under=0

.PHONY: demo test lint format check coverage docs package soak faults fuzz bench hooks clean
.DELETE_ON_ERROR:

demo: $(STAMP)
	mkdir -p $(OUT)
	$(BIN)/audiovq encode "$(RECORDING)" $(OUT)/codes.npy --force
	$(BIN)/audiovq decode $(OUT)/codes.npy $(OUT)/decoded.wav --force
	$(BIN)/audiovq info $(OUT)/codes.npy
	$(BIN)/audiovq picture "$(RECORDING)" $(OUT)/decoded.wav -o $(OUT)/spectrograms.png --force \
	    --title "original" --title "decoded by the WaveNet"
	$(BIN)/audiovq page "$(RECORDING)" -o $(OUT)/index.html --force --generate 1 --title "audiovq demo"
	@echo
	@echo "Made from $(RECORDING), in $(OUT)/:"
	@echo "  codes.npy         the recording as integers"
	@echo "  codes.json        what else decoding uses: length, loudness, voice, model"
	@echo "  decoded.wav       speech again, drawn by the WaveNet from the codes"
	@echo "  spectrograms.png  the original over the decoded one"
	@echo "  index.html        to listen: the original, decoded from 1, 2 and 3 levels, and new speech"

test: $(if $(FULL),$(CHECKS),$(STAMP)) $(if $(TESTS),,lint)
	$(if $(FULL),$(MEASURE),$(BIN)/python -m pytest) $(TESTS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

check: coverage docs package

# `make test STRICT=1` leaves .coverage too; the tests run again only if code has changed since.
coverage: .coverage
	$(BIN)/coverage report

.coverage: $(CHECKS) $(CODE)
	$(MEASURE)

docs: $(CHECKS)
	$(BIN)/python scripts/draw_house.py --check
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

package: $(CHECKS)
	$(BIN)/python scripts/check_packages.py

# SECONDS=7200: how long. scripts/soak.py --long 10 is the other half: ten hours of audio in one file.
soak: $(STAMP)
	$(BIN)/python scripts/soak.py $(SECONDS) --picture docs/soak.png

# BENCH=--quick: the shortest settings, to try the script.
bench: $(STAMP)
	$(BIN)/python scripts/write_benchmarks.py $(BENCH)

faults: $(CHECKS)
	nice -n 15 $(BIN)/python scripts/faults.py $(FAULTS)

# FUZZ='--reader picture --seed 7' and other options of scripts/fuzz.py.
fuzz: $(STAMP)
	$(BIN)/python scripts/fuzz.py --seconds $(SECONDS) $(FUZZ)

hooks: $(STAMP)
	$(BIN)/pre-commit install

clean:
	rm -rf $(OUT) build dist site *.egg-info .coverage .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find audiovq tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(STAMP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -e '.[dev]'
	touch $@

$(CHECKS): $(STAMP)
	$(BIN)/python -m pip install -e '.[dev,docs,eval,words,integration,ray,interop]'
	touch $@
