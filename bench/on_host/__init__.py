"""Programs that the benchmarks run on their hosts."""
