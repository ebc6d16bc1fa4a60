"What a cell cannot test of the package itself: a fresh interpreter."
import subprocess
import sys

import pytest


def python(code: str) -> str:
    "What a fresh interpreter prints."
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout


def test_importing_the_package_never_imports_torch():
    heavy = {"torch", "fastai", "timm", "numpy", "pandas", "matplotlib"}
    loaded = python("import sys, ft_tutorial; dir(ft_tutorial); print(*sys.modules)").split()
    assert not heavy & set(loaded)
    control = python("import sys, ft_tutorial; ft_tutorial.freeze; print(*sys.modules)").split()
    assert {"torch", "fastai"} <= set(control)


def test_every_public_name_is_there():
    import ft_tutorial

    for name in ft_tutorial.__all__:
        assert getattr(ft_tutorial, name) is not None, name
        assert name in dir(ft_tutorial)


def test_an_unknown_name_is_an_attribute_error():
    import ft_tutorial

    with pytest.raises(AttributeError, match="no_such_name"):
        ft_tutorial.no_such_name
