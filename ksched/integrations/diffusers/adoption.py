"""How `KSchedScheduler.from_config` converts the configuration of another scheduler and sorts its keywords."""

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


#: parameters that no diffusers scheduler has
OURS = frozenset((
    "sampler", "schedule", "sampler_options", "schedule_options", "dialect", "noise_seed", "layout", "stock_class",
))  # fmt: skip


class Adoption(NamedTuple):
    """The arguments of `KSchedScheduler.from_config`, sorted.

    Attributes
    ----------
    known : dict
        Settings of the configuration that are parameters of the constructor.
    changes : dict
        Keywords that are parameters of the constructor.
    hidden : dict
        Settings of the replaced class for which the constructor has no parameter.
    unknown : dict
        Keywords that may be options of the class's own method.
    unused : dict
        Keywords that diffusers passes to everything that it loads.
    keywords : dict
        All other keywords.
    """

    known: dict[str, Any]
    changes: dict[str, Any]
    hidden: dict[str, Any]
    unknown: dict[str, Any]
    unused: dict[str, Any]
    keywords: dict[str, Any]


def adopt(cls: Any, config: Mapping[str, Any], keywords: Mapping[str, Any]) -> Adoption:
    """Sort the entries of a configuration, ksched's or diffusers', and keywords.

    Parameters
    ----------
    cls : object
        Class to construct.
    config, keywords : mapping
        Arguments of ``from_config``.

    Raises
    ------
    TypeError, ValueError
        If the class of the configuration is unknown, or a keyword would have no effect.
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
    """The configuration of a diffusers scheduler, or a copy of its configuration, with its class.

    Parameters
    ----------
    cls : object
        Ksched's class. Its own parameters are kept if the scheduler is an instance of it, and dropped otherwise.
    scheduler : object
        An instance or a configuration.
    """
    config = dict(scheduler if isinstance(scheduler, Mapping) else scheduler.config)
    if not isinstance(scheduler, Mapping):
        config["_class_name"] = type(scheduler).__name__
    if config.get("_class_name") != cls.__name__:
        config = {name: value for name, value in config.items() if name not in OURS}
    return config


def _kept_settings(cls: Any, config: Mapping[str, Any], keywords: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration without values that nobody chose, which the new class fills in again."""
    unchosen = {"_use_default_values", *config.get("_use_default_values", ())}
    foreign = is_foreign(config, cls.__name__)
    kept = adopted(dict(config), keywords) if foreign else dict(config)
    if foreign and "stock_class" not in kept:
        unchosen = {"_use_default_values"}  # there is no known class to fill them in
    return {key: value for key, value in kept.items() if key not in unchosen}


def complete(made: Any, adoption: Adoption, unknown_is_fine: bool) -> dict[str, Any]:
    """Set what the constructor of a new scheduler could not take; return the unused keywords.

    Raises
    ------
    TypeError
        If a keyword is unknown, unless that is allowed.
    ValueError
        If no sampler can represent a setting of the class.
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
    """Fill in values that nobody chose with the defaults of the class that a scheduler replaces.

    They are listed in `_use_default_values`, so they are dropped when the configuration moves to another class.
    """
    stock, parameters = made.config.stock_class, inspect.signature(type(made).__init__).parameters
    unchosen = set(made.config.get("_use_default_values", ())) - chosen
    if stock in CLASSES:
        its = {key: value for key, value in defaults_of(stock).items() if key not in chosen}
        its = {key: value for key, value in its.items() if key in unchosen or key not in parameters}
        made.register_to_config(**its)
        unchosen |= its.keys()
    if "_use_default_values" in made.config:  # otherwise everything was chosen, as in a file
        made.register_to_config(_use_default_values=sorted(unchosen - {"stock_class"}))


def _take_options(
    made: Any, given: Mapping[str, Any], keywords: Mapping[str, Any], unknown_is_fine: bool
) -> dict[str, Any]:
    """Set options of the class's own method if no sampler is named; return, or raise an error for, unknown ones."""
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
        hint = hint or "; neither the sampler nor the schedule has such an option, so leave it out"
        raise TypeError(f"from_config has no parameter {name!r}{hint}")
    return rest


def _options_of_class(configuration: Configuration) -> Set[str]:
    """Options of the sampler that represents a diffusers class; empty if another sampler is named."""
    if configuration.entries.sampler is None and configuration.entries.stock_class is not None:
        with contextlib.suppress(ValueError):  # not every method has a run of ten steps
            return frozenset(sampler_spec(configuration.ten_steps().method.sampler).options)
    return frozenset()


def _merged(
    key: str, given: Mapping[str, Any], config: Mapping[str, Any], options: Mapping[str, Any]
) -> dict[str, Any]:
    """Options given one by one, merged with those given or configured as a dictionary."""
    whole = given.get(key) or {}
    for name, value in options.items():
        if name in whole and whole[name] != value:
            raise ValueError(f"{name} is given twice: {name}={value!r}, and {whole[name]!r} in {key}. Leave one out")
    return {**(whole if key in given else config.get(key) or {}), **options}
