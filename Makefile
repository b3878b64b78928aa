PYTHON ?= python3
BIN := .venv/bin

.PHONY: serve test test-browser test-ray test-long check check-deployments format bench-model \
        bench-variants bench-levers bench-fine-tuning bench-http fuzz soak audit image try-image picture clean

serve: .venv/runtime  ## the service on port 5001, with the model in weights/
	$(BIN)/solov2 serve

test: .venv/development  ## the whole suite, offline, on up to four processors
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal

test-browser: .venv/browser  ## the page in an installed Chromium
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m browser

test-ray: .venv/ray  ## Ray Serve and Ray Data on clusters of this machine's processes
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m cluster tests/service/cluster

test-long: .venv/development  ## training to the end, which takes minutes
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m long

check: .venv/development  ## style, types, who may import whom, the Dockerfile
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/hadolint Dockerfile

check-deployments: .venv/development .venv-deployments/ready  ## docker/, by Azure's SDK and by KEDA's models too
	SOLOV2_DEPLOYMENTS_PYTHON=.venv-deployments/bin/python $(BIN)/python -m pytest tests/docker

audit: .venv/runtime .venv-audit/ready  ## sbom.json of what is installed, and its known vulnerabilities
	.venv-audit/bin/cyclonedx-py environment .venv --output-file sbom.json
	.venv-audit/bin/pip-audit --skip-editable --path .venv/lib/python3*/site-packages

format: .venv/development
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench-model: .venv/runtime  ## milliseconds by stage of the shipped model
	$(BIN)/solov2 benchmark model tests/photos/astronaut.jpg

bench-variants: .venv/development  ## seconds per photo of each official network
	PYTHONPATH=.:tests $(BIN)/python tests/benchmark_variants.py

bench-levers: .venv/development  ## what each change to the plain network brings on a CPU
	PYTHONPATH=.:tests $(BIN)/python tests/benchmark_levers.py $(LEVERS)

bench-fine-tuning: .venv/development  ## mask AP on a class drawn into PHOTOS, a folder, and the time it takes
	PYTHONPATH=.:tests $(BIN)/python tests/benchmark_fine_tuning.py $(PHOTOS) runs/balloons

bench-http: .venv/bench  ## images/s and latency of the model behind this and other servers
	PYTHONPATH=.:tests $(BIN)/python tests/benchmark_http.py

fuzz: .venv/development  ## 10,000 random requests of each kind
	FUZZ_EXAMPLES=10000 OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/service/test_fuzz.py

soak: .venv/development  ## 10,000 requests, a tenth of them broken off, and three killed workers
	PYTHONPATH=.:tests $(BIN)/python tests/soak.py

ENGINE ?= docker
TARGET ?= gpu
IMAGE ?= solov2:$(TARGET)
#: More options of the build: --build-arg TORCH_INDEX=..., --build-arg BASE=...
BUILD ?=

image:  ## TARGET=gpu, or TARGET=cpu BUILD="--build-arg TORCH_INDEX=..."; ENGINE=podman works too
	$(ENGINE) build --target $(TARGET) --tag $(IMAGE) $(BUILD) .

try-image:  ## starts the image with nothing it does not need, and scores a photo
	ENGINE="$(ENGINE)" docker/try_image $(IMAGE) tests/photos/astronaut.jpg

picture:  ## docs/architecture.svg from its text; needs graphviz
	dot -Tsvg docs/architecture.dot -o docs/architecture.svg

clean:
	rm -rf .venv .venv-deployments .venv-audit

.venv/runtime: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; set PYTHON=")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	touch $@

.venv/development: .venv/runtime
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --group dev
	touch $@

.venv/browser: .venv/development
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --group browser
	touch $@

.venv/bench: .venv/runtime
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --group bench
	touch $@

.venv/ray: .venv/development
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --group ray
	touch $@

.venv-%/ready: pyproject.toml  # an environment of its own for a group of pyproject.toml
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --upgrade "pip>=25.1"
	$(@D)/bin/python -m pip install --quiet --group $*
	touch $@
