"""Pure functions and values: geometry, cells, indices, refinement, matching, splits. No I/O and no torch."""
