"""Which chips train, validate and test: a function of an S2 cell, a guard ring in metres, and a check for leaks."""

from utils.split_guard import GUARD, Surroundings, guarded_splits, splits_under, surroundings
from utils.split_leaks import check_leaks, close_pairs, guarded_across_zones
from utils.split_rule import SPLITS, Names, SplitRule, balanced_salts, choose_salt, mixed, split_of_cells

__all__ = [
    "GUARD",
    "SPLITS",
    "Names",
    "SplitRule",
    "Surroundings",
    "balanced_salts",
    "check_leaks",
    "choose_salt",
    "close_pairs",
    "guarded_across_zones",
    "guarded_splits",
    "mixed",
    "split_of_cells",
    "splits_under",
    "surroundings",
]
