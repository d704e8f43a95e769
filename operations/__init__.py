"""Watching and stopping a serving process: logs, figures, health, signals.  What the node and the coordinator have in common.

Nothing here knows of jobs, data or keys: it is told names of steps, codes, counts and seconds, and passes those on.
"""
