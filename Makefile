.PHONY: setup dev tools tune test test-slow test-all lint

PYTEST = OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE .venv/bin/python -m pytest --numprocesses logical --maxprocesses 8

setup:
	@bash setup.sh

dev:
	@MMNET_DEV=1 bash setup.sh

tools:  ## what the tests on separate machines and of the report's page need, where this user may install it
	@missing=; for tool in sshd:openssh-server ssh:openssh-client rsync:rsync ip:iproute2 ps:procps chromium:chromium; do \
	  PATH="$$PATH:/usr/sbin:/sbin" command -v "$${tool%%:*}" >/dev/null || missing="$$missing $${tool#*:}"; done; \
	if [ -n "$$missing" ] && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  (apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $$missing) >/dev/null 2>&1 \
	    || echo "tools: apt-get could not install$$missing; tests that need them are skipped"; fi

tune: setup  ## the main job on the embedded synthetic data; other options: make tune ARGS="--data DIR"
	@.venv/bin/python tune_mmnet.py $(if $(ARGS),$(ARGS),--data synthetic --space full --trials 12 --time-budget 4m)

test: dev  ## what protects an ordinary day
	@$(PYTEST) -m "not slow" $(ARGS)

test-slow: dev tools  ## the rest: kills, lost nodes, clusters, object stores, compilation
	@$(PYTEST) -m slow $(ARGS)

test-all: dev tools  ## everything
	@$(PYTEST) $(ARGS)

lint: dev
	@.venv/bin/ruff check .
	@.venv/bin/mypy
