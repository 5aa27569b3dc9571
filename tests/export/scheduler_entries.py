"""The entries that diffusers' schedulers take, by the classes themselves."""

import inspect

import diffusers


def accepted(name):
    """Returns the entries of a class of diffusers, and what it means by leaving them out."""
    parameters = inspect.signature(getattr(diffusers, name).__init__).parameters
    return {key: parameter.default for key, parameter in parameters.items() if key != "self"}
