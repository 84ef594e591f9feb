"""Reads what a study left on disk: ranking, statistics, figures. Knows no Ray."""
