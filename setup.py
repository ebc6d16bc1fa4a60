"Metadata and requirements from settings.ini; everything else is setuptools' default."
import re
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

root = Path(__file__).parent
config = ConfigParser(delimiters=["="], interpolation=None)
config.read(root / "settings.ini", encoding="utf-8")
settings = config["DEFAULT"]
init = (root / settings["lib_name"] / "__init__.py").read_text(encoding="utf-8")
repository = settings["repository_url"]

setup(
    name=settings["lib_name"],
    version=re.search(r'^__version__ = "(.+)"', init, re.M)[1],
    description=settings["description"],
    long_description=(root / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author=settings["author"],
    license=settings["license"],
    license_files=["LICENSE", "NOTICE"],
    keywords=settings["keywords"].split(", "),
    project_urls={"Repository": repository} if repository else {},
    classifiers=[
        "Intended Audience :: Education",
        "Natural Language :: English",
        "Natural Language :: Japanese",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
    python_requires=">=" + settings["min_python"],
    install_requires=settings["requirements"].split(),
    extras_require={
        "notebooks": settings["notebooks_requirements"].split(),
        "dev": settings["dev_requirements"].split(),
    },
    packages=find_packages(include=[settings["lib_name"]]),
    package_data={settings["lib_name"]: ["data/*/*", "data/*"]},
    entry_points={
        "console_scripts": settings["console_scripts"].split(),
        "nbdev": [f"{settings['lib_name']} = {settings['lib_name']}._modidx:d"],
    },
    zip_safe=False,
)
