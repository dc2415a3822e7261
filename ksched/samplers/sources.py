"""Papers, and notes on other programs, that several registrations share."""

from __future__ import annotations

__all__ = [
    "CFG_PP",
    "COX_MATTHEWS",
    "DORMAND_PRINCE",
    "DPM_SOLVER",
    "DPM_SOLVER_PP",
    "DROPS",
    "EDM",
    "EXPONENTIAL_ADAMS",
    "NEVER_ZERO",
    "NOISY",
    "OF_FORGE",
    "OF_REFORGE",
    "ON_DEVICE",
    "PNDM",
    "PORTED",
    "RES",
    "SEEDS",
    "SINGLE",
    "STARTED",
    "TREE",
    "UPWARDS",
    "WHOLE_SCHEDULE",
]

# --------------------------------------------------------------------------------------------------------------- papers
CFG_PP = "Chung et al. 2024, arXiv:2406.08070"
COX_MATTHEWS = "Cox & Matthews 2002"
DORMAND_PRINCE = "Dormand & Prince 1980"
DPM_SOLVER = "Lu et al. 2022, arXiv:2206.00927"
DPM_SOLVER_PP = "Lu et al. 2022, arXiv:2211.01095"
EDM = "Karras et al. 2022, arXiv:2206.00364"
EXPONENTIAL_ADAMS = "Hochbruck & Ostermann 2011"
PNDM = "Liu et al. 2022, arXiv:2202.09778"
RES = "Zhang et al. 2023, arXiv:2308.02157"
SEEDS = "Gonzalez et al. 2023, arXiv:2305.14267"

# ---------------------------------------------------------------------------------------------------------------- notes
TREE = 'uses Brownian noise there: `noise="brownian"`'
ON_DEVICE = f"{TREE}, drawn on the device"
WHOLE_SCHEDULE = "uses only the first level and the last above 0"
DROPS = "drops the second-last level: `drop_penultimate`"
NEVER_ZERO = "its levels end with a repeat, never with 0"
NOISY = "RES4LYF's, which adds its own noise"
STARTED = "RES4LYF's, which starts with single steps of the same order"
OF_FORGE = "in Forge and reForge"
OF_REFORGE = "in reForge"
SINGLE = "starts with single steps of the same order there"
PORTED = "its own port of RES4LYF's; not compared"
UPWARDS = "runs upwards, from data to noise: `Sampler.invert` does better"
