# Each target sets up .venv on a fresh machine (once), then does its work.
#   make demo                            encode, decode and picture a recording
#   make demo RECORDING=mine.wav         ... your own
#   make test                            lint, types, tests
#   make test TESTS=tests/test_codes.py  a part alone

PYTHON    ?= python3
RECORDING ?= data/ls1998_008.flac
OUT       ?= out
TESTS     ?=

VENV  := .venv
BIN   := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test lint format clean
.DELETE_ON_ERROR:

demo: $(STAMP)
	mkdir -p $(OUT)
	$(BIN)/audiovq encode "$(RECORDING)" $(OUT)/codes.npy --force
	$(BIN)/audiovq decode $(OUT)/codes.npy $(OUT)/decoded.wav --force
	$(BIN)/audiovq info $(OUT)/codes.npy
	$(BIN)/audiovq picture "$(RECORDING)" $(OUT)/decoded.wav -o $(OUT)/spectrograms.png --force \
	    --title "original" --title "decoded by the WaveNet"
	@echo
	@echo "Made from $(RECORDING), in $(OUT)/:"
	@echo "  codes.npy         the recording as integers"
	@echo "  codes.json        what else decoding uses: length, loudness, voice, model"
	@echo "  decoded.wav       speech again, drawn by the WaveNet from the codes"
	@echo "  spectrograms.png  the original over the decoded one"

test: $(STAMP) $(if $(TESTS),,lint)
	$(BIN)/python -m pytest $(TESTS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(OUT) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find audiovq tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(STAMP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -e '.[dev]'
	touch $@
