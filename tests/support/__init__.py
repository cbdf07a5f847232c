"""Servers that tests, the fault harness and the benchmarks start: real ones, each in a temporary folder."""
