"Run by `run_tests.py` in an environment that has the built wheel and no torch."
import importlib.util
import sys

import ft_tutorial

assert importlib.util.find_spec("torch") is None, "this environment was to have no torch"
assert "site-packages" in ft_tutorial.__file__, ft_tutorial.__file__
assert {"freeze", "unfreeze", "fine_tune", *ft_tutorial.__all__} <= set(dir(ft_tutorial))
verdicts = ft_tutorial.name_run(ft_tutorial.Run())
assert verdicts["plain"].fine_tuning, "the terms work without torch"
try:
    from ft_tutorial import freeze
except ImportError as error:
    assert "pip install" in str(error), error
else:
    raise AssertionError(f"{freeze} was imported without torch")
try:
    ft_tutorial.no_such_name
except AttributeError as error:
    assert "no_such_name" in str(error)
assert not {"torch", "fastai", "numpy"} & set(sys.modules)
