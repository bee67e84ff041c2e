"""Learning: data module, model, metrics and the ``python -m training`` command line."""

from training.runs import fit_summary

__all__ = ["fit_summary"]
