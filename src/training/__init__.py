"""Learning: data module, model, metrics and the ``python -m training`` command line."""
