"""`KSchedScheduler`: any sampler with any schedule inside a diffusers pipeline, in place of the pipeline's scheduler.

Import this module before ``from_pretrained`` loads a pipeline that was saved with it.

Examples
--------
>>> from diffusers import DDIMScheduler
>>> from ksched.integrations.diffusers import KSchedScheduler
>>> stock = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
>>> ours = KSchedScheduler.from_config(stock.config, sampler="dpmpp_2m", schedule="karras")
>>> ours.set_timesteps(4)
>>> [round(t, 1) for t in ours.timesteps.tolist()]
[999.0, 687.2, 145.9, 0.0]
"""

try:
    import diffusers  # noqa: F401 - only to say what is missing, before anything needs it
except ImportError as error:
    raise ImportError("this needs diffusers: pip install 'ksched[diffusers]'") from error

# diffusers searches this module's names for the base class by which it loads a saved pipeline
from diffusers.schedulers.scheduling_utils import SchedulerMixin  # noqa: F401 - see above

from ksched.integrations.diffusers.class_of import Translation
from ksched.integrations.diffusers.scheduler import KSchedOutput, KSchedScheduler

__all__ = ["KSchedOutput", "KSchedScheduler", "Translation"]

# diffusers writes the module's name to model_index.json and loads the class from there.
KSchedScheduler.__module__ = __name__
