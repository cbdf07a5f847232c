"""What tests, the fault harness and the benchmarks start: real servers, in folders and on ports of their own."""
