"Metadata and requirements from settings.ini; everything else is setuptools' default."
import re
from configparser import ConfigParser
from pathlib import Path

from setuptools import setup

root = Path(__file__).parent
config = ConfigParser(delimiters=["="], interpolation=None)
config.read(root / "settings.ini", encoding="utf-8")
settings = config["DEFAULT"]
package = settings["lib_name"]
init = (root / package / "__init__.py").read_text(encoding="utf-8")
repository = settings["repository_url"].rstrip("/")


def readme() -> str:
    "The README as a package index shows it: its relative links lead to the repository, or are plain text."
    text = (root / "README.md").read_text(encoding="utf-8")
    picture, link = (r"\1", r"\1") if not repository else (
        rf"![\1]({repository}/raw/main/\2)", rf"[\1]({repository}/blob/main/\2)")
    text = re.sub(r"!\[([^]]*)\]\((?!\w+:)([^)]+)\)", picture, text)
    return re.sub(r"(?<!!)\[([^]]*)\]\((?!\w+:)([^)#]+)[^)]*\)", link, text)


setup(
    name=package,
    version=re.search(r'^__version__ = "(.+)"', init, re.M)[1],
    description=settings["description"],
    long_description=readme(),
    long_description_content_type="text/markdown",
    author=settings["author"],
    license_expression=settings["license"],
    license_files=["LICENSE", "NOTICE"],
    keywords=settings["keywords"].split(", "),
    project_urls={"Repository": repository} if repository else {},
    classifiers=[
        "Development Status :: 4 - Beta",
        "Framework :: Jupyter",
        "Intended Audience :: Developers",
        "Intended Audience :: Education",
        "Intended Audience :: Science/Research",
        "Natural Language :: English",
        "Natural Language :: Japanese",
        "Programming Language :: Python :: 3",
        *(f"Programming Language :: Python :: {version}" for version in settings["python_versions"].split()),
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
    python_requires=">=" + settings["min_python"],
    install_requires=settings["requirements"].split(),
    extras_require={
        "notebooks": settings["notebooks_requirements"].split(),
        "dev": settings["dev_requirements"].split(),
    },
    # The notebooks lie in the package as `notebooks`, so that `ft_tutorial lab` finds them in every install.
    packages=[package, f"{package}.notebooks"],
    package_dir={f"{package}.notebooks": "nbs"},
    package_data={package: ["py.typed", "data/*/*"],
                  f"{package}.notebooks": ["*.ipynb", "ja/*.ipynb", "results/*.csv"]},
    include_package_data=False,
    entry_points={
        "console_scripts": settings["console_scripts"].split(),
        "nbdev": [f"{package} = {package}._modidx:d"],
    },
    zip_safe=False,
)
