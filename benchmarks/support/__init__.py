"""What several benchmarks share: a region of any size, null transforms, a stopwatch."""
