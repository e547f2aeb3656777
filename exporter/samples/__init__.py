"""Turns rows into samples; ledgers and sums remember from run to run. No I/O."""
