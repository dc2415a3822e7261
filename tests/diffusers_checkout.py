"""Run diffusers' own scheduler tests on our schedulers, from a checkout: ``python diffusers_checkout.py PATH``.

Prints one JSON object of the tests that fail, each with the last line of its error. It runs the tests of each class
with `KSchedScheduler.from_diffusers` in its place, and diffusers' common tests on `KSchedScheduler` itself.
"""

from __future__ import annotations

import importlib
import json
import logging
import sys
import unittest
import warnings
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import diffusers

from ksched.dialects.diffusers.classes import CLASSES
from ksched.integrations.diffusers.scheduler import KSchedScheduler

#: the package that diffusers' folder of tests is imported as
PACKAGE = "diffusers_tests"


class _Made(type):
    """A class whose call makes the scheduler of diffusers, and ours of that."""

    def __call__(cls, *args: Any, **config: Any) -> Any:
        return KSchedScheduler.from_diffusers(getattr(diffusers, cls.__name__)(*args, **config))


@cache
def replaced(name: str) -> Any:
    """What stands for a scheduler class of diffusers: a class, as its tests look at more than the instances."""

    def from_config(config: Any = None, **kwargs: Any) -> Any:
        return KSchedScheduler.from_config(config, **kwargs)

    def from_pretrained(path: Any, **kwargs: Any) -> Any:
        return KSchedScheduler.from_pretrained(path, **kwargs)

    methods = {"from_config": staticmethod(from_config), "from_pretrained": staticmethod(from_pretrained)}
    return _Made(name, (KSchedScheduler,), methods)


def _module(checkout: Path, name: str) -> ModuleType:
    """A test module of diffusers, imported."""
    if PACKAGE not in sys.modules:
        for package, path in ((PACKAGE, checkout / "tests"), (f"{PACKAGE}.others", None)):
            sys.modules[package] = made = ModuleType(package)
            made.__path__ = [] if path is None else [str(path)]
        hub: Any = ModuleType(f"{PACKAGE}.others.test_utils")  # pushing to a hub is not tried
        hub.TOKEN, hub.USER, hub.is_staging_test = "", "", lambda case: None
        sys.modules[hub.__name__] = hub
    return importlib.import_module(f"{PACKAGE}.schedulers.{name}")


def _failures(case: Any) -> dict[str, str]:
    """The tests of a case that do not pass, and the last line of why."""
    result = unittest.TestResult()
    unittest.defaultTestLoader.loadTestsFromTestCase(case).run(result)
    assert result.testsRun
    found = [*result.failures, *result.errors]
    return {test.id().rpartition(".")[2]: text.strip().splitlines()[-1] for test, text in found}


def failures(checkout: Path, name: str) -> dict[str, str]:
    """The tests of a module that fail with our schedulers."""
    found: dict[str, str] = {}
    for module in (_module(checkout, "test_schedulers"), _module(checkout, name)):
        for attribute, value in list(vars(module).items()):
            if attribute in CLASSES:
                setattr(module, attribute, replaced(attribute))
            elif module.__name__.endswith(name) and isinstance(value, type) and value.__module__ == module.__name__:
                classes = [replaced(c.__name__) if c.__name__ in CLASSES else c for c in value.scheduler_classes]  # type: ignore[attr-defined]
                value.scheduler_classes = tuple(classes)  # type: ignore[attr-defined]
                found |= _failures(value)
    return found


def common_failures(checkout: Path, **settings: Any) -> dict[str, str]:
    """diffusers' common scheduler tests that fail with one of ours."""

    class Common(_module(checkout, "test_schedulers").SchedulerCommonTest):  # type: ignore[misc]
        scheduler_classes = (KSchedScheduler,)
        forward_default_kwargs = (("num_inference_steps", 10),)

        def get_scheduler_config(self, **changes: Any) -> dict[str, Any]:
            return {"num_train_timesteps": 1000, "beta_start": 0.0001, "beta_end": 0.02, **settings, **changes}

    return _failures(Common)


#: the test modules of classes that have an equivalent here
MODULES = (
    "ddim ddim_parallel ddpm ddpm_parallel deis dpm_multi dpm_single edm_dpmsolver_multistep edm_euler euler "
    "euler_ancestral heun ipndm kdpm2_ancestral kdpm2_discrete lcm lms sasolver tcd unipc"
)
#: schedulers of ours that the common tests are run on
COMMON = [
    {"sampler": sampler, "schedule": schedule}
    for sampler in ("euler", "euler_ancestral", "dpmpp_2m", "dpmpp_2m_sde", "heun", "uni_pc", "lcm")
    for schedule in ("karras", "simple")
]

if __name__ == "__main__":
    warnings.simplefilter("ignore")
    logging.disable(logging.ERROR)
    path = Path(sys.argv[1])
    common = {" ".join(settings.values()): common_failures(path, **settings) for settings in COMMON}
    print(json.dumps({name: failures(path, f"test_scheduler_{name}") for name in MODULES.split()} | common))
