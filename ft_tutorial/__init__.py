from typing import TYPE_CHECKING

__version__ = "0.1.0"

# Loaded when first used (PEP 562): `import ft_tutorial` and the terms never import torch.
_public = {
    "terms": ["Run", "name_run", "what_if", "look_up", "SCHOOLS", "SOURCES", "CASES", "GLOSSARY"],
    "freezing": ["freeze", "unfreeze", "frozen", "status", "split_by", "Status"],
    "movement": ["moved", "compare", "Movement"],
    "plans": ["plan", "Plan", "Phase"],
    "finetuning": ["fine_tune"],
    "naming": ["describe_run", "Description"],
}
_module_of = {name: module for module, names in _public.items() for name in names}
__all__ = sorted(_module_of)  # pyright: ignore[reportUnsupportedDunderAll]

if TYPE_CHECKING:  # the same names for editors and type checkers, which cannot see what is loaded later
    from .finetuning import fine_tune as fine_tune
    from .freezing import Status as Status, freeze as freeze, frozen as frozen
    from .freezing import split_by as split_by, status as status, unfreeze as unfreeze
    from .movement import Movement as Movement, compare as compare, moved as moved
    from .naming import Description as Description, describe_run as describe_run
    from .plans import Phase as Phase, Plan as Plan, plan as plan
    from .terms import CASES as CASES, GLOSSARY as GLOSSARY, SCHOOLS as SCHOOLS, SOURCES as SOURCES
    from .terms import Run as Run, look_up as look_up, name_run as name_run, what_if as what_if


def __dir__():
    return sorted([*globals(), *__all__])


def __getattr__(name: str):
    if name not in _module_of:
        raise AttributeError(f"module 'ft_tutorial' has no attribute {name!r}")
    from importlib import import_module

    module = _module_of[name]
    if module != "terms":
        from .doctor import unmet  # imports nothing heavy

        if fault := unmet():
            raise ImportError(f"ft_tutorial.{name} cannot be used here: {fault}")
    globals()[name] = value = getattr(import_module(f"{__name__}.{module}"), name)
    return value
