"""The package and its dependencies; everything else about the project is in pyproject.toml."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (ROOT / "sceneparse/__init__.py").read_text()).group(1)

SWEEP = [
    "optuna>=4.9",  # the first one whose retries are named after its heartbeat
    "sqlalchemy",
    "psycopg[binary]",
    # Optuna's estimate of which parameters matter.
    "scikit-learn",
]

EXPORT = ["onnx", "onnxscript", "onnxruntime"]

# The first one whose page was tried: it loads nothing from the internet.
DEMO = ["gradio>=6.31,<7"]

DOCS = ["mkdocs-material"]

setup(
    name="sceneparse",
    version=VERSION,
    description="Scene parsing (semantic segmentation) with strip pooling: exact, readable, fast",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    # The recipes lie at the top of the repository, and inside the package once installed.
    packages=[*find_packages(include=["sceneparse", "sceneparse.*"]), "sceneparse.configs"],
    package_dir={"sceneparse.configs": "configs"},
    package_data={
        "sceneparse": [
            "py.typed",
            "data/formats/shared/*.txt",
            "data/labels/*.csv",
            "data/labels/*.txt",
            "demo/page.css",
            "models/*.json",
            "report/*.html",
        ],
        "sceneparse.configs": ["*.yaml", "study/*.yaml"],
    },
    entry_points={"console_scripts": ["sceneparse = sceneparse.cli.main:main"]},
    python_requires=">=3.10",
    install_requires=[
        # The lowest versions that were tried with the tests, on Python 3.11.
        # Older releases have a hole in weights_only loading.
        "torch>=2.10",
        "torchvision>=0.25",
        # The last MIT release; its successor is AGPL.
        "albumentations==2.0.8",
        # The build that albumentations itself requires: both builds write the same cv2 folder.
        # Since 4.12 it writes PNG without filters.
        "opencv-python-headless>=4.12",
        # Since 1.0.31 it can build RegNets without memory.
        "timm>=1.0.31",
        # The first one for NumPy 2.
        "tensorboard>=2.18",
        "matplotlib>=3.8.4",
        "numpy>=2",
        "scipy>=1.13",
        # Older ones read bands and orientation of TIFF images otherwise.
        "pillow>=11",
        "pyyaml>=6.0.1",
        "pydantic>=2.9.2",
        "safetensors>=0.7",
        "tqdm>=4.66",
        "psutil>=5.9.5",
        # Older ones need os.link, or wait forever on a file system without locks.
        "filelock>=3.31",
        "jinja2>=3.1.3",
        "huggingface_hub>=0.25",
        "pycocotools>=2.0.8",
    ],
    extras_require={
        "sweep": SWEEP,
        "export": EXPORT,
        "demo": DEMO,
        "docs": DOCS,
        "fuzz": ["atheris"],
        "dev": [
            *SWEEP,
            *EXPORT,
            *DEMO,
            *DOCS,
            "pytest",
            "pytest-xdist",
            # Tests build the wheel.
            "setuptools>=77",
            "ruff",
            "mypy",
            "check-jsonschema",
            "types-PyYAML",
            "types-tqdm",
            "scipy-stubs",
            "torchmetrics",
            # Its networks are what benchmarks compare ours with.
            "segmentation-models-pytorch==0.6.*",
            "hypothesis",
            # Tests run the notebooks in examples/.
            "nbclient",
            "ipykernel",
            # Scores and networks of others, with which ours are compared.
            "cityscapesscripts",
            "transformers",
        ],
    },
)
