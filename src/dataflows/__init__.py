"""Hamilton dataflows: a function is a node, a module is a stage, a noun is an artifact."""
