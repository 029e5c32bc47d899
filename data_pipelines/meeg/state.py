"""What a recording tells of how it was made: manifest columns of EEG and MEG."""

import json
from collections.abc import Sequence
from typing import Any

from data_pipelines.meeg.files import Raw
from neurofm.data.sensors import Sensors
from neurofm.signals.meeg import EEG

# Columns that tell how a recording was made, beside `layout`; all others are labels.
RECORDED = ("layout", "n_eeg", "n_meg", "source_sfreq", "highpass", "lowpass")
RECORDED += ("reference", "device", "line_freq", "bads", "rank", "ssp", "sss")
RECORDED += ("compensation", "chpi", "dev_head_t")


def columns(raw: Raw, sensors: Sensors, references: Sequence[str]) -> dict[str, Any]:
    """Columns of the manifest; texts are empty and numbers NaN where nothing is told.

    `n_eeg` and `n_meg` count sensors; `ssp` is the number of projectors in the file and
    whether they were applied, `sss` what Maxwell filtering was done, `compensation` the
    grade of software gradiometers, `chpi` whether coils tracked the head, `dev_head_t`
    the 4 x 4 transform by rows, in metres, as JSON.
    """
    info = raw.info
    meg = not (sensors.kind == EEG).all()
    out: dict[str, Any] = {
        "n_eeg": int((sensors.kind == EEG).sum()),
        "n_meg": int((sensors.kind != EEG).sum()),
        "source_sfreq": float(info["sfreq"]),
        "highpass": float(info["highpass"]),
        "lowpass": float(info["lowpass"]),
        "reference": _reference(raw, references),
        "device": _device(raw),
        "ssp": "",
        "sss": "",
        "compensation": "",
        "chpi": "",
        "dev_head_t": "",
    }
    if meg:
        to_head = info["dev_head_t"]
        rows = to_head["trans"].round(6).tolist() if to_head is not None else None
        out |= {
            "ssp": _projectors(raw),
            "sss": _maxwell(raw),
            "compensation": str(raw.compensation_grade or 0),
            "chpi": _chpi(raw),
            "dev_head_t": json.dumps(rows) if rows else "",
        }
    return out


def _reference(raw: Raw, references: Sequence[str]) -> str:
    if references:
        return ", ".join(references)
    if any(p["active"] and "EEG" in p["desc"] for p in raw.info["projs"]):
        return "average"
    return "custom" if int(raw.info["custom_ref_applied"]) else ""


def _device(raw: Raw) -> str:
    told = raw.info.get("device_info") or {}
    words = (told.get(key) for key in ("type", "model", "serial"))
    return " ".join(str(word).strip() for word in words if word)


def _projectors(raw: Raw) -> str:
    types = dict(zip(raw.ch_names, raw.get_channel_types(), strict=True))
    found = [
        projector
        for projector in raw.info["projs"]
        if {types.get(name) for name in projector["data"]["col_names"]}
        & {"mag", "grad"}
    ]
    active = sum(bool(p["active"]) for p in found)
    return f"{len(found)} projectors, {active} applied" if found else ""


def _maxwell(raw: Raw) -> str:
    for record in raw.info["proc_history"]:
        found = record.get("max_info") or {}
        parts = []
        if found.get("sss_info"):
            parts.append("sss")
        if (found.get("max_st") or {}).get("buflen"):
            parts.append(f"st {float(found['max_st']['buflen']):g} s")
        if parts:
            return ", ".join(parts)
    return ""


def _chpi(raw: Raw) -> str:
    coils = (raw.info.get("hpi_subsystem") or {}).get("hpi_coils") or ()
    return f"{len(coils)} coils" if len(coils) else ""


def ranks(found: dict[str, tuple[int, int]]) -> str:
    """`eeg 59/60, meg 68/306` from {kind: (rank, channels)}."""
    return ", ".join(f"{kind} {r}/{n}" for kind, (r, n) in found.items())
