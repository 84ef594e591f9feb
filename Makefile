.PHONY: setup tune test lint

setup:
	@bash setup.sh

tune: setup  ## the main job on the embedded synthetic data; other options: make tune ARGS="--data DIR"
	@.venv/bin/python tune_mmnet.py $(if $(ARGS),$(ARGS),--data synthetic --space full --trials 12 --time-budget 4m)

test:  ## all tests, on as many threads as there are cores
	@MMNET_DEV=1 bash setup.sh
	@OMP_NUM_THREADS=1 .venv/bin/python -m pytest $(ARGS)

lint:
	@MMNET_DEV=1 bash setup.sh
	@.venv/bin/ruff check .
	@.venv/bin/mypy
