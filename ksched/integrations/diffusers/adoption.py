"""How `KSchedScheduler.from_config` takes the configuration of another scheduler, and the keywords beside it."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Mapping, Set
from typing import Any, NamedTuple

from ksched.dialects.diffusers.classes import CLASSES, check_replaced, settings_of
from ksched.integrations.diffusers.class_of import adopted, defaults_of, is_foreign
from ksched.integrations.diffusers.configuration import Configuration
from ksched.integrations.diffusers.keywords import LOADING, near, place
from ksched.samplers.registry import sampler_spec

__all__ = ["Adoption", "adopt", "complete", "fill_in", "named"]


#: parameters that no scheduler of diffusers has
OURS = frozenset((
    "sampler", "schedule", "sampler_options", "schedule_options", "dialect", "noise_seed", "layout", "stock_class",
))  # fmt: skip


class Adoption(NamedTuple):
    """What `KSchedScheduler.from_config` was given, sorted.

    Attributes
    ----------
    known : settings of the configuration that the constructor takes
    changes : keywords that it takes
    hidden : settings of the class that is replaced, which the constructor has no parameter for
    unknown : keywords that may be options of the class's own method
    unused : keywords that diffusers hands to everything that it loads
    keywords : all others
    """

    known: dict[str, Any]
    changes: dict[str, Any]
    hidden: dict[str, Any]
    unknown: dict[str, Any]
    unused: dict[str, Any]
    keywords: dict[str, Any]


def adopt(cls: Any, config: Mapping[str, Any], keywords: Mapping[str, Any]) -> Adoption:
    """Sort a configuration, of ours or of diffusers, and keywords.

    Parameters
    ----------
    cls : the class that will be made
    config, keywords : as ``from_config`` takes them

    Raises
    ------
    TypeError, ValueError : a class that cannot be told, or a keyword that nothing would heed
    """
    parameters = {
        name: parameter.default
        for name, parameter in inspect.signature(cls.__init__).parameters.items()
        if name != "self"
    }
    unused = {key: value for key, value in keywords.items() if key in LOADING or key.startswith("_")}
    keywords = {key: value for key, value in keywords.items() if key not in unused}
    kept = _kept_settings(cls, config, keywords)
    placed = place(keywords, kept, parameters, OURS)
    changes = placed.settings
    if placed.sampler_options:
        changes["sampler_options"] = _merged("sampler_options", keywords, kept, placed.sampler_options)
    if placed.schedule_options:
        changes["schedule_options"] = _merged("schedule_options", keywords, kept, placed.schedule_options)
    hidden = {key: value for key, value in kept.items() if key not in parameters and not key.startswith("_")}
    hidden |= {key: changes.pop(key) for key in [*changes] if key not in parameters}
    known = {key: value for key, value in kept.items() if key not in hidden}
    return Adoption(known, changes, hidden, placed.unknown, unused, keywords)


def named(cls: Any, scheduler: Any) -> dict[str, Any]:
    """The configuration of a scheduler of diffusers, or one of its configurations, with its class.

    Parameters
    ----------
    cls : our class, whose own parameters are kept if the scheduler is one of it, and are left over from it otherwise
    scheduler : an instance or a configuration
    """
    config = dict(scheduler if isinstance(scheduler, Mapping) else scheduler.config)
    if not isinstance(scheduler, Mapping):
        config["_class_name"] = type(scheduler).__name__
    if config.get("_class_name") != cls.__name__:
        config = {name: value for name, value in config.items() if name not in OURS}
    return config


def _kept_settings(cls: Any, config: Mapping[str, Any], keywords: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration without what nobody chose: that is filled in anew, by the class that this is."""
    unchosen = {"_use_default_values", *config.get("_use_default_values", ())}
    foreign = is_foreign(config, cls.__name__)
    kept = adopted(dict(config), keywords) if foreign else dict(config)
    if foreign and "stock_class" not in kept:
        unchosen = {"_use_default_values"}  # no class is known that would fill them in
    return {key: value for key, value in kept.items() if key not in unchosen}


def complete(made: Any, adoption: Adoption, unknown_is_fine: bool) -> dict[str, Any]:
    """Give a new scheduler what its constructor could not take; return the keywords that nothing uses.

    Raises
    ------
    TypeError : a keyword that is nothing, unless that is fine
    ValueError : a setting of the class that no sampler represents
    """
    made.register_to_config(**adoption.hidden)
    fill_in(made, adoption.hidden.keys())
    unused = dict(adoption.unused)
    if adoption.unknown:
        unused |= _take_options(made, adoption.unknown, adoption.keywords, unknown_is_fine)
    configuration = Configuration(made.config)
    if not configuration.is_stock:
        check_replaced(configuration.entries.stock_class, configuration.settings)
    return unused


def fill_in(made: Any, chosen: Set[str] = frozenset()) -> None:
    """Let what nobody chose be as it is in the class that a scheduler stands for.

    `_use_default_values` lists it: it goes when the configuration is given to a class with other defaults.
    """
    stock, parameters = made.config.stock_class, inspect.signature(type(made).__init__).parameters
    unchosen = set(made.config.get("_use_default_values", ())) - chosen
    if stock in CLASSES:
        its = {key: value for key, value in defaults_of(stock).items() if key not in chosen}
        its = {key: value for key, value in its.items() if key in unchosen or key not in parameters}
        made.register_to_config(**its)
        unchosen |= its.keys()
    if "_use_default_values" in made.config:  # else everything was chosen, as in a file
        made.register_to_config(_use_default_values=sorted(unchosen - {"stock_class"}))


def _take_options(
    made: Any, given: Mapping[str, Any], keywords: Mapping[str, Any], unknown_is_fine: bool
) -> dict[str, Any]:
    """Take options of the class's own method, where no sampler is named; return, or refuse, what is none."""
    configuration = Configuration(made.config)
    stock, options = configuration.entries.stock_class, _options_of_class(configuration)
    if taken := {name: value for name, value in given.items() if name in options}:
        merged = _merged("sampler_options", keywords, made.config, taken)
        made.register_to_config(sampler_options=merged)
        fill_in(made, {"sampler_options"})
    rest = {name: value for name, value in given.items() if name not in options}
    if rest and not unknown_is_fine:
        name = next(iter(rest))
        own = () if stock is None else settings_of(stock)
        names = {*made.config, *own, *options, *configuration.option_names}
        hint = near(name, (known for known in names if known[0] != "_"))
        hint = hint or ", and neither the sampler nor the schedule has such an option. Leave it out"
        raise TypeError(f"from_config has no parameter {name!r}{hint}")
    return rest


def _options_of_class(configuration: Configuration) -> Set[str]:
    """Options of the sampler that a class of diffusers is; none where another one is named."""
    if configuration.entries.sampler is None and configuration.entries.stock_class is not None:
        with contextlib.suppress(ValueError):  # ten steps are not for everyone
            return frozenset(sampler_spec(configuration.ten_steps().method.sampler).options)
    return frozenset()


def _merged(
    key: str, given: Mapping[str, Any], config: Mapping[str, Any], options: Mapping[str, Any]
) -> dict[str, Any]:
    """Options that were given one by one with those that were given, or are configured, as a whole."""
    whole = given.get(key) or {}
    for name, value in options.items():
        if name in whole and whole[name] != value:
            raise ValueError(f"{name} is given twice: {name}={value!r}, and {whole[name]!r} in {key}. Leave one out")
    return {**(whole if key in given else config.get(key) or {}), **options}
