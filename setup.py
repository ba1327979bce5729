from pathlib import Path

from setuptools import find_packages, setup

PACKAGES = ("evosearch", "compress", "baselines", "bench")
DOCS = ["mkdocs-material>=9.7", "mkdocstrings[python]>=1.0", "mkdocs-click>=0.9"]
EDGE = ["onnxruntime>=1.22", "onnx>=1.18", "onnxscript>=0.5.6"]

setup(
    name="evocomp",
    version="0.1.0",
    description="Visual-token compression for multimodal LLMs: search, learn, compare, measure",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="The evocomp authors",
    project_urls={"Paper": "https://arxiv.org/abs/2604.17087"},
    keywords="multimodal, visual tokens, token pruning, genetic search, vision-language models",
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    py_modules=["evocomp"],
    packages=find_packages(include=[pattern for name in PACKAGES for pattern in (name, f"{name}.*")]),
    package_data={
        **{package: ["py.typed"] for package in PACKAGES},
        "compress.micro": ["weights/**/*"],
        "bench": [
            "py.typed",
            "shipped/**/*",
            "fidelity/golden/*.npz",
            "report/*.j2",
            "report/*.json",
            "recipe/*.yaml",
            "recipe/*.json",
            "data/*.yaml",
        ],  # fmt: skip
    },
    entry_points={
        "console_scripts": ["evocomp = evocomp:main"],
        "lmms_eval.models": ["evocomp = bench.lmms:manifests"],
        "vllm.general_plugins": ["evocomp = bench.serving.plugin:register"],
    },
    install_requires=[
        # Compression happens in hooks between decoder layers, on their private arguments, masks and caches: a
        # release is admitted after the suite has passed on it. Before 5.17 transformers hands out M-RoPE
        # tables of another shape.
        "torch>=2.11,<2.14",
        "transformers>=5.17,<6",
        "accelerate>=1.10",  # one training in several processes
        "psutil>=5.9",
        "huggingface_hub>=1.31",
        "httpx2>=2.16",
        "tokenizers>=0.22",
        "safetensors>=0.5",
        "numpy>=2.0",
        "scipy>=1.13",
        "scikit-learn>=1.5",
        "deap>=1.4.1",
        "threadpoolctl>=3.5",
        "pyarrow>=17",
        "Pillow>=11",
        "matplotlib>=3.9",
        "Jinja2>=3.1",
        "PyYAML>=6.0",
        "pydantic>=2.11",
        "click>=8.1.8",
        "packaging>=24",
        "rich>=13.9",
    ],
    extras_require={
        "gpu": ["nvidia-ml-py>=12.560"],  # energy, clocks and driver for evocomp bench latency
        "video": ["av>=14"],  # video files; folders of pictures and moving pictures need nothing
        "hub": ["datasets>=3.0"],  # evocomp eval --data hub:lmms-lab
        "edge": EDGE,  # evocomp bench edge
        # evocomp bench edge --runtimes llamacpp: is compiled when it is installed, and its C interface moves.
        "llamacpp": [*EDGE, "llama-cpp-python>=0.3.36,<0.4", "gguf>=0.17"],
        "app": ["gradio>=6"],  # evocomp app
        "browser": ["playwright>=1.50"],  # tests of the report's page and the app in a Chromium
        "ray": ["ray>=2.44"],  # evocomp label --engine ray
        # lmms-eval eval --model evocomp; 0.7 imports filelock._api, which filelock 4.3 does not have
        "lmms": ["lmms_eval>=0.7.1,<0.8", "filelock<4.3"],
        "vllm": ["vllm>=0.32,<0.33"],  # its plug-in for GPUs; for CPUs see tests/serving/environment.sh
        "docs": DOCS,  # make docs
        "benchmark": ["pymoo>=0.6.1"],  # python -m bench.speed.engine
        "dev": [
            *EDGE,
            *DOCS,
            "av>=18",
            "pytest>=8.3",
            "pytest-timeout>=2.3",
            "pytest-xdist>=3.6",
            "ruff>=0.9",
            "mypy>=1.15",
            "types-PyYAML>=6.0",
            "ray>=2.44",
        ],
    },
)
