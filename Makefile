PYTHON ?= python3

.PHONY: demo site test test-lowest release-check peers clean

demo: .venv-demo/installed
	.venv-demo/bin/python training/demo/demo.py

# Warnings fail it: a link that leads nowhere, a public name without a page.
site: .venv-docs/installed
	.venv-docs/bin/python -m training.demo.site_files build/assets/demo
	.venv-docs/bin/python -m sphinx --fail-on-warning --keep-going --quiet \
		-b html -d build/doctrees -c docs/site . build/site
	@echo build/site/index.html

# The tests start many processes; two files at a time take half as long. The order is
# that of tests/conftest.py.
test: .venv-test/installed
	.venv-test/bin/ruff check
	.venv-test/bin/ruff format --check
	.venv-test/bin/python -m mypy --no-error-summary
	.venv-test/bin/python -m pytest --numprocesses 2 --dist loadfile \
		--no-loadscope-reorder

# With the lowest versions that pyproject.toml allows.
test-lowest: .venv-lowest/installed
	.venv-lowest/bin/python -m pytest tests/layers tests/test_fetching.py \
		tests/test_image_folders.py tests/test_images.py tests/test_models.py \
		tests/test_ops.py tests/test_predictions.py tests/test_records.py \
		tests/test_weight_files.py tests/test_weights.py \
		tests/training/test_optimizers.py

# What PyPI would get, installed and used.
release-check:
	PYTHON=$(PYTHON) .ci/release-check

# For training/benchmarks/networks.py.
peers: .venv-peers/installed

# An old pip takes more than ten minutes to resolve the extras.
.venv-demo/installed: setup.py pyproject.toml $(wildcard pretrained/* elu_zoo/*.py \
		elu_zoo/*/*.py)
	$(PYTHON) -m venv .venv-demo
	.venv-demo/bin/python -m pip install --quiet --disable-pip-version-check 'pip>=24'
	.venv-demo/bin/python -m pip install --quiet --disable-pip-version-check .
	touch $@

.venv-docs/installed: setup.py pyproject.toml
	$(PYTHON) -m venv .venv-docs
	.venv-docs/bin/python -m pip install --quiet --disable-pip-version-check 'pip>=24'
	.venv-docs/bin/python -m pip install --quiet --disable-pip-version-check \
		--editable '.[docs]'
	touch $@

.venv-test/installed: setup.py pyproject.toml
	$(PYTHON) -m venv .venv-test
	.venv-test/bin/python -m pip install --quiet --disable-pip-version-check 'pip>=24'
	.venv-test/bin/python -m pip install --quiet --disable-pip-version-check \
		--editable '.[training,test]'
	# By itself: solved together with TensorFlow, pip takes a quarter of an hour.
	.venv-test/bin/python -m pip install --quiet --disable-pip-version-check \
		"mlserver>=1.7; python_version < '3.13'"
	touch $@

.venv-lowest/installed: setup.py pyproject.toml
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/python -m pip install --quiet --disable-pip-version-check uv
	.venv-lowest/bin/uv pip install --quiet --python .venv-lowest/bin/python \
		--resolution lowest-direct --editable '.[training,test]'
	touch $@

# On a CPU, 2.14.1, built with CUDA, was slower than 2.13.0, built without.
.venv-peers/installed:
	$(PYTHON) -m venv .venv-peers
	.venv-peers/bin/python -m pip install --quiet --disable-pip-version-check \
		'torch<2.14' numpy wrapt
	touch $@

clean:
	rm -rf build .venv-demo .venv-docs .venv-lowest .venv-peers .venv-test
