"""Speed, as ratios against named references: `python -m tests.benchmarks <area>`; how to write an area: harness.py."""
