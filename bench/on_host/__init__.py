"""What the benchmarks run on their hosts."""
