# Targets for people and CI. `make` alone explains them.
.DEFAULT_GOAL := help
# The tests start the command some thousand times: compiling it anew each time takes a third of their time.
unexport PYTHONDONTWRITEBYTECODE
.PHONY: help venv demo test test-long test-loaders lint format tables readme bench-compress bench-families bench-budgets bench-ablation bench-calibration bench-latency bench-augment bench-corruptions bench-ops gallery clean

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
NNCF := $(VENV)/nncf
LOADERS := $(VENV)/loaders
RIVALS := $(VENV)/albumentations
CORRUPTIONS := $(VENV)/corruptions
FASHION := sample_data/fashion

help:  ## explain the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(BIN)/edgekit: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	touch $(BIN)/edgekit

$(VENV)/.test: pyproject.toml $(BIN)/edgekit
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	touch $(VENV)/.test

venv: $(BIN)/edgekit  ## make .venv and install edgekit into it

demo: $(BIN)/edgekit  ## run both commands on sample_data/ and show what they print
	rm -rf sample_data/photos-augmented sample_data/fashion_resnet.int8.onnx
	$(BIN)/edgekit augment sample_data/photos --flip --rotate 15
	@echo
	$(BIN)/edgekit compress sample_data/fashion_resnet.onnx --int8 --calib $(FASHION)/train --data $(FASHION)/val

test: $(VENV)/.test  ## run the test suite
	$(BIN)/python -m pytest -m "not long"

test-long: $(VENV)/.test  ## run the tests that take minutes (measurements, memory, the big sets)
	$(BIN)/python -m pytest -m long

$(LOADERS)/.made: tests/loaders/requirements.txt
	$(PYTHON) -m venv $(LOADERS)
	$(LOADERS)/bin/python -m pip install --quiet --disable-pip-version-check --requirement $<
	touch $@

test-loaders: $(VENV)/.test $(LOADERS)/.made  ## test that torchvision, Hugging Face and Ultralytics read our folders
	$(BIN)/python -m pytest tests/test_loaders.py

lint: $(VENV)/.test  ## run ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy edgekit

format: $(VENV)/.test  ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

tables: $(VENV)/.test  ## make the README's tables of ops and steps anew
	$(BIN)/python benchmarks/readme.py tables

readme: tables  ## run the README's console blocks and put what they print below them
	$(BIN)/python benchmarks/readme.py console

$(NNCF)/.made: pyproject.toml
	$(PYTHON) -m venv $(NNCF)
	$(NNCF)/bin/python -m pip install --quiet --disable-pip-version-check '.[bench]'
	touch $(NNCF)/.made

bench-compress: $(VENV)/.test $(NNCF)/.made  ## compare with onnxruntime's own and NNCF: make bench-compress ASSETS=folder
	$(BIN)/python benchmarks/compress.py $(ASSETS) --nncf-python $(NNCF)/bin/python $(if $(ONLY),--only $(ONLY))

bench-families: $(VENV)/.test  ## pruning, low rank and sparsity beside simple rivals: make bench-families ASSETS=folder
	$(BIN)/python benchmarks/compress.py $(ASSETS) --families $(if $(ONLY),--only $(ONLY))

bench-budgets: $(VENV)/.test  ## search for budgets that are known to be feasible: make bench-budgets ASSETS=folder
	$(BIN)/python benchmarks/budgets.py $(ASSETS)

bench-ablation: $(VENV)/.test  ## leave each repair of int8 out in turn: make bench-ablation ASSETS=folder
	$(BIN)/python benchmarks/ablation.py $(ASSETS)

bench-calibration: $(VENV)/.test  ## what calibration costs, beside onnxruntime's: make bench-calibration ASSETS=folder
	$(BIN)/python benchmarks/calibration.py $(ASSETS)

bench-latency: $(VENV)/.test  ## A/A runs and 10% slower models: make bench-latency MODELS="a.onnx b.onnx"
	$(BIN)/python benchmarks/latency_aa.py $(MODELS)

$(RIVALS)/.made: benchmarks/augment_rivals.txt
	$(PYTHON) -m venv $(RIVALS)
	$(RIVALS)/bin/python -m pip install --quiet --disable-pip-version-check --requirement $<
	touch $@

bench-augment: $(VENV)/.test $(RIVALS)/.made  ## compare with Albumentations and others: make bench-augment ASSETS=folder
	$(BIN)/python benchmarks/augment.py $(ASSETS) --rivals $(RIVALS)/bin/python $(if $(SMALL),--small)

$(CORRUPTIONS)/.made: benchmarks/corruptions_reference.txt
	$(PYTHON) -m venv $(CORRUPTIONS)
	$(CORRUPTIONS)/bin/python -m pip install --quiet --disable-pip-version-check --requirement $<
	$(CORRUPTIONS)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps imagenet-c==0.0.3 imagecorruptions==1.1.2
	touch $@

bench-corruptions: $(VENV)/.test $(CORRUPTIONS)/.made  ## compare with the published ImageNet-C code: make bench-corruptions ASSETS=folder
	$(BIN)/python benchmarks/corruptions.py $(ASSETS) --reference $(CORRUPTIONS)/bin/python

bench-ops: $(VENV)/.test  ## time every op on one picture, beside plain OpenCV
	$(BIN)/python benchmarks/ops.py

gallery: $(VENV)/.test  ## draw every op before and after, at its defaults and bounds, into build/gallery
	$(BIN)/python benchmarks/gallery.py

clean:  ## remove what the other targets made
	rm -rf $(VENV) build dist *.egg-info sample_data/photos-augmented sample_data/*.int8.onnx
