from pathlib import Path
from re import search

from setuptools import find_packages, setup

here = Path(__file__).parent
version = search(r'__version__ = "([^"]+)"', (here / "mysocket/_version.py").read_text(encoding="utf-8"))
assert version, "mysocket/_version.py names no version"

TEST = ["pytest>=8", "pytest-twisted>=1.14", "hypothesis>=6.100", "pytest-xdist>=3.5", "pyte>=0.8"]


def files(*patterns: str) -> list[str]:
    """The files that are there, as setuptools wants them: relative to this one."""
    return sorted(str(path.relative_to(here)) for pattern in patterns for path in here.glob(pattern) if path.is_file())


# Drop-ins have directories of their own.
units = [path for path in sorted((here / "docs/systemd").rglob("*")) if path.is_file()]

setup(
    name="mysocket",
    version=version[1],
    description="Netcat for messages that must arrive: whole, in order, exactly once",
    long_description=(here / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="The MySocket authors",
    license="MIT",
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: Console",
        "Environment :: No Input/Output (Daemon)",
        "Framework :: Twisted",
        "Intended Audience :: Developers",
        "Intended Audience :: System Administrators",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: System :: Networking",
        "Typing :: Typed",
    ],
    keywords="netcat message delivery exactly-once twisted tcp udp",
    python_requires=">=3.11",
    install_requires=[
        "twisted>=24.10",
        "lmdb>=1.4",
        "xxhash>=3.4",
        "prompt_toolkit>=3.0.43",
        "wcwidth>=0.4",
        "prometheus_client>=0.20",
    ],
    extras_require={"test": TEST, "dev": [*TEST, "coverage", "tox"]},
    # find_packages misses twisted.plugins, which has no __init__.py and must not have one.
    packages=[*find_packages(include=["mysocket", "mysocket.*"]), "twisted.plugins"],
    # Without it setuptools installs "pip install -e ." by an import hook, and Twisted, which scans sys.path, finds no plugin.
    package_dir={"": "."},
    package_data={"mysocket": ["py.typed"]},
    # Below the prefix of the environment, where man and the shells look when its bin is in the PATH, or are told to (README.md).
    data_files=[
        ("share/man/man1", files("docs/man/*.1")),
        ("share/bash-completion/completions", files("docs/completions/mysocket")),
        ("share/zsh/site-functions", files("docs/completions/_mysocket")),
        ("share/fish/vendor_completions.d", files("docs/completions/*.fish")),
        ("share/doc/mysocket", files("README.md", "NEWS.md", "docs/*.md")),
        *((f"share/doc/mysocket/{unit.parent.relative_to(here / 'docs')}", files(str(unit.relative_to(here)))) for unit in units),
    ],
    entry_points={"console_scripts": ["mysocket=mysocket.cli:main"]},
    zip_safe=False,
)
