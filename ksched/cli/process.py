"""Names of the processes on the command line."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum

from ksched.processes import EDM, VE, VP, AngleV, Cascade, Flow, FlowVE, Process, TrigFlow

__all__ = ["ProcessName", "make_process"]


class ProcessName(StrEnum):
    """The process that the model was trained on, by its name on the command line."""

    VP = "vp"
    VP_LINEAR = "vp-linear"
    VP_COSINE = "vp-cosine"
    EDM = "edm"
    ANGLE_V = "angle-v"
    VE = "ve"
    CASCADE = "cascade"
    FLOW = "flow"
    FLOW_VE = "flow-ve"
    TRIG_FLOW = "trig-flow"


_VP: dict[ProcessName, Callable[..., VP]] = {
    ProcessName.VP: VP.scaled_linear,
    ProcessName.VP_LINEAR: VP.linear,
    ProcessName.VP_COSINE: VP.cosine,
}
_SHIFTED: dict[ProcessName, Callable[..., Process]] = {ProcessName.FLOW: Flow, ProcessName.CASCADE: Cascade}
_PLAIN: dict[ProcessName, Callable[[], Process]] = {
    ProcessName.EDM: EDM,
    ProcessName.ANGLE_V: AngleV,
    ProcessName.VE: VE,
    ProcessName.FLOW_VE: FlowVE,
    ProcessName.TRIG_FLOW: TrigFlow,
}


def make_process(name: ProcessName, shift: float | None = None, zero_terminal_snr: bool = False) -> Process:
    """Build a process from its name and options; options of another process are an error."""
    if shift is not None and name not in _SHIFTED:
        raise ValueError(f"--shift belongs to --process {' or '.join(_SHIFTED)}; got {name}")
    if name in _VP:
        return _VP[name](zero_terminal_snr=zero_terminal_snr)
    if zero_terminal_snr:
        raise ValueError(f"--zero-terminal-snr belongs to the vp processes; got {name}")
    if name in _SHIFTED:
        return _SHIFTED[name](*() if shift is None else (shift,))
    return _PLAIN[name]()
