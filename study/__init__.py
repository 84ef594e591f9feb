"""The folder of a study: its manifest, the records of its trials, its lock, and the arguments that all commands share. Knows no Ray."""
