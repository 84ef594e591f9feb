"""The parts of the report: pure functions from what a study left (`Material`) to a `Section` of the page."""
