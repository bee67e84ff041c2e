"""Hamilton dataflows: a function is a node, a module is a stage, a noun is an artifact."""

DEFAULT_CONFIG = "data/sample/demo/flow.yaml"
"""Settings a command takes when none are named: those of the sample region."""
