"""`KSchedScheduler`: any sampler with any schedule inside a pipeline of diffusers, in place of its scheduler.

Import this module before ``from_pretrained`` loads a pipeline that was saved with it.
"""

try:
    import diffusers  # noqa: F401 - only to say what is missing, before anything needs it
except ImportError as error:
    raise ImportError("this needs diffusers: pip install 'ksched[diffusers]'") from error

from ksched.integrations.diffusers.class_of import Translation
from ksched.integrations.diffusers.scheduler import KSchedOutput, KSchedScheduler

__all__ = ["KSchedOutput", "KSchedScheduler", "Translation"]

# diffusers writes it to model_index.json, and loads the class from there.
KSchedScheduler.__module__ = __name__
