# The service with its default model. Once built it needs no network.
#
#   docker build -t solov2 .
#       torch as the package index has it: on x86 the CUDA build, which computes on a CPU as well
#   docker build -t solov2:cpu --target cpu --build-arg TORCH_INDEX=<address> .
#       torch from an index of CPU builds, several times smaller
#
# Both stand on Debian 12, whose Python is that of constraints.txt. To pin it:
#   --build-arg BASE=debian:bookworm-slim@sha256:...
ARG BASE=debian:bookworm-slim

# hadolint ignore=DL3006 # the argument has the tag
FROM ${BASE} AS python
# hadolint ignore=DL3008 # Debian's security updates are wanted; BASE pins the rest
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3 \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/*

# --- what is installed, made where pip is ---------------------------------------------------------

FROM python AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3-venv \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* \
    && python3 -m venv /opt/pip \
    && python3 -m venv --without-pip /opt/solov2
ENV PATH=/opt/pip/bin:${PATH}
WORKDIR /src

# The dependencies alone, so that a change of the code does not install them again.
FROM build AS requirements
COPY constraints.txt pyproject.toml ./
RUN python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["dependencies"], sep="\n")' \
        > requirements.txt

FROM requirements AS requirements-cpu
ARG TORCH_INDEX
RUN : "${TORCH_INDEX:?is not set: --build-arg TORCH_INDEX=ADDRESS of an index with CPU builds of torch}" \
    && pip --python /opt/solov2/bin/python install --no-deps --index-url "${TORCH_INDEX}" \
        --constraint constraints.txt torch torchvision

FROM requirements-cpu AS dependencies-cpu
ARG PACKAGES=""
RUN pip --python /opt/solov2/bin/python install \
        --constraint constraints.txt --requirement requirements.txt ${PACKAGES}

FROM requirements AS dependencies-gpu
# More packages, for example those of the tracing extra.
ARG PACKAGES=""
RUN pip --python /opt/solov2/bin/python install \
        --constraint constraints.txt --requirement requirements.txt ${PACKAGES}

FROM build AS project
COPY pyproject.toml README.md LICENSE ./
COPY model model
COPY service service
COPY weights weights
RUN pip --python /opt/solov2/bin/python install --no-deps --prefix /project .

# --- what is run ----------------------------------------------------------------------------------

FROM python AS runtime
RUN useradd --create-home --uid 1000 solov2
ARG VERSION=0.1.0
ARG REVISION=""
LABEL org.opencontainers.image.title="solov2" \
      org.opencontainers.image.description="SOLOv2 instance segmentation as an Azure ML-style service" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
ENV PATH=/opt/solov2/bin:${PATH} PYTHONUNBUFFERED=1 MALLOC_ARENA_MAX=2
WORKDIR /home/solov2
# A number, so that Kubernetes can tell that it is not root.
USER 1000:1000
EXPOSE 5001
STOPSIGNAL SIGTERM
HEALTHCHECK --start-period=120s --interval=10s --timeout=3s CMD ["python", "-c", \
    "import os, urllib.request as u; u.urlopen(f\"http://127.0.0.1:{os.getenv('SOLOV2_PORT') or 5001}/readyz\", timeout=2)"]
CMD ["solov2", "serve"]

FROM runtime AS cpu
COPY --from=dependencies-cpu /opt/solov2 /opt/solov2
COPY --from=project /project /opt/solov2

FROM runtime AS gpu
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=dependencies-gpu /opt/solov2 /opt/solov2
COPY --from=project /project /opt/solov2
