"""Three real processes, killed or cut off at fifty random moments of their jobs' lives: all jobs finish, all models are right."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from bench.chaos import CUTS, KILLS, run_chaos

FAULTS = 50


def test_jobs_survive_fifty_faults_at_random_moments(tmp_path: Path) -> None:
    told: list[str] = []
    outcome = run_chaos(tmp_path, faults=FAULTS, per_job=6, seed=20260, told=told.append)
    story = "\n".join(told)
    assert len(outcome.faults) == FAULTS
    assert outcome.failed == [], story
    assert outcome.wrong == 0, (outcome.undisturbed, outcome.differences)
    assert outcome.verdict == 0, story
    kinds = Counter(fault.what for fault in outcome.faults)
    assert set(kinds) >= set(KILLS), kinds
    assert len(set(kinds) & set(CUTS)) >= 4, kinds
    assert {fault.state for fault in outcome.faults} >= {"prepare", "round"}, "the moments fall into several steps"
