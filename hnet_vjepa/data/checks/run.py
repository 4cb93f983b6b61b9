"""All checks of recordings, one after another."""

from __future__ import annotations

from hnet_vjepa.data.checks import motion, tables
from hnet_vjepa.data.checks.finding import Finding
from hnet_vjepa.data.importers.tracks import Recordings
from hnet_vjepa.data.importers.usable import usable_tracks
from hnet_vjepa.utils.progress import progress_counter

TABLES = (
    tables.constant,
    tables.outliers,
    tables.idle,
    tables.statistics,
    motion.state_lag,
    motion.units,
    motion.gripper,
)


def check(found: Recordings, decode: bool = True, progress: bool = True) -> list[Finding]:
    """Everything found wrong, errors first. ``decode``: read all pictures, too.

    Episodes that can not be used (NaN, time that goes back, copies of others) are named and left out of other checks.
    """
    findings = [*tables.lengths(found), *tables.finite(found), *tables.times(found)]
    usable, skipped = usable_tracks(found)
    findings += [Finding("error", "repeated episode", s.where, s.reason) for s in skipped if "the same as" in s.reason]
    rest = found.only(usable)
    if usable:
        findings += [finding for test in TABLES for finding in test(rest)]
        if decode:
            with progress_counter("pictures", len(usable), "episode", progress) as done:
                findings += motion.pictures(rest, done)
    return sorted(findings, key=lambda finding: finding.severity != "error")
