"""Hamilton dataflows: a function is a node, a module is a stage, a noun is an artifact."""

import os

# importing every optional extension triples Hamilton's start-up; none is used here
os.environ.setdefault("HAMILTON_AUTOLOAD_EXTENSIONS", "0")

DEFAULT_CONFIG = "data/sample/demo/flow.yaml"
"""Settings a command takes when none are named: those of the sample region."""
