"""Errors of ComfyUI's samplers on the testbeds, recorded once.

They are means over 256 start states of seed 99, and geometric means over the three main testbeds. They were measured
with the unmodified samplers and schedulers of ComfyUI 0.3.64 (commit a125cd84b054a57729b5eecab930ca9408719832): 212
to 430 pairs for every range and number of model calls. The best ten to fifteen of a first pass with 96 start states
were measured with 256. Names are those that ksched accepts in ComfyUI's dialect.
"""

from __future__ import annotations

from typing import NamedTuple


class Pair(NamedTuple):
    """One sampler with one schedule, and its recorded geometric mean."""

    sampler: str
    schedule: str
    error: float


class Best(NamedTuple):
    """The best three pairs at an NFE, and the mean over testbeds of the best pair of each testbed."""

    pairs: tuple[Pair, ...]
    hindsight: float


_SHORT = {
    "ays_sdxl": "align_your_steps:model=sdxl",
    "ays_svd": "align_your_steps:model=svd",
    "gradient_est": "gradient_estimation",
    "dpmpp_3m": "dpmpp_3m_sde:eta=0.0",
    "dpmpp_2m_heun": "dpmpp_2m_sde_heun:eta=0.0",
    "seeds_3": "seeds_3:eta=0.0",
    "sa_solver": "sa_solver:tau=0.0",
}
_TABLE = """
sd    5 gradient_est/ays_sdxl 0.0822     gradient_est/karras 0.0830      ipndm/karras 0.0956        0.0736
sd    6 res_multistep/gits 0.0562        dpmpp_3m/gits 0.0598            dpmpp_2m/exponential 0.0641 0.0479
sd    8 uni_pc/ays_sdxl 0.0352           ipndm/karras 0.0392             ipndm_v/karras 0.0396      0.0336
sd   10 uni_pc/exponential 0.0183        seeds_3/karras 0.0201           uni_pc/gits 0.0205         0.0169
sd   15 uni_pc/exponential 0.0046        sa_solver/exponential 0.0067    uni_pc/karras 0.0072       0.0040
sd   20 uni_pc/exponential 0.0036        uni_pc/karras 0.0040            uni_pc_bh2/karras 0.0043   0.0032
edm   5 gradient_est/sgm_uniform 0.0860  gradient_est/simple 0.0862      ipndm/ays_svd 0.1475       0.0787
edm   6 gradient_est/normal 0.0847       gradient_est/exponential 0.0847 gradient_est/sgm_uniform 0.0916 0.0669
edm   8 ipndm/ays_svd 0.0515             ipndm_v/ays_svd 0.0620          ipndm/sgm_uniform 0.0624   0.0489
edm  10 ipndm/ays_svd 0.0288             ipndm_v/ays_svd 0.0354          ipndm/sgm_uniform 0.0405   0.0256
edm  15 ipndm_v/simple 0.0085            ipndm_v/sgm_uniform 0.0087      ipndm_v/normal 0.0113      0.0064
edm  20 uni_pc_bh2/sgm_uniform 0.0039    uni_pc_bh2/simple 0.0039        uni_pc/sgm_uniform 0.0040  0.0038
flow  5 lms/beta 0.1260                  dpm_2/beta 0.1404               dpmpp_3m/beta@3 0.1464     0.1047
flow  6 lms/beta 0.0788                  sa_solver/beta 0.0975           dpmpp_2m_heun/beta@3 0.1123 0.0620
flow  8 lms/beta 0.0449                  sa_solver/beta 0.0569           dpm_2/beta 0.0606          0.0334
flow 10 sa_solver/beta 0.0282            lms/beta 0.0304                 ipndm/beta@3 0.0344        0.0221
flow 15 sa_solver/beta 0.0081            lms/beta@3 0.0110               ipndm/beta@3 0.0122        0.0070
flow 20 sa_solver/beta 0.0039            lms/beta@3 0.0052               lms/beta 0.0059            0.0030
"""


def _read(line: str) -> tuple[tuple[str, int], Best]:
    of, calls, *pairs, hindsight = line.split()
    found = []
    for names, error in zip(pairs[::2], pairs[1::2], strict=True):
        sampler, schedule = names.split("/")
        found.append(Pair(_SHORT.get(sampler, sampler), _SHORT.get(schedule, schedule), float(error)))
    return (of, int(calls)), Best(tuple(found), float(hindsight))


#: by range and number of model calls
PEERS = dict(_read(line) for line in _TABLE.strip().splitlines())
#: the best single pair over six testbeds on "sd" (the main ones, kde_digits, cfg3_digits and cfg6_digits), of 108
PEERS_ON_SIX = {
    6: Pair("res_multistep", "gits", 0.0746),
    8: Pair("res_multistep", "gits", 0.0452),
    10: Pair("uni_pc", "gits", 0.0250),
}
