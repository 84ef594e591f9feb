"""Measurements: `python -m bench.<name>`. Never run as tests; results with machine, versions and command in RESULTS.md."""
