"""What chatbe costs, beside what others cost: `python -m benchmarks --help`, docs/performance.md."""
