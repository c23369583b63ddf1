# `make demo` and `make test` need nothing but Python 3.10+ and make; everything else is installed into .venv:
# by `make demo` what a user needs, by `make test` the developer's tools too.
#
# Your own pictures: put photographs (.jpg) into photos/ and say
#     make out/cat.png STYLE=examples/mosaic.jpg       one picture, from photos/cat.jpg
#     make gallery STYLE=examples/mosaic.jpg           every photograph
# with any options in ARGS, as in ARGS='--size 1024 --beta 20'.

PYTHON ?= python3
STYLE ?= examples/swirls.jpg
ARGS ?=
BIN := .venv/bin
USER := .venv/.installed
DEV := .venv/.installed-dev
INSTALL = $(BIN)/python -m pip install --quiet --editable

.PHONY: demo docs dist test test-slow test-browser test-gpu fuzz lint weights figures bench bench-any-size bench-batch bench-gpu bench-video gallery clean
.DELETE_ON_ERROR:

# At most a minute on any machine: a slow one ends with fewer iterations.
demo: $(USER)
	@mkdir -p out
	@echo "Painting examples/chelsea.jpg in the style of examples/woodblock.jpg: at most a minute"
	$(BIN)/styletransfer examples/chelsea.jpg examples/woodblock.jpg --size 320 --iterations 120 --time 45s -o out/demo.png $(ARGS)
	@echo "The image is $(CURDIR)/out/demo.png"

test: $(DEV)
	$(BIN)/python -m pytest

test-slow: $(DEV)
	$(BIN)/python -m pytest -m slow -n 0

# Skipped without Debian's chromium and chromium-driver.
test-browser: $(DEV)
	$(BIN)/python -m pytest -m browser -n 0

test-gpu: $(DEV)
	$(BIN)/python -m pytest -m gpu -n 0

# Random damage to files, a minute of each kind; longer with FUZZ_SECONDS=3600.
fuzz: $(DEV)
	$(BIN)/python -m pytest -m fuzz -n 0 -s $(ARGS)

lint: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The documentation site, into out/site.
docs: $(DEV)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

# Wheel and sdist, into dist/.
dist: $(DEV)
	rm -rf dist
	$(BIN)/python -m build --outdir dist .
	$(BIN)/twine check --strict dist/*

# VGG-19 itself, 548 MB, into torch hub's cache.
weights: $(USER)
	$(BIN)/styletransfer weights fetch

# The figures of the README and of docs/, an hour and a half on two cores; only some with ARGS='ratios colors'.
figures: $(DEV)
	$(BIN)/python docs/figures.py $(ARGS)

# More than an hour on two cores. Options in ARGS, as in ARGS='--part table'.
bench: $(DEV)
	$(BIN)/python benchmarks/bench.py $(ARGS)

bench-any-size: $(DEV)
	$(BIN)/python benchmarks/any_size.py $(ARGS)

bench-batch: $(DEV)
	$(BIN)/python benchmarks/batches.py $(ARGS)

bench-gpu: $(DEV)
	$(BIN)/python benchmarks/bench.py --device cuda $(ARGS)

# About an hour; options in ARGS, as in ARGS='--part flicker --seconds 1'.
bench-video: $(DEV)
	$(BIN)/python benchmarks/video.py $(ARGS)

gallery: $(patsubst photos/%.jpg,out/%.png,$(wildcard photos/*.jpg))

out/%.png: photos/%.jpg $(STYLE) | $(USER)
	@mkdir -p out
	$(BIN)/styletransfer $< $(STYLE) -o $@ $(ARGS)

$(USER): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed: make PYTHON=python3.12")'
	@echo "Installing styletransfer into .venv; PyTorch is large: one to several minutes"
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(INSTALL) '.[ui]'
	@touch $@

$(DEV): pyproject.toml $(USER)
	@echo "Installing the tools for tests and development"
	$(INSTALL) '.[dev]'
	@touch $@

clean:
	rm -rf .venv out build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
