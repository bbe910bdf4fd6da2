"""Which training state a run goes on from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from semiisp_plugin.io.checkpoint import load_checkpoint, newest_whole_state


def find_resume_state(opt: dict[str, Any], auto_resume: bool) -> tuple[dict[str, Any] | None, list[str]]:
    """The state to go on from, or None.

    With ``auto_resume`` it is the newest one in the folder that the run writes to, which is whole and has its networks;
    ``path:resume_state`` becomes its path. Where there is none, ``path:resume_state`` counts, as without.

    Returns:
        The state; and what was found, in sentences for the user.

    Raises:
        CheckpointError: ``path:resume_state`` names what cannot be read.
    """
    paths = opt["path"]
    if not auto_resume:
        path = paths.get("resume_state")
        return (load_checkpoint(path), [f"resume_state: going on from {path}"]) if path else (None, [])
    folder = Path(paths["training_states"])
    skipped = paths.get("ignore_resume_networks") or []
    networks = [f"net_{k.removeprefix('network_')}" for k in opt if k.startswith("network_") and k not in skipped]
    found, passed_over = newest_whole_state(folder, paths["models"], networks)
    said = [f"auto_resume: passed over: {reason}" for reason in passed_over]
    if found is None:
        elsewhere = paths.get("resume_state")
        start = f"going on from resume_state, {elsewhere}" if elsewhere else "starting at iteration 0"
        said.append(f"auto_resume: nothing to resume in {folder}: {start}")
        return (load_checkpoint(elsewhere) if elsewhere else None), said
    paths["resume_state"] = str(found)
    state = load_checkpoint(found)
    total = int(opt["train"]["total_iter"])
    said.append(f"auto_resume: going on from {found} (iteration {state['iter']:,d} of {total:,d})")
    return state, said
