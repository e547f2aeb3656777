"""Decides when each job runs, within the budget of cost. No I/O; the clock is handed in."""
