"""What tests, the fault harness and the benchmarks start: real servers, in temporary folders, on free ports."""
