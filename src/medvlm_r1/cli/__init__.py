"""The command line: one module per group of verbs; shared options, error messages and console output."""
