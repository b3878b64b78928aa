# The service with its default model. Needs no network once built.
#   docker build -t solov2 .
#   docker build -t solov2 --build-arg TORCH_INDEX=<index with CPU builds of torch> .
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS build
ARG TORCH_INDEX=""
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/solov2
WORKDIR /src
COPY constraints.txt pyproject.toml README.md LICENSE ./
COPY model model
COPY service service
COPY weights weights
RUN /opt/solov2/bin/pip install ${TORCH_INDEX:+--extra-index-url "${TORCH_INDEX}"} \
        --constraint constraints.txt .

FROM ${BASE}
RUN useradd --create-home --uid 1000 solov2
COPY --from=build /opt/solov2 /opt/solov2
USER solov2
WORKDIR /home/solov2
ENV PATH=/opt/solov2/bin:${PATH} PYTHONUNBUFFERED=1 MALLOC_ARENA_MAX=2
EXPOSE 5001
STOPSIGNAL SIGTERM
HEALTHCHECK --start-period=60s --interval=30s --timeout=3s \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:5001/readyz', timeout=2)"]
CMD ["solov2", "serve"]
